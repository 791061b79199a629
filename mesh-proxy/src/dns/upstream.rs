//! Asking the node's resolvers, from sockets of this process, in the node's own namespace. Each attempt has a socket, and so a random
//! port, and a random id of its own; the socket is connected, so that the kernel drops what comes from elsewhere.

use super::core::attempts::{ATTEMPT_MAX, BUDGET, Health};
use super::core::handler::Unanswered;
use super::core::query::{self, Question};
use super::core::reply::{Judged, judge};
use super::metrics::Metrics;
use super::tcp;
use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// More than any answer to our EDNS size.
const BUFFER: usize = 4096;
/// Wrong messages on one socket after which someone is guessing.
const FOREIGN_MAX: u32 = 16;

/// The resolvers.
#[derive(Debug)]
pub(super) struct Upstreams {
    servers: Vec<Server>,
    health: Mutex<Health>,
    budget: Duration,
    attempt_max: Duration,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    label: String,
}

/// Why one attempt brought nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("response code {0}")]
    Code(u16),
    #[error("{FOREIGN_MAX} messages that answer something else")]
    Foreign,
}

impl Upstreams {
    /// These, with the usual waiting times.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        Self::with_times(servers, BUDGET, ATTEMPT_MAX)
    }

    /// These, with other waiting times.
    pub(super) fn with_times(servers: &[SocketAddr], budget: Duration, attempt_max: Duration) -> Self {
        let health = Mutex::new(Health::new(servers.len()));
        let servers = servers.iter().map(|address| Server { address: *address, label: address.to_string() }).collect();
        Self { servers, health, budget, attempt_max }
    }

    /// Asks one after the other until one answers.
    pub(super) async fn ask(&self, question: &Question, metrics: &Metrics) -> Result<Vec<u8>, Unanswered> {
        let plan = self.health.lock().plan(self.budget, self.attempt_max, Instant::now());
        let mut last = Unanswered::Timeout;
        for (at, wait) in plan {
            let Server { address, label } = &self.servers[at];
            let since = Instant::now();
            let outcome = match timeout(wait, attempt(*address, question, metrics, label)).await {
                Ok(Ok(answer)) => {
                    self.health.lock().answered(at);
                    metrics.upstream(label, "answered");
                    metrics.upstream_took(label, since.elapsed());
                    return Ok(answer);
                }
                Ok(Err(Failed::Code(code))) => {
                    // It lives, and this question is not its fault: it keeps its place.
                    last = Unanswered::Failed(code);
                    metrics.upstream(label, "failed");
                    continue;
                }
                Ok(Err(Failed::Foreign)) => "foreign_limit",
                Ok(Err(Failed::Io(error))) => {
                    tracing::debug!(upstream = label, %error, "cannot ask a resolver");
                    "io"
                }
                Err(_elapsed) => "timeout",
            };
            metrics.upstream(label, outcome);
            self.health.lock().failed(at, Instant::now());
        }
        Err(last)
    }

    /// Each resolver, and whether it is asked last for now.
    pub(super) fn status(&self) -> Vec<(String, bool)> {
        let (health, now) = (self.health.lock(), Instant::now());
        self.servers.iter().enumerate().map(|(at, s)| (s.label.clone(), health.is_shunned(at, now))).collect()
    }
}

/// One try with one resolver. The caller limits its time.
async fn attempt(server: SocketAddr, question: &Question, metrics: &Metrics, label: &str) -> Result<Vec<u8>, Failed> {
    const FORMERR: u16 = 1;
    const NOTIMP: u16 = 4;
    match over_udp(server, question, true, metrics, label).await {
        // Some old servers do not know EDNS.
        Err(Failed::Code(FORMERR | NOTIMP)) => over_udp(server, question, false, metrics, label).await,
        other => other,
    }
}

async fn over_udp(
    server: SocketAddr,
    question: &Question,
    edns: bool,
    metrics: &Metrics,
    label: &str,
) -> Result<Vec<u8>, Failed> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let asked = encoded(question, edns)?;
    socket.send(&asked).await?;
    let mut buffer = vec![0; BUFFER];
    for _ in 0..FOREIGN_MAX {
        let length = socket.recv(&mut buffer).await?;
        let answer = &buffer[..length];
        match judge(&asked, answer) {
            Judged::Good => return Ok(answer.to_vec()),
            Judged::Failed(code) => return Err(Failed::Code(code)),
            Judged::Foreign => metrics.upstream(label, "foreign"),
            Judged::Truncated => {
                metrics.upstream(label, "truncated");
                return over_tcp(server, question, edns).await;
            }
        }
    }
    Err(Failed::Foreign)
}

async fn over_tcp(server: SocketAddr, question: &Question, edns: bool) -> Result<Vec<u8>, Failed> {
    let mut stream = TcpStream::connect(server).await?;
    let asked = encoded(question, edns)?;
    tcp::write_message(&mut stream, &asked).await?;
    let answer = tcp::read_message(&mut stream, usize::from(u16::MAX)).await?;
    let answer = answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    match judge(&asked, &answer) {
        Judged::Good => Ok(answer),
        Judged::Failed(code) => Err(Failed::Code(code)),
        Judged::Foreign | Judged::Truncated => Err(Failed::Foreign),
    }
}

fn encoded(question: &Question, edns: bool) -> io::Result<Vec<u8>> {
    query::outgoing(question, rand::random(), edns).ok_or_else(|| io::Error::other("the question cannot be encoded"))
}

#[cfg(test)]
mod tests;
