//! Requests that are under way until somebody ends them: the server's side, which never answers, and the client's, which says when and how
//! each ended.

use serde_json::{Value, json};
use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Requests that the server holds.
static HELD: AtomicU32 = AtomicU32::new(0);

pub(crate) fn now() -> u32 {
    HELD.load(Ordering::SeqCst)
}

/// Holds a request until its client or whoever is between goes away.
pub(crate) fn until_closed(reader: &mut impl BufRead) -> anyhow::Result<()> {
    HELD.fetch_add(1, Ordering::SeqCst);
    let ended = reader.read_to_end(&mut Vec::new());
    HELD.fetch_sub(1, Ordering::SeqCst);
    ended?;
    Ok(())
}

pub(crate) fn run(host: &str, port: u16, path: &str, connections: u32, limit: Duration) -> anyhow::Result<()> {
    let begin = |_| {
        let mut stream = TcpStream::connect((host, port))?;
        stream.set_read_timeout(Some(limit))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")?;
        Ok(std::thread::spawn(move || end(stream)))
    };
    let waiting = (0..connections).map(begin).collect::<anyhow::Result<Vec<_>>>()?;
    writeln!(std::io::stdout(), "sent")?;
    let ends: Vec<Value> = waiting.into_iter().filter_map(|thread| thread.join().ok()).collect();
    super::say(&json!(ends))
}

/// Waits until the request is over, however that comes.
fn end(mut stream: TcpStream) -> Value {
    let mut answer = [0; 64];
    let got = match stream.read(&mut answer) {
        Ok(0) => "closed".to_owned(),
        Ok(length) => String::from_utf8_lossy(&answer[..length]).into_owned(),
        Err(error) => format!("{:?}", error.kind()),
    };
    json!({"ended_ns": super::now().to_string(), "got": got})
}
