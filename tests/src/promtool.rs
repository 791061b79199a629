//! Prometheus' own tool, which knows how pages are written.

use anyhow::{Context, Result, ensure};
use std::io::Write;
use std::process::{Command, Stdio};

/// What `promtool check metrics` complains about.
///
/// # Errors
/// If it cannot read the page at all.
pub fn check(page: &str) -> Result<String> {
    let promtool = std::env::var_os("MESH_PROMTOOL").context("MESH_PROMTOOL: run the tests by `cargo xtask test`")?;
    let mut child = Command::new(promtool).args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(page.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // 3: it could be read, and something about it is unusual.
    ensure!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    Ok(said)
}
