//! Credentials: whom they convince, and who never sees them. Service accounts and TLS are shown by mesh-control's own tests.

use crate::Case;
use crate::kit::{Control, Marathon, SOON};
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use serde_json::json;

pub(crate) const CASES: &[Case] = &[
    ("auth::name and password, and what is said without them", basic),
    ("auth::a leader that nobody configured is not told the password", dropped),
];

/// `mesh:secret`.
const BASIC: &str = "Basic bWVzaDpzZWNyZXQ=";

fn basic() -> Result<()> {
    let marathon = Marathon::start()?;
    marathon.app("a")?;
    marathon.faults(&json!({"authorization": BASIC}))?;
    let nobody = Control::start(&[&marathon.url()], &[])?;
    nobody.marathon("401 is told", |marathon| marathon["error"].as_str().is_some_and(|error| error.contains("401")))?;
    let file = nobody.path("credentials");
    std::fs::write(&file, "mesh:secret\n")?;
    let somebody = Control::start(&[&marathon.url()], &["--marathon-credentials", &file.to_string_lossy()])?;
    somebody.serves(&["a"])?;
    ensure!(
        !somebody.log().contains("secret") && !somebody.status()?.to_string().contains("secret"),
        "it is told to nobody else"
    );
    Ok(())
}

fn dropped() -> Result<()> {
    let marathon = Marathon::start()?;
    marathon.app("a")?;
    let leader = marathon.address.replace("127.0.0.1", "localhost");
    marathon.faults(&json!({"authorization": BASIC, "leader": leader}))?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("credentials");
    std::fs::write(&file, "mesh:secret\n")?;
    let control = Control::start(&[&marathon.url()], &["--marathon-credentials", &file.to_string_lossy()])?;
    let (mut configured, mut stranger) = (0, 0);
    eventually("both were asked", SOON, || {
        for asked in marathon.asked()? {
            let told = asked["authorization"] == BASIC;
            let known = asked["host"] == marathon.address;
            ensure!(told == known, "{asked}");
            if known { configured += 1 } else { stranger += 1 }
        }
        ensure!(configured > 0 && stranger > 0, "{configured} and {stranger}");
        Ok(())
    })?;
    // With the leader among the configured it is let in.
    let both = format!("{},http://{leader}", marathon.url());
    let control_of_both = Control::start(&[&both], &["--marathon-credentials", &file.to_string_lossy()])?;
    control_of_both.serves(&["a"])?;
    drop(control);
    Ok(())
}
