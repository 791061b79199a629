//! Events and snapshots: in what order they are asked for, and what is lost when either goes wrong (nothing).

use crate::Case;
use crate::kit::{Control, Marathon, SOON};
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use serde_json::{Value, json};

pub(crate) const CASES: &[Case] = &[
    ("stream::what changes while the snapshot is on its way is not missed", during_the_snapshot),
    ("stream::events cut anywhere, late, twice, in the wrong order and too large", bent),
    ("stream::a lost event is found by the next resync", lost),
    ("stream::a stream without heartbeats is given up, and the registry stays", silent),
    ("stream::a stream that says nothing at all does not hold the snapshot up", stalled),
    ("stream::slow answers never block the stream", slow),
    ("stream::a standby redirects to the leader by 302 and 307", redirected),
    ("stream::502 without a leader, and every stream closed", leaderless),
];

fn pair(options: &[&str]) -> Result<(Marathon, Control)> {
    let marathon = Marathon::start()?;
    let control = Control::start(&[&marathon.url()], options)?;
    Ok((marathon, control))
}

fn during_the_snapshot() -> Result<()> {
    let marathon = Marathon::start()?;
    marathon.app("a")?;
    marathon.faults(&json!({"slowMs": 1500}))?;
    marathon.asked()?;
    let control = Control::start(&[&marathon.url()], &[])?;
    let mut seen = Vec::new();
    eventually("the snapshot is asked for", SOON, || {
        seen.extend(marathon.asked()?.iter().filter_map(|asked| asked["path"].as_str().map(str::to_owned)));
        ensure!(seen.iter().any(|path| path == "/v2/apps"), "{seen:?}");
        Ok(())
    })?;
    ensure!(seen[0] == "/v2/events", "attached first: {seen:?}");
    // The answer was made before this, and arrives after it; the next resync is a minute away.
    marathon.app("b")?;
    control.serves(&["a", "b"])
}

fn bent() -> Result<()> {
    let (marathon, control) = pair(&[])?;
    control.marathon("connected", |marathon| marathon["connected"] == true)?;
    let mut names = Vec::new();
    for (name, faults) in [
        ("a", json!({"cut": 1})),
        ("b", json!({"cut": 7, "events": "duplicate"})),
        ("c", json!({"events": "delay", "delayMs": 300})),
        ("d", json!({"events": "reorder"})),
        ("e", json!({"padding": 300_000})),
        ("f", json!({"padding": 300_000, "cut": 65536, "events": "reorder"})),
    ] {
        marathon.faults(&faults)?;
        names.push(name);
        marathon.app(name)?;
        control.serves(&names)?;
    }
    marathon.faults(&json!({"events": "reorder", "cut": 2}))?;
    marathon.call("DELETE", "/v2/apps/c?force=true", &Value::Null)?;
    control.serves(&["a", "b", "d", "e", "f"])?;
    ensure!(control.status()?["marathon"][0]["reconnects"] == 0, "no stream broke: {}", control.status()?["marathon"]);
    Ok(())
}

fn lost() -> Result<()> {
    let (marathon, control) = pair(&["--marathon-resync", "1s"])?;
    marathon.app("a")?;
    control.serves(&["a"])?;
    marathon.faults(&json!({"events": "drop"}))?;
    marathon.app("b")?;
    marathon.call("DELETE", "/v2/apps/a?force=true", &Value::Null)?;
    control.serves(&["b"])?;
    ensure!(control.status()?["marathon"][0]["reconnects"] == 0, "by a resync, not by a new stream");
    Ok(())
}

fn silent() -> Result<()> {
    let (marathon, control) = pair(&["--marathon-silence", "1s"])?;
    marathon.app("a")?;
    control.serves(&["a"])?;
    marathon.faults(&json!({"noHeartbeat": true}))?;
    control.marathon("the stream is given up", |marathon| marathon["reconnects"].as_u64() > Some(0))?;
    ensure!(control.log().contains("silent, without even heartbeats"), "{}", control.log());
    control.serves(&["a"])?;
    marathon.faults(&json!({}))?;
    marathon.app("b")?;
    control.serves(&["a", "b"])
}

fn stalled() -> Result<()> {
    let marathon = Marathon::start()?;
    marathon.app("a")?;
    marathon.faults(&json!({"stall": true}))?;
    let control = Control::start(&[&marathon.url()], &["--marathon-silence", "5s"])?;
    control.serves(&["a"])?;
    marathon.app("b")?;
    marathon.faults(&json!({}))?;
    control.serves(&["a", "b"])
}

fn slow() -> Result<()> {
    let (marathon, control) = pair(&[])?;
    marathon.app("a")?;
    control.serves(&["a"])?;
    marathon.faults(&json!({"slowMs": 3000}))?;
    marathon.app("b")?;
    // More than Marathon keeps for a client that does not read: it would be cut off.
    for _ in 0..40 {
        marathon.flood(100)?;
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    control.serves(&["a", "b"])?;
    ensure!(control.status()?["marathon"][0]["reconnects"] == 0, "{}", control.status()?["marathon"]);
    Ok(())
}

fn redirected() -> Result<()> {
    for status in [302, 307] {
        let marathon = Marathon::start()?;
        // Two names of one server: who asks for events by the first is sent to the second.
        let leader = marathon.address.replace("127.0.0.1", "localhost");
        marathon.faults(&json!({"leader": leader, "redirect": status}))?;
        let control = Control::start(&[&format!("{},http://{leader}", marathon.url())], &[])?;
        marathon.app("a")?;
        control.serves(&["a"])?;
        let asked = marathon.asked()?;
        let streams: Vec<_> = asked.iter().filter(|asked| asked["path"] == "/v2/events").map(|asked| &asked["host"]).collect();
        ensure!(streams == [&json!(marathon.address), &json!(leader)], "{status}: {asked:?}");
        // A leader that nobody configured is believed to those who were: it is what they say of themselves.
        let one = Control::start(&[&marathon.url()], &[])?;
        one.serves(&["a"])?;
    }
    Ok(())
}

fn leaderless() -> Result<()> {
    let (marathon, control) = pair(&[])?;
    marathon.app("a")?;
    control.serves(&["a"])?;
    marathon.faults(&json!({"noLeader": true}))?;
    control.marathon("502 is told", |marathon| marathon["error"].as_str().is_some_and(|error| error.contains("502")))?;
    control.serves(&["a"])?;
    marathon.faults(&json!({}))?;
    marathon.app("b")?;
    control.serves(&["a", "b"])
}
