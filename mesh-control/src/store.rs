//! The objects that the API holds: on disk in one redb file, in memory for reading, and as the typed configuration for the compiler.
//!
//! One writer at a time. A write that returned has been synced to disk (redb, `Durability::Immediate`) and survives `kill -9`. The version
//! counter is one for all objects and never goes back. The API calls this; the compiler only watches `config()`.

pub(crate) mod backup;
mod disk;
mod history;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;

use crate::config_map;
use crate::core::wish;
use crate::istio::{self, Config, Kind, Problems};
use crate::secret::Secret;
pub(crate) use disk::StoreError;
pub(crate) use history::{Event, EventType, Expired};

/// The largest object, as JSON. etcd takes 1.5 MiB; a route table that large would not be reviewed by anybody.
pub(crate) const MAX_OBJECT_BYTES: usize = 256 * 1024;
/// The most objects: every one is kept in memory, parsed.
pub(crate) const MAX_OBJECTS: usize = 10_000;
/// Namespaces that are always there.
pub(crate) const NAMESPACES: [&str; 3] = ["default", "istio-system", "kube-system"];

/// What sort of object.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Collection {
    ConfigMaps,
    Namespaces,
    Secrets,
    Istio(Kind),
}

impl Collection {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::ConfigMaps,
        Self::Namespaces,
        Self::Secrets,
        Self::Istio(Kind::DestinationPolicy),
        Self::Istio(Kind::DestinationRule),
        Self::Istio(Kind::Gateway),
        Self::Istio(Kind::ServiceEntry),
        Self::Istio(Kind::VirtualService),
    ];

    /// The resource in paths, on disk, and in messages.
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::ConfigMaps => "configmaps",
            Self::Namespaces => "namespaces",
            Self::Secrets => "secrets",
            Self::Istio(kind) => kind.plural(),
        }
    }
}

/// The identity of an object. `namespace` is empty for namespaces themselves.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    pub(crate) collection: Collection,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    /// The identity of a namespace.
    pub(crate) fn namespace(name: &str) -> Self {
        Self { collection: Collection::Namespaces, namespace: String::new(), name: name.to_owned() }
    }
}

/// An object as stored: JSON with `metadata.resourceVersion` filled in.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) key: Key,
    pub(crate) version: u64,
    /// The version of the last write by a client: those of its status are newer, and change nothing that is compiled.
    pub(crate) written: u64,
    pub(crate) bytes: usize,
    pub(crate) object: Value,
}

/// What one write does to one object.
#[derive(Debug)]
pub(crate) enum Change {
    Put(Key, Value),
    Delete(Key),
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    objects: BTreeMap<Key, Arc<Stored>>,
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disk: Mutex<disk::Disk>,
    state: RwLock<State>,
    history: RwLock<history::History>,
    head: watch::Sender<u64>,
    config: watch::Sender<Arc<Config>>,
}

impl Store {
    /// Opens the file, or makes it with the namespaces that are always there.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let (disk, version, loaded) = disk::Disk::open(path)?;
        let mut config = Config::default();
        let mut objects = BTreeMap::new();
        for stored in loaded {
            if let Err(problems) = add(&mut config, &stored) {
                // Written by another version of this program. It stays readable and deletable; it has no effect, and that is said.
                let Key { collection, namespace, name } = &stored.key;
                tracing::error!(resource = collection.plural(), namespace, name, %problems,
                    "a stored object is not valid in this version and has no effect");
            }
            objects.insert(stored.key.clone(), Arc::new(stored));
        }
        config.sort();
        config.version = version;
        let store = Self(Arc::new(Shared {
            disk: Mutex::new(disk),
            state: RwLock::new(State { version, objects }),
            history: RwLock::new(history::History::starting_at(version)),
            head: watch::Sender::new(version),
            config: watch::Sender::new(Arc::new(config)),
        }));
        for name in NAMESPACES {
            let key = Key::namespace(name);
            if store.get(&key).is_none() {
                let namespace = new_namespace(name, jiff::Timestamp::now());
                store.write(false, |_| Ok::<_, StoreError>(vec![Change::Put(key, namespace)]))?;
            }
        }
        Ok(store)
    }

    /// The configuration in force, and every later one.
    pub(crate) fn config(&self) -> watch::Receiver<Arc<Config>> {
        self.0.config.subscribe()
    }

    /// The version of the newest write.
    pub(crate) fn version(&self) -> u64 {
        self.0.state.read().version
    }

    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.0.state.read().objects.get(key).cloned()
    }

    /// The objects of a collection in the order of their keys, beginning after `after`, with the version they are of.
    pub(crate) fn list(&self, collection: Collection, namespace: Option<&str>, after: Option<&Key>) -> (u64, Vec<Arc<Stored>>) {
        let state = self.0.state.read();
        let first = Key { collection, namespace: namespace.unwrap_or_default().to_owned(), name: String::new() };
        let start = after.filter(|key| **key > first).map_or(Bound::Included(&first), Bound::Excluded);
        let objects = state
            .objects
            .range((start, Bound::Unbounded))
            .map(|(_, stored)| stored)
            .take_while(|s| s.key.collection == collection && namespace.is_none_or(|n| n == s.key.namespace))
            .cloned()
            .collect();
        (state.version, objects)
    }

    /// Decides on and performs one write. `decide` sees the objects as they are and no other write comes between; what it returns is
    /// applied as one transaction, or only checked if `dry_run`. Returns what was put, in order, and for deletions what was there.
    ///
    /// Blocks on the disk: call it from a blocking thread.
    pub(crate) fn write<E: From<StoreError>>(
        &self,
        dry_run: bool,
        decide: impl FnOnce(&View<'_>) -> Result<Vec<Change>, E>,
    ) -> Result<Vec<Arc<Stored>>, E> {
        let mut disk = self.0.disk.lock();
        let (mut version, changes, mut count) = {
            let state = self.0.state.read();
            (state.version, decide(&View(&state.objects))?, state.objects.len())
        };
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            version += 1;
            let event = self.event(change, version)?;
            match event.kind {
                EventType::Added => count += 1,
                EventType::Deleted => count -= 1,
                EventType::Modified => {}
            }
            if event.kind == EventType::Added && count > MAX_OBJECTS {
                return Err(StoreError::TooManyObjects.into());
            }
            events.push(event);
        }
        let written = events.iter().map(|event| Arc::clone(&event.stored)).collect();
        if !dry_run && !events.is_empty() {
            disk.commit(&events, version)?;
            self.publish(events, version);
        }
        Ok(written)
    }

    /// Writes what is to be known of objects into their `status`, as one transaction: those that a client has written since (`written` is
    /// not theirs any more) are left out, and what is compiled stays. Blocks on the disk.
    pub(crate) fn put_status(&self, statuses: Vec<(Key, u64, Value)>) -> Result<(), StoreError> {
        let mut disk = self.0.disk.lock();
        let mut version = self.version();
        let mut events = Vec::with_capacity(statuses.len());
        for (key, written, status) in statuses {
            let Some(previous) = self.get(&key).filter(|stored| stored.written == written) else { continue };
            version += 1;
            let mut object = previous.object.clone();
            object["status"] = status;
            object["metadata"]["resourceVersion"] = Value::String(version.to_string());
            let bytes = object.to_string().len();
            let stored = Arc::new(Stored { key, version, written, bytes, object });
            events.push(Event { kind: EventType::Modified, version, stored, previous: Some(previous) });
        }
        if !events.is_empty() {
            disk.commit(&events, version)?;
            self.publish(events, version);
        }
        Ok(())
    }

    /// Gives a change its version and compares it with what is there.
    fn event(&self, change: Change, version: u64) -> Result<Event, StoreError> {
        let (key, object, deleted) = match change {
            Change::Put(key, object) => (key, object, false),
            Change::Delete(key) => {
                let object = self.get(&key).map_or(Value::Null, |stored| stored.object.clone());
                (key, object, true)
            }
        };
        let previous = self.get(&key);
        let mut object = object;
        object["metadata"]["resourceVersion"] = Value::String(version.to_string());
        let bytes = object.to_string().len();
        if bytes > MAX_OBJECT_BYTES && !deleted {
            return Err(StoreError::TooLarge { bytes });
        }
        let kind = match (deleted, &previous) {
            (true, _) => EventType::Deleted,
            (false, Some(_)) => EventType::Modified,
            (false, None) => EventType::Added,
        };
        Ok(Event { kind, version, stored: Arc::new(Stored { key, version, written: version, bytes, object }), previous })
    }

    /// Makes durable events visible: to readers, then to the compiler, then to watchers.
    fn publish(&self, events: Vec<Event>, version: u64) {
        let mut config = None;
        {
            let mut state = self.0.state.write();
            let mut history = self.0.history.write();
            state.version = version;
            for event in events {
                let key = &event.stored.key;
                match event.kind {
                    EventType::Deleted => drop(state.objects.remove(key)),
                    EventType::Added | EventType::Modified => drop(state.objects.insert(key.clone(), Arc::clone(&event.stored))),
                }
                // A status is ours, not the user's, and not compiled.
                if event.stored.written == event.version && concerns_config(&event) {
                    let config = config.get_or_insert_with(|| Config::clone(&self.0.config.borrow()));
                    replace(config, &event);
                }
                history.push(event);
            }
        }
        if let Some(mut config) = config {
            config.sort();
            config.version = version;
            self.0.config.send_replace(Arc::new(config));
        }
        self.0.head.send_replace(version);
    }

    /// Who has which VIP, as [`Self::keep_vips`] was told last.
    pub(crate) fn vips(&self) -> Result<Vec<(IpAddr, String)>, StoreError> {
        self.0.disk.lock().vips()
    }

    /// Remembers who has which VIP. Blocks on the disk.
    pub(crate) fn keep_vips(&self, vips: impl Iterator<Item = (IpAddr, String)>) -> Result<(), StoreError> {
        self.0.disk.lock().keep_vips(vips)
    }

    /// Events after `version`, oldest first; `Expired` if they are forgotten.
    pub(crate) fn since(&self, version: u64) -> Result<Vec<Event>, Expired> {
        self.0.history.read().since(version)
    }

    /// Wakes at every write.
    pub(crate) fn head(&self) -> watch::Receiver<u64> {
        self.0.head.subscribe()
    }
}

/// What a write's decision may look at.
#[derive(Debug)]
pub(crate) struct View<'a>(&'a BTreeMap<Key, Arc<Stored>>);

impl View<'_> {
    /// One object.
    pub(crate) fn get(&self, key: &Key) -> Option<&Stored> {
        self.0.get(key).map(Arc::as_ref)
    }

    /// Everything in a namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Key> {
        self.0.keys().filter(|key| key.namespace == namespace).cloned().collect()
    }
}

/// Of namespaces the compiler sees one label.
fn concerns_config(event: &Event) -> bool {
    let before = event.previous.as_deref().and_then(injection_of);
    let after = if event.kind == EventType::Deleted { None } else { injection_of(&event.stored) };
    event.stored.key.collection != Collection::Namespaces || before != after
}

fn injection_of(namespace: &Stored) -> Option<bool> {
    wish::injection(namespace.object["metadata"]["labels"][wish::INJECTION].as_str())
}

fn add(config: &mut Config, stored: &Stored) -> Result<(), Problems> {
    let Key { collection, namespace, name } = &stored.key;
    match collection {
        Collection::Namespaces => config.injection.extend(injection_of(stored).map(|says| (name.clone(), says))),
        Collection::ConfigMaps => {
            if let Some(mesh) = config_map::read(namespace, name, &stored.object)? {
                config.mesh = Some(mesh);
            }
        }
        Collection::Secrets => {
            let secret = Arc::new(Secret::read(&stored.object)?);
            config.secrets.insert((namespace.clone(), name.clone()), secret);
        }
        Collection::Istio(kind) => config.add(*kind, &stored.object)?,
    }
    Ok(())
}

fn replace(config: &mut Config, event: &Event) {
    let Key { collection, namespace, name } = &event.stored.key;
    match collection {
        Collection::Namespaces => drop(config.injection.remove(name)),
        Collection::ConfigMaps if config_map::is_mesh(namespace, name) => config.mesh = None,
        Collection::ConfigMaps => {}
        Collection::Secrets => drop(config.secrets.remove(&(namespace.clone(), name.clone()))),
        Collection::Istio(kind) => config.remove(*kind, namespace, name),
    }
    if event.kind != EventType::Deleted
        && let Err(problems) = add(config, &event.stored)
    {
        // Admission parsed the same JSON with the same parser; a property test says so.
        tracing::error!(resource = collection.plural(), namespace, name, %problems, "an admitted object does not parse");
    }
}

/// A namespace as the API server makes it.
pub(crate) fn new_namespace(name: &str, now: jiff::Timestamp) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": istio::resource::seconds(now),
            "labels": { "kubernetes.io/metadata.name": name },
        },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}
