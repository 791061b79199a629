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

#[test]
fn the_file_gets_smaller_after_much_was_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.redb");
    let size = || std::fs::metadata(&path).unwrap().len();
    let store = Store::open(&path).unwrap();
    let large = |i: usize| {
        let mut object = rule(&format!("r{i}"), "x");
        object["metadata"]["annotations"] = json!({ "n": "x".repeat(200_000) });
        Change::Put(key(&format!("r{i}")), object)
    };
    store.write(false, |_| Ok::<_, StoreError>((0..60).map(large).collect())).unwrap();
    store.write(false, |_| Ok::<_, StoreError>((0..59).map(|i| Change::Delete(key(&format!("r{i}")))).collect())).unwrap();
    drop(store);
    let before = size();
    let store = Store::open(&path).unwrap();
    assert!(before > 10 << 20 && size() < before / 4, "{before} to {}", size());
    assert!(store.get(&key("r59")).is_some() && store.get(&key("r0")).is_none());
    drop(store);
    let compact = size();
    drop(Store::open(&path).unwrap());
    assert!(size() <= compact, "nothing more to do");
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

/// In so many lanes, each with a file of its own.
const LANES: usize = 2;
/// Of a writer, in all lanes. A round takes about 30 ms.
const KILLS: usize = 1000;

#[test]
fn acknowledged_writes_survive_a_thousand_kill_9() {
    if let Ok(path) = std::env::var("MESH_TEST_STORE") {
        return write_until_killed(Path::new(&path));
    }
    let lanes: Vec<_> = (0..LANES).map(|_| std::thread::spawn(lane)).collect();
    lanes.into_iter().for_each(|lane| lane.join().unwrap());
}

fn lane() {
    // In memory where there is such a place: what a killed process has written stays without a disk too, and others here wait for theirs.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() };
    let path = dir.path().join("rules.redb");
    let mut expected = BTreeMap::new();
    for round in 0..KILLS / LANES {
        // Killed amid writing, after a number of writes that differs per round.
        let last = kill_after(1 + round % 5, &path, &mut expected);
        let store = Store::open(&path).unwrap();
        assert!(store.version() >= last);
        // At most the one write that was not acknowledged may have come in addition.
        let stored = |name: &str| store.get(&key(name)).map(|stored| stored.object["spec"]["host"].as_str().unwrap().to_owned());
        let differing = expected.iter().filter(|(name, host)| stored(name).as_ref() != Some(*host)).count();
        assert!(differing <= 1 && (differing == 0 || store.version() > last), "round {round}: {differing} lost");
        expected = expected.into_keys().filter_map(|name| Some((name.clone(), stored(&name)?))).collect();
    }
}

/// Starts a writer and kills it when it has said so many writes. What it had said by then goes into `said`; returns the last one's version.
fn kill_after(writes: usize, path: &Path, said: &mut BTreeMap<String, String>) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::acknowledged_writes_survive_a_thousand_kill_9", "--nocapture"])
        .env("MESH_TEST_STORE", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut left, mut last) = (writes, 0);
    for line in lines.map_while(Result::ok) {
        let Some((name, rest)) = line.strip_prefix("wrote ").and_then(|line| line.split_once(' ')) else { continue };
        let (host, version) = rest.split_once(' ').unwrap();
        said.insert(name.to_owned(), host.to_owned());
        last = version.parse().unwrap();
        left = left.saturating_sub(1);
        if left == 0 {
            // The second time it is dead already.
            let _ = child.kill();
        }
    }
    child.wait().unwrap();
    assert_eq!(left, 0, "the child ended by itself");
    last
}
