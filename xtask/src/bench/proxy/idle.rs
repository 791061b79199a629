//! What a connection costs that rests: a rival's memory before and after many, each of which has carried one request.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::case::Port;
use super::rival::{Rival, Stand};

/// KiB in memory, before and after.
pub(super) fn measure(stand: &Stand, rival: Rival, count: usize) -> Result<(f64, f64)> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let before = resident(stand.pid(rival))?;
    let open = |_| request(stand, rival).with_context(|| format!("a connection to {}", rival.name()));
    let connections = (0..count).map(open).collect::<Result<Vec<_>>>()?;
    let after = resident(stand.pid(rival))?;
    drop(connections);
    Ok((before, after))
}

fn request(stand: &Stand, rival: Rival) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(stand.address(rival, Port::One))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET /1k HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut answer = [0; 4096];
    let mut length = 0;
    // The head, and 1 KiB of body, which is one letter.
    while !(answer[..length].starts_with(b"HTTP/1.1 200") && answer[..length].ends_with(&[b'x'; 1024])) {
        let read = stream.read(&mut answer[length..])?;
        ensure!(read > 0, "no answer, only {:?}", String::from_utf8_lossy(&answer[..length]));
        length += read;
    }
    Ok(stream)
}

fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_is_in_memory() {
        assert!(super::resident(std::process::id()).unwrap() > 100.0);
    }
}
