//! Asking the node's Mesos agent which containers it runs, and the kernel what tells their processes apart.
//!
//! There is no stream of task events: the agent is asked when a container directory comes or goes, and again as long as somebody waits.
//! What was said last holds while it does not answer.

mod api;

use crate::cgroup;
use crate::core::enrol::host::{Mark, Task};
use crate::core::mesos::{self, Container, Identity, Owner, State};
use crate::core::resources::Workload;
use crate::netns;
use anyhow::{Context, Result, bail};
pub(crate) use api::Address;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// Between two questions, however many wait: Mesos collects usage of every container for each.
const PAUSE: Duration = Duration::from_millis(200);
/// After a question that was not answered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(2);
/// The question for all outermost containers.
const CONTAINERS: &str = r#"{"type":"GET_CONTAINERS","get_containers":{"show_nested":false,"show_standalone":true}}"#;
/// The question for the labels of tasks.
const STATE: &str = r#"{"type":"GET_STATE"}"#;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was said last; `None` before the first answer.
pub(crate) type Said = Option<Arc<Vec<Task>>>;

impl Address {
    /// Who a container is that has been made and does not run yet; `None` if it is no executor's. What Mesos does not list yet is an error:
    /// nobody knows whether it asks for the mesh.
    pub(crate) async fn identify(&self, container: &str) -> Result<Option<Identity>> {
        let ask = async {
            let executor = match mesos::owner(&self.call(CONTAINERS).await?, container)? {
                Some(Owner::Executor(executor)) => executor,
                Some(Owner::Nobody) => return Ok(None),
                None => bail!("it lists no such container"),
            };
            let identity = mesos::identity(&self.call(STATE).await?, &executor)?;
            identity.map(Some).with_context(|| format!("it lists no task of the executor {executor}"))
        };
        tokio::time::timeout(PATIENCE, ask).await.context("no answer in time").flatten()
    }
}

/// Who containers are, by Mesos' ids of them.
type Identities = BTreeMap<String, Identity>;

/// The one who asks.
pub(crate) struct Asker {
    pub(crate) address: Address,
    /// Of this node.
    pub(crate) node: IpAddr,
    /// Mesos' runtime directory.
    pub(crate) runtime_dir: PathBuf,
    /// Where the programs are attached, and how deep that lies in the machine's tree.
    pub(crate) cgroup_root: PathBuf,
    pub(crate) depth: u32,
    pub(crate) said: watch::Sender<Said>,
    /// Rung when there is reason to ask.
    pub(crate) bell: Arc<Notify>,
}

impl Asker {
    /// Asks whenever the bell is rung, for ever.
    pub(crate) async fn run(self) {
        let (mut failed, mut identities) = (false, Identities::new());
        loop {
            self.bell.notified().await;
            match tokio::time::timeout(PATIENCE, self.ask(&mut identities)).await.context("no answer in time").flatten() {
                Ok(containers) => {
                    if std::mem::take(&mut failed) {
                        info!(agent = self.address.authority(), "the Mesos agent answers again");
                    }
                    let tasks = Arc::new(tokio::task::block_in_place(|| self.resolve(containers, &identities)));
                    self.said.send_if_modified(|said| {
                        let changed = said.as_ref() != Some(&tasks);
                        *said = Some(tasks);
                        changed
                    });
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        let error = format!("{error:#}");
                        warn!(agent = self.address.authority(), error, "the Mesos agent cannot be asked (--mesos-agent)");
                    }
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    /// All containers; and who those are that have not been seen before.
    async fn ask(&self, identities: &mut Identities) -> Result<Vec<Container>> {
        let containers = mesos::containers(&self.address.call(CONTAINERS).await?)?;
        identities.retain(|id, _| containers.iter().any(|container| container.id == *id));
        let unknown: Vec<_> = containers.iter().filter(|container| !identities.contains_key(&container.id)).collect();
        if !unknown.is_empty() {
            let state: State = serde_json::from_slice(&self.address.call(STATE).await?)?;
            let known = unknown.iter().filter_map(|container| Some((container.id.clone(), state.identity(&container.executor)?)));
            identities.extend(known);
        }
        Ok(containers)
    }

    fn resolve(&self, containers: Vec<Container>, identities: &Identities) -> Vec<Task> {
        let own = netns::identity(Path::new("/proc/self/ns/net")).ok();
        let task = |container: Container| {
            let identity = identities.get(&container.id);
            let mut task = self.task(container);
            let network = task.pid.and_then(|pid| netns::identity(&PathBuf::from(format!("/proc/{pid}/ns/net"))).ok());
            let on_host = network.is_some() && network == own;
            task.coming = identity.filter(|identity| on_host && identity.wishes()).map(|identity| {
                let node = self.node.to_string();
                Box::new(Workload { node, enrol: true, host_network: true, ..identity.workload() })
            });
            task
        };
        containers.into_iter().map(task).collect()
    }

    fn task(&self, container: Container) -> Task {
        // Mesos' own file is there before Mesos says so; Docker's containers have none.
        let file = self.runtime_dir.join("containers").join(&container.id).join("pid");
        let filed = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        let pid = filed.or(container.pid);
        let mut marks = BTreeSet::new();
        marks.extend(pid.and_then(|pid| cgroup_of(pid, &container.id, &self.cgroup_root, self.depth)));
        if cgroup::has_classes() {
            marks.extend(container.class.map(Mark::Class));
        }
        Task { container: container.id, instance: container.instance, pid, marks, coming: None }
    }
}

/// The cgroup that is this container's alone.
fn cgroup_of(pid: u32, container: &str, root: &Path, depth: u32) -> Option<Mark> {
    let path = cgroup::path_of(pid)?;
    let own = mesos::own_cgroup(&path, container)?;
    let directory = cgroup::mount_of(root).join(own.trim_start_matches('/'));
    let below = directory.strip_prefix(root).ok()?.components().count();
    let id = cgroup::id(&directory).ok()?;
    Some(Mark::Cgroup { id, level: depth + u32::try_from(below).ok()? })
}
