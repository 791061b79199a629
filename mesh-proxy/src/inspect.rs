//! Looks at a connection's first bytes without taking them (MSG_PEEK): TLS or HTTP, which server name, which protocols. What they mean is
//! decided in [`sni`] and [`detect`]; this module waits for them, bounded in time and size.

use crate::config::Inspect;
use crate::core::chain::{Hello, Transport};
use crate::core::detect::{self, Spoken};
use crate::core::sni::{self, Parsed};
use crate::limits::HEAD_BYTES;
use rustix::net::RecvFlags;
use std::io;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes looked at first: nearly every ClientHello and request line.
const FIRST: usize = 2048;

/// Why a connection goes no further.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The client said nothing, or not enough, in time.
    #[error("the first bytes did not come in time")]
    Timeout,
    /// More than a ClientHello may have.
    #[error("the ClientHello is longer than {} bytes", sni::HELLO_BYTES)]
    TooLong,
    /// The client closed before it said anything.
    #[error("closed before anything was said")]
    Closed,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Refused {
    /// For the counter.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Timeout => "listener_filters_timeout",
            Self::TooLong => "client_hello_too_long",
            Self::Closed | Self::Io(_) => "client_gone",
        }
    }
}

/// The answer, and whether the time ran out before the bytes had said it.
///
/// # Errors
/// If the connection is not to be served.
pub async fn inspect(stream: &TcpStream, what: Inspect) -> Result<(Hello, bool), Refused> {
    if !what.tls && !what.http {
        return Ok((Hello::default(), false));
    }
    let looked = match what.timeout {
        Some(timeout) => tokio::time::timeout(timeout, look(stream, what)).await,
        None => Ok(look(stream, what).await),
    };
    match looked {
        Ok(hello) => hello.map(|hello| (hello, false)),
        Err(_elapsed) if what.go_on => Ok((Hello::default(), true)),
        Err(_elapsed) => Err(Refused::Timeout),
    }
}

async fn look(stream: &TcpStream, what: Inspect) -> Result<Hello, Refused> {
    let mut buffer = vec![0; FIRST];
    let mut seen = 0;
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        // What was seen before is there again: that is no news, and the next wait must be for more.
        let peeked = stream.try_io(Interest::READABLE, || match peek(stream, &mut buffer)? {
            same if same == seen && !ready.is_read_closed() => Err(io::ErrorKind::WouldBlock.into()),
            length => Ok(length),
        });
        let length = match peeked {
            Ok(0) => return Err(Refused::Closed),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        let last = ready.is_read_closed() && length == seen;
        match decide(&buffer[..length], what, last) {
            Some(decided) => return decided,
            None if length == buffer.len() => buffer.resize(length * 2, 0),
            None => {}
        }
        seen = length;
    }
}

fn peek(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let (length, _whole) = rustix::net::recv(stream, buffer, RecvFlags::PEEK)?;
    Ok(length)
}

/// `None`: more bytes are needed. `last`: none will come.
fn decide(bytes: &[u8], what: Inspect, last: bool) -> Option<Result<Hello, Refused>> {
    if what.tls {
        match sni::parse(bytes) {
            Parsed::More if !last => return None,
            Parsed::TooLong => return Some(Err(Refused::TooLong)),
            Parsed::Hello { server_name, protocols } => {
                return Some(Ok(Hello { transport: Transport::Tls, server_name, protocols }));
            }
            Parsed::More | Parsed::Other => {}
        }
    }
    let spoken = if what.http { detect::spoken(bytes, HEAD_BYTES) } else { Some(Spoken::Other) };
    let spoken = spoken.or_else(|| last.then_some(Spoken::Other))?;
    Some(Ok(Hello { protocols: spoken.name().into_iter().map(str::to_owned).collect(), ..Hello::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const BOTH: Inspect = Inspect { tls: true, http: true, timeout: Some(Duration::from_secs(5)), go_on: false };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
        (client, listener.accept().await.expect("accept").0)
    }

    #[tokio::test]
    async fn bytes_that_come_one_by_one_are_waited_for_and_stay() {
        let (mut client, mut server) = pair().await;
        let text = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let writing = async {
            for byte in text {
                client.write_all(&[*byte]).await.expect("write");
                tokio::task::yield_now().await;
            }
        };
        let (inspected, ()) = tokio::join!(inspect(&server, BOTH), writing);
        let (hello, late) = inspected.expect("HTTP");
        assert_eq!((hello.protocols, late), (vec!["http/1.1".to_owned()], false));
        let mut read = vec![0; text.len()];
        server.read_exact(&mut read).await.expect("nothing was taken");
        assert_eq!(read, text);
    }

    #[tokio::test]
    async fn a_silent_client_costs_the_timeout_and_no_processor() {
        let (mut client, server) = pair().await;
        // The beginning of a request line: without waiting for more, the loop would spin.
        client.write_all(b"GET").await.expect("write");
        let what = Inspect { timeout: Some(Duration::from_millis(100)), go_on: true, ..BOTH };
        let began = Instant::now();
        let busy = || nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).expect("usage").user_time();
        let before = busy();
        let (hello, late) = inspect(&server, what).await.expect("goes on");
        assert!(late && hello == Hello::default() && began.elapsed() >= Duration::from_millis(100));
        let used = busy().tv_usec() - before.tv_usec() + (busy().tv_sec() - before.tv_sec()) * 1_000_000;
        assert!(used < 50_000, "{used} µs of processor time");
        let refused = inspect(&server, Inspect { go_on: false, ..what }).await.expect_err("too late");
        assert_eq!(refused.label(), "listener_filters_timeout");
    }

    #[tokio::test]
    async fn the_end_of_the_bytes_is_an_answer() {
        let (mut client, server) = pair().await;
        client.write_all(b"GET").await.expect("write");
        client.shutdown().await.expect("shutdown");
        let (hello, late) = inspect(&server, BOTH).await.expect("no HTTP");
        assert!(!late && hello.protocols.is_empty());
        let (client, server) = pair().await;
        drop(client);
        assert!(matches!(inspect(&server, BOTH).await, Err(Refused::Closed)));
    }

    #[tokio::test]
    async fn a_long_request_line_is_seen_whole_and_an_endless_hello_is_refused() {
        let (mut client, server) = pair().await;
        let line = format!("GET /{} HTTP/1.0\r\n", "a".repeat(3 * FIRST));
        client.write_all(line.as_bytes()).await.expect("write");
        assert_eq!(inspect(&server, BOTH).await.expect("HTTP").0.protocols, ["http/1.0"]);
        let (mut client, server) = pair().await;
        client.write_all(b"\x16\x03\x01\0\x04\x01\x01\0\0").await.expect("write");
        assert_eq!(inspect(&server, BOTH).await.expect_err("too long").label(), "client_hello_too_long");
    }
}
