//! Keeps the `status` of every object true: compares what the nodes hold with what is stored, and writes what differs. Decides nothing
//! itself (`core::programmed`), and never touches what a client wrote.

use crate::core::programmed::{self, Object};
use crate::istio::Kind;
use crate::serve::Publisher;
use crate::store::{Collection, Key, Store, StoreError};
use jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Answers that come together are written together. Far below the second in which a refusal must show.
const TOGETHER: Duration = Duration::from_millis(20);
/// What nobody waits for is written after so long: a thousand nodes that come back one by one are not a thousand writes of everything.
const COUNTS: Duration = Duration::from_secs(2);

/// Runs until the store or the publisher is gone, which is the end of the process.
pub(crate) async fn run(store: Store, publisher: Arc<Publisher>) {
    let (mut writes, mut standings) = (store.head(), publisher.standings());
    let mut later = None;
    loop {
        tokio::select! {
            changed = writes.changed() => if changed.is_err() { return },
            changed = standings.changed() => if changed.is_err() { return },
            () = until(later) => {}
        }
        tokio::time::sleep(TOGETHER).await;
        writes.mark_unchanged();
        standings.mark_unchanged();
        let due = later.is_some_and(|later| tokio::time::Instant::now() >= later);
        let written = tokio::task::block_in_place(|| write(&store, &publisher, due));
        later = match written {
            Ok(true) => Some(later.filter(|_| !due).unwrap_or_else(|| tokio::time::Instant::now() + COUNTS)),
            Ok(false) => None,
            Err(error) => {
                tracing::error!(%error, "the status of objects is not on disk");
                Some(tokio::time::Instant::now() + COUNTS)
            }
        };
    }
}

async fn until(later: Option<tokio::time::Instant>) {
    match later {
        Some(later) => tokio::time::sleep_until(later).await,
        None => std::future::pending().await,
    }
}

/// Writes what somebody may wait for, and the rest if it is due. True if something is left for later.
fn write(store: &Store, publisher: &Publisher, due: bool) -> Result<bool, StoreError> {
    let (nodes, now) = (publisher.standing(), Timestamp::now());
    let (version, refs) = publisher.refs();
    let (mut statuses, mut left) = (Vec::<(Key, u64, Value)>::new(), false);
    for kind in Kind::ALL {
        for stored in store.list(Collection::Istio(kind), None, None).1 {
            let generation = stored.object["metadata"]["generation"].as_i64().unwrap_or_default();
            let (namespace, name) = (stored.key.namespace.clone(), stored.key.name.clone());
            let dangling = (version >= stored.written).then(|| refs.get(&(kind, namespace, name)).map_or(&[][..], Vec::as_slice));
            let object = Object { written: stored.written, generation, status: &stored.object["status"], dangling };
            match programmed::next(object, &nodes, now) {
                Some(next) if next.urgent || due => statuses.push((stored.key.clone(), stored.written, next.status)),
                Some(_) => left = true,
                None => {}
            }
        }
    }
    store.put_status(statuses)?;
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Tokens;
    use crate::core::compile::tests::{compiled, node, reviews};
    use crate::metrics::Metrics;
    use crate::store::Change;
    use mesh_xds::serve::{Answer, Source};
    use serde_json::json;

    fn key() -> Key {
        Key { collection: Collection::Istio(Kind::DestinationRule), namespace: "default".to_owned(), name: "r".to_owned() }
    }

    fn rule(generation: i64) -> Value {
        json!({
            "metadata": {"name": "r", "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": generation},
            "spec": {"host": "reviews"},
        })
    }

    async fn eventually(store: &Store, want: [&str; 2]) {
        let mut seen = Value::Null;
        for _ in 0..2000 {
            seen = store.get(&key()).expect("stored").object["status"]["conditions"][0].clone();
            if [&seen["reason"], &seen["message"]] == want {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{seen}, wanted is {want:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn conditions_follow_what_nodes_answer() {
        let dir = tempfile::tempdir().expect("dir");
        let store = Store::open(&dir.path().join("rules.redb")).expect("store");
        let publisher = Arc::new(Publisher::new(Tokens::default(), Arc::new(Metrics::default())));
        let task = tokio::spawn(run(store.clone(), publisher.clone()));
        let put = |generation| {
            let change = || Ok::<_, StoreError>(vec![Change::Put(key(), rule(generation))]);
            tokio::task::block_in_place(|| store.write(false, |_| change())).expect("written");
            let of = if generation == 1 { reviews(&["v1"]) } else { reviews(&["v1", "v2"]) };
            let mut compiled = compiled(&of, &[]);
            compiled.version = store.config().borrow().version;
            assert!(publisher.publish(&Arc::new(compiled)));
        };
        let proxy = node("node~10.0.0.1~a~mesh");
        let snapshots = publisher.watch(&proxy);
        put(1);
        let first = snapshots.borrow().clone();
        publisher.settled(&proxy, &first);
        eventually(&store, ["Programmed", "1 of 1 nodes"]).await;
        put(2);
        publisher.answered(&proxy, Answer { type_url: "a.B", error: Some("no"), in_sync: false });
        eventually(&store, ["Rejected", "0 of 1 nodes; 10.0.0.1 refused: B: no"]).await;
        assert_eq!(store.get(&key()).expect("stored").object["status"]["observedGeneration"], 2);
        let second = snapshots.borrow().clone();
        publisher.settled(&proxy, &second);
        eventually(&store, ["Programmed", "1 of 1 nodes"]).await;
        publisher.disconnected(&proxy);
        eventually(&store, ["NoNodes", "no node is connected"]).await;
        task.abort();
    }
}
