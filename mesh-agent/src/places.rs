//! Where tasks run: Mesos' runtime directory and its agent's word lead to processes, processes to network namespaces.

use crate::core::enrol::Place;
use crate::core::enrol::host::Task;
use crate::netns::{self, Namespace};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Addresses are read again after this time; an empty list at once, since the container is still being set up.
const ADDRESSES_MAX_AGE: Duration = Duration::from_secs(5);

/// The namespaces with tasks, as of the last [`Places::scan`].
#[derive(Debug)]
pub struct Places {
    containers: PathBuf,
    own: (u64, u64),
    // By device and inode. The handle keeps the inode from being used again while it is a key here.
    found: BTreeMap<(u64, u64), Found>,
    /// Namespaces in which nothing runs yet, by Mesos' id of the container.
    announced: BTreeMap<String, Found>,
}

#[derive(Debug)]
struct Found {
    namespace: Namespace,
    place: Place,
    read: Instant,
}

impl Places {
    /// Tasks below this Mesos runtime directory. What lives in this process's own namespace is the host network, and is skipped.
    ///
    /// # Errors
    /// If /proc is not mounted.
    pub fn new(runtime_dir: &Path) -> io::Result<Self> {
        let own = netns::identity(Path::new("/proc/self/ns/net"))?;
        Ok(Self { containers: runtime_dir.join("containers"), own, found: BTreeMap::new(), announced: BTreeMap::new() })
    }

    /// The directory that holds one directory for each container.
    #[must_use]
    pub fn containers(&self) -> &Path {
        &self.containers
    }

    /// Looks again. A container that is half set up, or ends meanwhile, is not there.
    pub fn scan(&mut self, now: Instant, said: &[Task]) -> Vec<Place> {
        let mut found: BTreeMap<(u64, u64), Found> = BTreeMap::new();
        let said: BTreeMap<u32, &str> = said.iter().filter_map(|task| Some((task.pid?, task.instance.as_str()))).collect();
        let files = self.pids();
        for pid in files.iter().chain(said.keys().filter(|pid| !files.contains(pid))) {
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let Ok(identity) = netns::identity(&path) else { continue };
            let instance = said.get(pid).map(|instance| (*instance).to_owned()).or_else(|| self.instance_of(identity));
            if let Some(entry) = found.get_mut(&identity) {
                entry.place.instance = entry.place.instance.take().or(instance);
                continue;
            }
            if identity == self.own {
                continue;
            }
            let known =
                self.found.remove(&identity).filter(|f| !f.place.addresses.is_empty() && now < f.read + ADDRESSES_MAX_AGE);
            let mut entry = match known {
                Some(entry) => entry,
                None => match look(&path, identity, now) {
                    Ok(entry) => entry,
                    Err(error) => {
                        tracing::debug!(pid, %error, "cannot look into a container's network namespace");
                        continue;
                    }
                },
            };
            entry.place.instance = instance;
            found.insert(identity, entry);
        }
        self.found = found;
        // What runs is known by its processes, and ends with them.
        let runs = |f: &Found| self.found.values().any(|known| known.place.cookie == f.place.cookie);
        self.announced.retain(|_, f| !runs(f));
        // A process that has not entered its container's namespace yet is no sign of the container, whoever it is said to be.
        for f in self.found.values_mut().filter(|f| f.place.instance.is_some()) {
            if self.announced.values().any(|coming| coming.place.instance == f.place.instance) {
                f.place.instance = None;
            }
        }
        self.all().map(|f| f.place.clone()).collect()
    }

    /// A container whose network is there and in which nothing runs yet.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or is the node's own.
    pub fn announce(
        &mut self,
        container: &str,
        instance: &str,
        namespace: Namespace,
        addresses: &[IpAddr],
        now: Instant,
    ) -> io::Result<()> {
        if namespace.identity()? == self.own {
            return Err(io::Error::other("it is the node's own network"));
        }
        let mut all = namespace.addresses()?;
        // What the plugin before us has said comes first, and is there also where the interface is not up yet.
        all.retain(|ip| !addresses.contains(ip));
        let addresses = addresses.iter().copied().chain(all).collect();
        let place = Place { cookie: namespace.cookie()?, instance: Some(instance.to_owned()), addresses };
        self.announced.insert(container.to_owned(), Found { namespace, place, read: now });
        Ok(())
    }

    /// It has ended, or never began.
    pub fn dismiss(&mut self, container: &str) {
        self.announced.remove(container);
    }

    /// Whose it was at the last look, or is by its CNI plugin's word. A namespace is one container's from its beginning to its end, so that
    /// holds also while Mesos has not told of the process, nor Marathon of an address.
    fn instance_of(&self, identity: (u64, u64)) -> Option<String> {
        let announced = self.announced.values().find(|f| f.namespace.identity().is_ok_and(|of| of == identity));
        self.found.get(&identity).or(announced)?.place.instance.clone()
    }

    /// What runs, and what is announced and does not run yet.
    fn all(&self) -> impl Iterator<Item = &Found> {
        self.found.values().chain(self.announced.values())
    }

    /// The namespace with this cookie.
    #[must_use]
    pub fn namespace(&self, cookie: u64) -> Option<Namespace> {
        self.all().find(|f| f.place.cookie == cookie).map(|f| f.namespace.clone())
    }

    /// All of them, in the mesh or not, and the node's own.
    pub fn namespaces(&self) -> Vec<Namespace> {
        let own = Namespace::open(Path::new("/proc/self/ns/net")).ok();
        self.all().map(|f| f.namespace.clone()).chain(own).collect()
    }

    /// `containers/ID/pid`. Nested containers share their parent's namespace, so only the outermost count.
    fn pids(&self) -> Vec<u32> {
        let Ok(dirs) = fs::read_dir(&self.containers) else { return Vec::new() };
        let pid = |dir: fs::DirEntry| fs::read_to_string(dir.path().join("pid")).ok()?.trim().parse().ok();
        dirs.flatten().filter_map(pid).collect()
    }
}

fn look(path: &Path, identity: (u64, u64), now: Instant) -> io::Result<Found> {
    let namespace = Namespace::open(path)?;
    if namespace.identity()? != identity {
        // The process has ended, and another has its number.
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    let place = Place { cookie: namespace.cookie()?, instance: None, addresses: namespace.addresses()? };
    Ok(Found { namespace, place, read: now })
}
