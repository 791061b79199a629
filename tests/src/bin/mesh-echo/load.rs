//! A steady load that counts every failure: no request is repeated, whatever a kinder client would do.

use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    /// Requests for each connection; none: as many as there are.
    pub(crate) each: Option<u32>,
    /// The path is a command of redis.
    pub(crate) redis: bool,
}

#[derive(Default)]
struct Seen {
    good: u64,
    other: u64,
    errors: u64,
    /// Connections that were opened.
    opened: u64,
    texts: BTreeMap<String, u64>,
    slowest: Duration,
    /// Of those that failed.
    slowest_bad: Duration,
}

pub(crate) fn run(target: &Target, rate: u32, connections: u32, limit: Duration) -> anyhow::Result<()> {
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
    let until = Instant::now() + limit;
    let pause = Duration::from_secs(u64::from(connections)) / rate.max(1);
    let work = |_| {
        let (target, stop, seen) = (target.clone(), Arc::clone(&stop), Arc::clone(&seen));
        std::thread::spawn(move || one(&target, pause, until, &stop, &seen))
    };
    let threads: Vec<_> = (0..connections).map(work).collect();
    // Whoever started us ends the load by closing our standard input.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let _ = thread.join();
    }
    let seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    super::say(&json!({
        "good": seen.good, "other": seen.other, "errors": seen.errors, "opened": seen.opened, "texts": seen.texts,
        "slowest_ms": seen.slowest.as_millis(), "slowest_bad_ms": seen.slowest_bad.as_millis(),
    }))
}

fn one(target: &Target, pause: Duration, until: Instant, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let (mut connection, mut asked): (Option<TcpStream>, u32) = (None, 0);
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) && Instant::now() < until {
        if connection.is_none() {
            seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).opened += 1;
        }
        let started = Instant::now();
        let answer = ask(target, &mut connection);
        record(answer, started.elapsed(), seen);
        asked += 1;
        if target.each.is_some_and(|each| asked % each == 0) {
            connection = None;
        }
        due += pause;
        match due.checked_duration_since(Instant::now()) {
            Some(wait) => std::thread::sleep(wait),
            // Behind: go on from now instead of catching up in a burst.
            None => due = Instant::now(),
        }
    }
}

/// Status line or answer, and whether that is a success.
fn ask(target: &Target, connection: &mut Option<TcpStream>) -> anyhow::Result<(String, bool)> {
    let stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect((target.host.as_str(), target.port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(15)))?;
            stream
        }
    };
    if target.redis {
        let answer = command(&stream, &target.path)?;
        *connection = Some(stream);
        let good = answer.starts_with('+');
        return Ok((answer, good));
    }
    let (status, headers, _) = super::exchange(&stream, &target.host, &target.path)?;
    if headers.get("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close")) {
        *connection = Some(stream);
    }
    let good = status.split(' ').nth(1).is_some_and(|code| code.starts_with('2'));
    Ok((status, good))
}

/// A command of redis, one whose answer is one line.
fn command(mut stream: &TcpStream, command: &str) -> anyhow::Result<String> {
    write!(stream, "{command}\r\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    anyhow::ensure!(answer.ends_with('\n'), "the connection was closed before an answer");
    Ok(answer.trim().to_owned())
}

fn record(answer: anyhow::Result<(String, bool)>, took: Duration, seen: &Mutex<Seen>) {
    let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if seen.good + seen.other + seen.errors == 0 {
        let _ = writeln!(std::io::stdout(), "started");
    }
    seen.slowest = seen.slowest.max(took);
    let text = match answer {
        Ok((_, true)) => {
            seen.good += 1;
            return;
        }
        Ok((status, false)) => {
            seen.other += 1;
            status
        }
        Err(error) => {
            seen.errors += 1;
            error.to_string()
        }
    };
    seen.slowest_bad = seen.slowest_bad.max(took);
    // A handful of texts says enough.
    if seen.texts.len() < 8 || seen.texts.contains_key(&text) {
        *seen.texts.entry(text).or_default() += 1;
    }
}
