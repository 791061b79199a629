//! HTTP servers of this test program: what the stand-in says runs, at the ports at which it says so.

use anyhow::Result;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Answers every request with its name; `/flaky` fails every second time. Lives as long as the program.
pub(crate) fn start(name: &str) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (name, count) = (Arc::<str>::from(name), Arc::new(AtomicU32::new(0)));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (name, count) = (name.clone(), count.clone());
            // A client that goes away in the midst of a request is no failure.
            std::thread::spawn(move || serve(&stream, &name, &count));
        }
    });
    Ok(port)
}

fn serve(stream: &TcpStream, name: &str, count: &AtomicU32) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let fails = line.contains("/flaky") && count.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        let status = if fails { "503 Service Unavailable" } else { "200 OK" };
        write!(&mut &*stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len())?;
    }
}
