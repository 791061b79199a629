//! Everything that the store holds as one JSON document, and back. A backup is of one moment, whatever is written meanwhile.

use super::{Change, Collection, Key, MAX_OBJECTS, Store, StoreError};
use crate::istio::Config;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The form of the document; another number is refused.
const FORMAT: u64 = 1;

/// The document.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backup {
    format: u64,
    /// The version of the newest write in it.
    pub(crate) resource_version: u64,
    pub(crate) objects: Vec<Saved>,
    /// Who has which VIP.
    pub(crate) vips: Vec<(IpAddr, String)>,
}

/// One object.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Saved {
    resource: String,
    #[serde(default)]
    namespace: String,
    name: String,
    object: Value,
}

/// Why a document was refused. Nothing of it is in force then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it has format {0}; this version reads format {FORMAT}")]
    Format(u64),
    #[error("{0}: {1}")]
    Object(String, String),
    #[error("it has more than {MAX_OBJECTS} objects, which is the limit")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Everything, as of now.
    pub(crate) fn backup(&self) -> Result<Backup, StoreError> {
        // Held over both, so that objects and VIPs are of one moment.
        let disk = self.0.disk.lock();
        let state = self.0.state.read();
        let saved = state.objects.iter().map(|(key, stored)| Saved {
            resource: key.collection.plural().to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            object: stored.object.clone(),
        });
        let (objects, resource_version) = (saved.collect(), state.version);
        drop(state);
        Ok(Backup { format: FORMAT, resource_version, objects, vips: disk.vips()? })
    }

    /// Has exactly what the backup has, in one transaction. Versions go on: a client that watches sees changes, never the past. Returns how many
    /// objects there are now.
    pub(crate) fn restore(&self, backup: Backup) -> Result<usize, Refused> {
        if backup.format != FORMAT {
            return Err(Refused::Format(backup.format));
        }
        if backup.objects.len() > MAX_OBJECTS {
            return Err(Refused::TooMany);
        }
        let puts = backup.objects.into_iter().map(checked).collect::<Result<Vec<_>, _>>()?;
        let count = puts.len();
        let written = self.write(false, |view| {
            let kept: BTreeSet<&Key> = puts.iter().map(|(key, _)| key).collect();
            let gone = view.0.keys().filter(|key| !kept.contains(key)).cloned().map(Change::Delete);
            // First what goes, so that the limit is not met on the way.
            let mut changes: Vec<Change> = gone.collect();
            changes.extend(puts.iter().cloned().map(|(key, object)| Change::Put(key, object)));
            Ok::<_, StoreError>(changes)
        });
        written?;
        self.keep_vips(backup.vips.into_iter())?;
        Ok(count)
    }
}

/// An object that this version would admit.
fn checked(saved: Saved) -> Result<(Key, Value), Refused> {
    let called = format!("{} {}/{}", saved.resource, saved.namespace, saved.name);
    let refused = |why: &str| Refused::Object(called.clone(), why.to_owned());
    let collection = Collection::ALL.into_iter().find(|collection| collection.plural() == saved.resource);
    let collection = collection.ok_or_else(|| refused("this version knows no such resource"))?;
    let key = Key { collection, namespace: saved.namespace, name: saved.name };
    let meta = &saved.object["metadata"];
    let own = |field: &str| meta[field].as_str().unwrap_or_default();
    if own("name") != key.name || (own("namespace") != key.namespace && collection != Collection::Namespaces) {
        return Err(refused("its metadata names another object"));
    }
    let stored = super::Stored { key: key.clone(), version: 0, written: 0, bytes: 0, object: saved.object };
    super::add(&mut Config::default(), &stored).map_err(|problems| refused(&problems.to_string()))?;
    Ok((key, stored.object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::Kind;
    use serde_json::json;

    fn key(name: &str) -> Key {
        Key { collection: Collection::Istio(Kind::DestinationRule), namespace: "default".to_owned(), name: name.to_owned() }
    }

    fn put(store: &Store, name: &str, host: &str) {
        let meta = json!({"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let object = json!({"metadata": meta, "spec": {"host": host}});
        store.write(false, |_| Ok::<_, StoreError>(vec![Change::Put(key(name), object)])).expect("written");
    }

    fn hosts(store: &Store) -> Vec<String> {
        store.config().borrow().destination_rules.iter().map(|rule| rule.spec.host.clone()).collect()
    }

    #[test]
    fn what_was_saved_is_there_again_and_nothing_else() {
        let dir = tempfile::tempdir().expect("dir");
        let store = Store::open(&dir.path().join("a.redb")).expect("store");
        put(&store, "a", "x");
        put(&store, "b", "y");
        let vip: IpAddr = "11.0.0.7".parse().expect("address");
        store.keep_vips([(vip, "a.marathon".to_owned())].into_iter()).expect("written");
        let text = serde_json::to_string(&store.backup().expect("a backup")).expect("JSON");
        let backup = || serde_json::from_str::<Backup>(&text).expect("the same");

        put(&store, "a", "other");
        put(&store, "c", "z");
        let version = store.version();
        store.restore(backup()).expect("restored");
        assert_eq!(hosts(&store), ["x", "y"]);
        assert!(store.version() > version, "versions never go back");
        let other = dir.path().join("b.redb");
        let fresh = Store::open(&other).expect("store");
        assert_eq!(fresh.restore(backup()).expect("restored"), backup().objects.len());
        drop(fresh);
        let fresh = Store::open(&other).expect("store");
        assert_eq!(
            (hosts(&fresh), fresh.vips().expect("VIPs")),
            (vec!["x".to_owned(), "y".to_owned()], vec![(vip, "a.marathon".to_owned())])
        );
    }

    #[test]
    fn a_document_that_is_wrong_anywhere_changes_nothing() {
        let dir = tempfile::tempdir().expect("dir");
        let store = Store::open(&dir.path().join("a.redb")).expect("store");
        put(&store, "a", "x");
        let good = serde_json::to_value(store.backup().expect("a backup")).expect("JSON");
        let version = store.version();
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut document = good.clone();
            change(&mut document);
            store.restore(serde_json::from_value(document).expect("a document")).expect_err("wrong").to_string()
        };
        assert!(refused(&|d| d["format"] = json!(9)).contains("format 9"));
        let at = good["objects"].as_array().expect("objects").iter().position(|o| o["name"] == "a").expect("a");
        assert!(
            refused(&|d| d["objects"][at]["resource"] = json!("pods")).contains("pods default/a: this version knows no such")
        );
        assert!(refused(&|d| d["objects"][at]["name"] = json!("b")).contains("names another"));
        assert!(refused(&|d| d["objects"][at]["object"]["spec"] = json!({})).contains("host"));
        assert_eq!((store.version(), hosts(&store)), (version, vec!["x".to_owned()]));
    }
}
