//! WebDriver's wire: JSON over HTTP/1.1 on loopback, one request per connection. Knows nothing of browsers.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A page may take as long as this, delays of rules included.
const LIMIT: Duration = Duration::from_secs(90);

/// One command; the answer's `value`.
///
/// # Errors
/// With the driver's own words if it refuses.
pub(crate) fn call(port: u16, method: &str, path: &str, body: &Value) -> Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("chromedriver does not listen")?;
    stream.set_read_timeout(Some(LIMIT))?;
    let body = if method == "POST" { body.to_string() } else { String::new() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let (status, answer) = answer(&mut BufReader::new(stream)).with_context(|| format!("{method} {path}"))?;
    let mut answer: Value = serde_json::from_slice(&answer).with_context(|| format!("{method} {path}: not JSON"))?;
    let value = answer["value"].take();
    if status != 200 {
        bail!("{method} {path}: {}: {}", value["error"].as_str().unwrap_or("?"), value["message"].as_str().unwrap_or("?"));
    }
    Ok(value)
}

fn answer(from: &mut impl BufRead) -> Result<(u16, Vec<u8>)> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let status = line.split(' ').nth(1).with_context(|| format!("not HTTP: {line:?}"))?.parse()?;
    let mut length = None;
    loop {
        line.clear();
        ensure!(from.read_line(&mut line)? > 0, "the answer ends within its head");
        match line.trim().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = Some(value.trim().parse()?),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length.context("no content-length")?];
    from.read_exact(&mut body)?;
    Ok((status, body))
}
