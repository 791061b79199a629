//! Asking the control plane that runs on this machine, over its admin socket. For the commands beside `serve`.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// For an answer; the control plane looks through some thousand objects for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of the answer.
pub(crate) fn control(socket: &Path, path: &str) -> Result<String> {
    get(socket, path).with_context(|| format!("{}: is mesh-control serve running here?", socket.display()))
}

/// HTTP/1.0, so that the answer ends with the connection.
fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if head.split(' ').nth(1) != Some("200") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
