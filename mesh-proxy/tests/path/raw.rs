//! HTTP as bytes: for what a client library would not send, or would hide.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is waited for comes within this, however busy the machine.
pub const LONG: Duration = Duration::from_secs(30);

/// One end of a connection.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn to(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).await.expect("connect"))
    }

    pub async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.expect("write");
    }

    /// Up to the empty line, in lower case.
    pub async fn head(&mut self) -> String {
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.extend(self.bytes(1).await);
        }
        String::from_utf8(text).expect("text").to_lowercase()
    }

    pub async fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        tokio::time::timeout(LONG, self.0.read_exact(&mut bytes)).await.expect("in time").expect("so many bytes");
        bytes
    }

    /// All that comes until the other end closes, however it does that.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = tokio::time::timeout(LONG, self.0.read_to_end(&mut bytes)).await.expect("closed in time");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A head and as much body as it says.
    pub async fn answer(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        (head, String::from_utf8(self.bytes(length).await).expect("text"))
    }
}

/// A backend that a test plays itself.
pub struct Stage(TcpListener);

impl Stage {
    pub async fn new() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        (Self(listener), address)
    }

    /// The next connection.
    pub async fn next(&self) -> Raw {
        let accepted = tokio::time::timeout(LONG, self.0.accept()).await;
        Raw(accepted.expect("in time").expect("accept").0)
    }
}
