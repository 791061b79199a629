//! A Marathon that is away or talks nonsense: the last good registry is served, also after a restart, and its age is told.

use crate::Case;
use crate::kit::{Control, Marathon, SOON, app};
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use serde_json::{Value, json};

pub(crate) const CASES: &[Case] = &[
    ("away::nonsense is refused and the last good registry served", nonsense),
    ("away::the last good registry is served after a restart without Marathon, and its age told", restarted),
    ("away::several Marathons are one mesh, and one that is away takes nothing from it", several),
    ("away::VIPs stay with their names over a restart and a Marathon that lists them otherwise", vips),
];

fn nonsense() -> Result<()> {
    let marathon = Marathon::start()?;
    let control = Control::start(&[&marathon.url()], &["--marathon-resync", "200ms"])?;
    marathon.app("a")?;
    control.serves(&["a"])?;
    for kind in ["html", "truncated", "empty", "null", "array", "elements"] {
        let errors = control.status()?["marathon"][0]["reconnects"].as_u64().unwrap_or_default();
        marathon.faults(&json!({"nonsense": kind}))?;
        let told = control.marathon(&format!("{kind} is an error"), |marathon| {
            marathon["error"].is_string() && marathon["reconnects"].as_u64() > Some(errors)
        })?;
        ensure!(told["error"].as_str().is_some_and(|error| error.contains("/v2/")), "{kind}: {told}");
        control.serves(&["a"])?;
        marathon.faults(&json!({}))?;
        control.marathon("well again", |marathon| marathon["connected"] == true)?;
    }
    // An answer about one app only, which an event makes it ask for.
    marathon.faults(&json!({"nonsense": "empty"}))?;
    marathon.call("PUT", "/v2/apps/a?force=true", &json!({"instances": 2}))?;
    control.marathon("told", |marathon| marathon["error"].is_string())?;
    control.serves(&["a"])?;
    marathon.faults(&json!({}))?;
    control.serves(&["a", "a"])
}

fn restarted() -> Result<()> {
    let marathon = Marathon::start()?;
    let mut control = Control::start(&[&marathon.url()], &[])?;
    marathon.app("a")?;
    control.serves(&["a"])?;
    let before = control.endpoints()?;
    eventually("it is on disk", SOON, || {
        let kept: Value = serde_json::from_slice(&std::fs::read(control.path("state/marathon-0.json"))?)?;
        ensure!(kept["view"]["apps"]["/a"]["tasks"][0]["state"] == "TASK_RUNNING", "{kept}");
        Ok(())
    })?;
    control.kill();
    marathon.faults(&json!({"unavailable": true}))?;
    control.serve()?;
    control.serves(&["a"])?;
    ensure!(control.endpoints()? == before, "{:?} instead of {before:?}", control.endpoints()?);
    let age = "mesh_control_marathon_age_seconds{";
    let first = eventually("an age", SOON, || control.metric(age))?;
    eventually("the age grows", SOON, || {
        let now = control.metric(age)?;
        ensure!(now >= first + 1.0 && control.metric("mesh_control_marathon_connected{")? < 0.5, "{first} to {now}");
        Ok(())
    })?;
    ensure!(control.log().contains("going on with what it said before this start"), "{}", control.log());
    marathon.faults(&json!({}))?;
    marathon.app("b")?;
    control.serves(&["a", "b"])?;
    ensure!(control.metric(age)? < 30.0, "young again");
    // What is kept of another Marathon is not this one's.
    control.kill();
    let other = Control::start(&["http://127.0.0.1:1"], &[])?;
    std::fs::copy(control.path("state/marathon-0.json"), other.path("state/marathon-0.json"))?;
    let mut other = other;
    other.kill();
    other.serve()?;
    eventually("it is said", SOON, || {
        ensure!(other.log().contains("another Marathon's"), "{}", other.log());
        Ok(())
    })?;
    ensure!(other.endpoints()?.is_empty(), "{:?}", other.endpoints()?);
    Ok(())
}

fn several() -> Result<()> {
    let (one, two) = (Marathon::start()?, Marathon::start_with(&["--agent", "198.18.1.11"])?);
    // The same id and the same name in both: one service with two endpoints.
    for marathon in [&one, &two] {
        marathon.app("both")?;
    }
    one.app("a")?;
    two.app("b")?;
    let control = Control::start(&[&one.url(), &two.url()], &[])?;
    control.serves(&["a", "b", "both", "both"])?;
    two.faults(&json!({"noLeader": true}))?;
    eventually("the second is away", SOON, || {
        let status = control.status()?;
        ensure!(status["marathon"][1]["error"].is_string() && status["marathon"][0]["error"].is_null(), "{}", status["marathon"]);
        Ok(())
    })?;
    one.app("c")?;
    control.serves(&["a", "b", "both", "both", "c"])
}

fn vips() -> Result<()> {
    let marathon = Marathon::start()?;
    let mut control = Control::start(&[&marathon.url()], &[])?;
    let addresses = |control: &Control| -> Result<Vec<(String, String)>> {
        let status = control.status()?;
        let all = status["services"].as_array().cloned().unwrap_or_default();
        Ok(all.iter().map(|service| (service["name"].to_string(), service["addresses"][0].to_string())).collect())
    };
    // A literal VIP claims the first choice of a name before that name comes.
    marathon.app("reviews")?;
    control.serves(&["reviews"])?;
    ensure!(addresses(&control)?[0].1 == "\"11.15.94.83\"", "DC/OS's own choice: {:?}", addresses(&control)?);
    marathon.call("DELETE", "/v2/apps/reviews?force=true", &Value::Null)?;
    control.serves(&[])?;
    let mut claim = app("claim");
    claim["portDefinitions"][0]["labels"]["VIP_0"] = json!("11.15.94.83:80");
    marathon.create(&claim)?;
    control.serves(&["11"])?;
    marathon.app("reviews")?;
    control.serves(&["11", "reviews"])?;
    let before = addresses(&control)?;
    ensure!(before[1].1 == "\"11.15.94.84\"", "the next one: {before:?}");
    // The claim goes; who has an address keeps it, also over a restart.
    marathon.call("DELETE", "/v2/apps/claim?force=true", &Value::Null)?;
    control.serves(&["reviews"])?;
    control.kill();
    control.serve()?;
    control.serves(&["reviews"])?;
    ensure!(addresses(&control)? == before[1..], "{:?} instead of {before:?}", addresses(&control)?);
    Ok(())
}
