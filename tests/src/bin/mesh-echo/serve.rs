//! The HTTP server: it says what it sees.

use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// SIGTERM has come.
static ENDING: AtomicBool = AtomicBool::new(false);

pub(crate) fn run(port: u16, linger: Duration) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    if !linger.is_zero() {
        end_later(linger)?;
    }
    loop {
        let (stream, accepted_from) = listener.accept()?;
        std::thread::spawn(move || {
            if let Err(error) = answer(&stream, accepted_from) {
                let _ = writeln!(std::io::stderr(), "{accepted_from}: {error}");
            }
        });
    }
}

/// As a server does that wants to lose nobody: from SIGTERM on it still serves for as long as clients may need to hear of its end.
fn end_later(linger: Duration) -> anyhow::Result<()> {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGTERM);
    // Before the first thread, which all inherit it.
    set.thread_block()?;
    std::thread::spawn(move || {
        let _ = set.wait();
        ENDING.store(true, Ordering::Relaxed);
        std::thread::sleep(linger);
        std::process::exit(0);
    });
    Ok(())
}

fn answer(stream: &TcpStream, accepted_from: SocketAddr) -> anyhow::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let headers = super::read_headers(&mut reader)?;
        if path == "/hold" {
            return super::hold::until_closed(&mut reader);
        }
        let body = json!({
            "podname": std::env::var("MESOS_TASK_ID").unwrap_or_default(),
            "accept": accepted_from.to_string(),
            "getpeername": stream.peer_addr()?.to_string(),
            "path": path,
            "headers": headers,
            "held": super::hold::now(),
        })
        .to_string();
        let ending = ENDING.load(Ordering::Relaxed);
        let close = if ending { "connection: close\r\n" } else { "" };
        let mut writer = stream;
        write!(
            writer,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{close}content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        if ending {
            return Ok(());
        }
    }
}
