//! One connection after another, each with the time it took and what it got: for tests that compare with what was in force meanwhile.

use super::{exchange, now};
use anyhow::Context;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) fn run(host: &str, port: u16, path: &str, pause: Duration) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&stop);
    std::thread::spawn(move || {
        // Whoever started us ends it by closing our standard input.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    while !stop.load(Ordering::Relaxed) {
        let began = now();
        let mut phases = Vec::new();
        let answer = ask(host, port, path, &mut phases);
        let ended = now();
        match answer {
            Ok(code) => writeln!(std::io::stdout(), "{began} {ended} {code} {phases:?}")?,
            Err(error) => writeln!(std::io::stdout(), "{began} {ended} 0 {phases:?} {error}")?,
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

/// What is done is noted when it is: name and address found, connected.
fn ask(host: &str, port: u16, path: &str, phases: &mut Vec<u128>) -> anyhow::Result<u16> {
    let address = (host, port).to_socket_addrs()?.next().context("a name without address")?;
    phases.push(now());
    let stream = TcpStream::connect(address)?;
    phases.push(now());
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    let (status, ..) = exchange(&stream, host, path)?;
    Ok(status.split(' ').nth(1).unwrap_or_default().parse()?)
}
