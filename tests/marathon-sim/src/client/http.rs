//! Just enough HTTP for the stand-in's own socket: one request, one answer, close.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::node::layout;

pub(crate) fn get(state: &Path, path: &str) -> Result<Value> {
    request(state, "GET", path, "")
}

pub(crate) fn post(state: &Path, path: &str, body: &Value) -> Result<Value> {
    request(state, "POST", path, &body.to_string())
}

fn request(state: &Path, method: &str, path: &str, body: &str) -> Result<Value> {
    let socket = layout::socket(state);
    let mut stream = UnixStream::connect(&socket)
        .with_context(|| format!("no stand-in runs with the state directory {} (see `marathon-sim run`)", state.display()))?;
    let length = body.len();
    // One write: the other side may answer and close as soon as it has read the head.
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a malformed answer")?;
    let body: Value = serde_json::from_str(body).with_context(|| format!("not JSON: {head}"))?;
    if !head.starts_with("HTTP/1.1 2") {
        bail!("{}", body["message"].as_str().unwrap_or(head));
    }
    Ok(body)
}
