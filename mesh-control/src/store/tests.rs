//! The store on a real disk: what it promises about versions, history, limits and crashes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::json;

use super::*;

fn key(name: &str) -> Key {
    Key { collection: Collection::Istio(Kind::DestinationRule), namespace: "default".to_owned(), name: name.to_owned() }
}

fn rule(name: &str, host: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z" }, "spec": { "host": host } })
}

fn put(store: &Store, name: &str, host: &str) -> Result<u64, StoreError> {
    let written = store.write(false, |_| Ok::<_, StoreError>(vec![Change::Put(key(name), rule(name, host))]))?;
    Ok(written[0].version)
}

#[test]
fn versions_grow_over_all_objects_and_survive_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.redb");
    let store = Store::open(&path).unwrap();
    let first = put(&store, "a", "x").unwrap();
    let second = put(&store, "b", "y").unwrap();
    store.write(false, |_| Ok::<_, StoreError>(vec![Change::Delete(key("b"))])).unwrap();
    assert!(first < second && store.version() == second + 1);
    assert!(matches!(Store::open(&path), Err(StoreError::Open { .. })), "one process at a time");
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.version(), second + 1);
    assert_eq!(store.config().borrow().destination_rules.len(), 1);
    assert!(store.since(second).is_err(), "the history begins at the restart");
    assert!(store.since(second + 1).unwrap().is_empty());
    assert_eq!(put(&store, "c", "z").unwrap(), second + 2);
}

#[test]
fn a_namespaces_wish_reaches_the_compiler_and_nothing_else_of_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.redb");
    let store = Store::open(&path).unwrap();
    let config = store.config();
    let label = |labels: Value| {
        let mut namespace = new_namespace("shop", jiff::Timestamp::now());
        namespace["metadata"]["labels"] = labels;
        store.write(false, |_| Ok::<_, StoreError>(vec![Change::Put(Key::namespace("shop"), namespace)])).unwrap();
        (config.has_changed().unwrap(), config.clone().borrow_and_update().injection.get("shop").copied())
    };
    assert_eq!(label(serde_json::json!({"team": "a"})), (false, None), "the compiler has nothing to do");
    assert_eq!(label(serde_json::json!({"istio-injection": "enabled"})), (true, Some(true)));
    assert_eq!(label(serde_json::json!({"istio-injection": "disabled"})).1, Some(false));
    assert_eq!(label(serde_json::json!({"istio-injection": "enabled"})).1, Some(true));
    drop((store, config));
    let store = Store::open(&path).unwrap();
    assert_eq!(store.config().borrow().injection.get("shop"), Some(&true), "after a restart");
    store.write(false, |_| Ok::<_, StoreError>(vec![Change::Delete(Key::namespace("shop"))])).unwrap();
    assert!(store.config().borrow().injection.is_empty());
}

#[test]
fn a_dry_run_or_a_refusal_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("rules.redb")).unwrap();
    let version = store.version();
    store.write(true, |_| Ok::<_, StoreError>(vec![Change::Put(key("a"), rule("a", "x"))])).unwrap();
    let large = rule("a", &"x".repeat(MAX_OBJECT_BYTES));
    let error = store.write(false, |_| Ok::<_, StoreError>(vec![Change::Put(key("a"), large)])).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }));
    assert!(store.get(&key("a")).is_none() && store.version() == version);
}

#[test]
fn the_history_is_bounded_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("rules.redb")).unwrap();
    let start = store.version();
    let many = |n: usize| (0..n).map(|i| Change::Put(key("a"), rule("a", &format!("h{i}")))).collect();
    store.write(false, |_| Ok::<_, StoreError>(many(1_100))).unwrap();
    assert!(store.since(start).is_err());
    assert_eq!(store.since(store.version() - 1_000).unwrap().len(), 1_000);
    assert_eq!(store.config().borrow().destination_rules[0].spec.host, "h1099");
}

#[test]
fn a_status_is_a_write_of_its_own_and_compiles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.redb");
    let store = Store::open(&path).unwrap();
    let written = put(&store, "a", "x").unwrap();
    let mut config = store.config();
    let before = config.borrow_and_update().clone();
    assert_eq!(before.version, written);
    store.put_status(vec![(key("a"), written, json!({ "n": 1 })), (key("gone"), written, json!({}))]).unwrap();
    let stored = store.get(&key("a")).unwrap();
    assert_eq!((stored.version, stored.written, &stored.object["status"]), (written + 1, written, &json!({ "n": 1 })));
    assert!(!config.has_changed().unwrap());
    assert_eq!(store.since(written).unwrap().len(), 1, "watchers see it");
    let again = put(&store, "a", "y").unwrap();
    store.put_status(vec![(key("a"), written, json!({ "n": 2 }))]).unwrap();
    assert_eq!(store.version(), again, "what is said of an older write is not written");
    store.put_status(vec![(key("a"), again, json!({ "n": 3 }))]).unwrap();
    assert_eq!(config.borrow_and_update().version, again);
    drop((store, config));
    let store = Store::open(&path).unwrap();
    assert_eq!(store.get(&key("a")).unwrap().object["status"], json!({ "n": 3 }));
    assert_eq!(store.config().borrow().version, store.version());
}

/// The child of the next test: writes, says each write that returned, until it is killed.
fn write_until_killed(path: &Path) {
    let store = Store::open(path).unwrap();
    for i in 0_u64.. {
        let name = format!("r{}", i % 50);
        let host = format!("h{}", store.version());
        let version = put(&store, &name, &host).unwrap();
        println!("\nwrote {name} {host} {version}");
    }
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    if let Ok(path) = std::env::var("MESH_TEST_STORE") {
        return write_until_killed(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.redb");
    let mut expected = BTreeMap::new();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::acknowledged_writes_survive_kill_9", "--nocapture"])
            .env("MESH_TEST_STORE", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed amid writing, after a number of writes that differs per round.
        let mut left = 5 + round * 7;
        let mut last = 0;
        for line in lines.map_while(Result::ok) {
            if let Some((name, rest)) = line.strip_prefix("wrote ").and_then(|l| l.split_once(' ')) {
                let (host, version) = rest.split_once(' ').unwrap();
                expected.insert(name.to_owned(), host.to_owned());
                last = version.parse().unwrap();
                left -= 1;
                if left == 0 {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(left <= 0, "the child ended by itself");
        let store = Store::open(&path).unwrap();
        assert!(store.version() >= last);
        // At most the one write that was not acknowledged may have come in addition.
        let stored = |name: &str| store.get(&key(name)).unwrap().object["spec"]["host"].as_str().unwrap().to_owned();
        let differing = expected.iter().filter(|(name, host)| stored(name) != **host).count();
        assert!(differing <= 1 && (differing == 0 || store.version() > last), "round {round}: {differing} lost");
    }
}
