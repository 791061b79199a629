//! What the tests run inside pods: a server that says what it sees, and clients that say what happened. Knows nothing of the mesh and uses
//! plain blocking sockets, as an application would.

mod hold;
mod load;
mod reach;
mod record;
mod serve;
mod tell;

use clap::{Parser, Subcommand};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A server and clients for tests inside pods.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer every HTTP request with JSON: the client's address from accept() and from getpeername(), path and headers, and how many
    /// requests of `/hold` there are, which are never answered.
    Serve {
        /// Port to listen on, at every address.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Obey SIGTERM only after this many milliseconds; until then answer, and ask clients to close.
        #[arg(long, default_value_t = 0)]
        linger_ms: u64,
    },
    /// Answer each connection and each datagram with JSON: task, node, and the client's address.
    Tell {
        /// Port to listen on, TCP and UDP.
        #[arg(long)]
        port: u16,
        /// Address to listen on.
        #[arg(long, default_value = "::")]
        address: IpAddr,
    },
    /// Dial destinations that `tell`, each a number of times; print JSON: for each, how often each node answered, and the errors.
    Reach {
        /// `tcp://`, `udp://` or either with `mapped-` (IPv4 by an IPv6 socket), then name or address and port.
        #[arg(required = true)]
        to: Vec<String>,
        /// How often.
        #[arg(long, default_value_t = 40)]
        times: u32,
    },
    /// Connect once and print JSON: ok or errno, microseconds, and both addresses of the socket.
    Dial {
        /// Where to.
        to: SocketAddr,
        /// Local address to bind first.
        #[arg(long)]
        bind: Option<IpAddr>,
        /// Send a datagram instead and wait shortly for an answer.
        #[arg(long)]
        udp: bool,
        /// Give up after this many milliseconds.
        #[arg(long, default_value_t = 3000)]
        timeout_ms: u64,
    },
    /// GET the URL again and again, each on a connection of its own. Print `started` once an answer does not contain the text; after
    /// that, when `--good` answers in a row contain it, print JSON with the time (ns since the epoch) at which the last other answer ended.
    Probe {
        /// HTTP host to dial and name.
        host: String,
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// What a good answer contains.
        text: String,
        /// How many good answers in a row end the probe.
        #[arg(long, default_value_t = 100)]
        good: u32,
        /// Fail after this many seconds.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// GET the URL at a steady rate over several connections until standard input ends or the time is over. Prints `started` after the
    /// first answer, and at the end JSON: how many answers were 2xx, other answers, socket errors, and one text of each error.
    Load {
        /// HTTP host to dial and name.
        host: String,
        /// Port.
        port: u16,
        /// Path; with `--redis` the command.
        path: String,
        /// Requests a second, over all connections.
        #[arg(long, default_value_t = 2000)]
        rate: u32,
        /// Connections, each with a thread.
        #[arg(long, default_value_t = 16)]
        connections: u32,
        /// A new connection for each request.
        #[arg(long)]
        fresh: bool,
        /// A new connection after this many requests.
        #[arg(long, conflicts_with = "fresh")]
        each: Option<u32>,
        /// Commands of redis instead, whose answers are one line: those that begin with `+` count as 2xx.
        #[arg(long)]
        redis: bool,
        /// Never longer than this.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// GET the URL again and again, each on a connection of its own, until standard input ends. Print for each, when it is over: begin and
    /// end (ns since the epoch), the status code or 0, when the name was found and when it was connected, and the error.
    Record {
        /// HTTP host to dial and name.
        host: String,
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// Milliseconds between two.
        #[arg(long, default_value_t = 2)]
        pause_ms: u64,
    },
    /// GET the URL once on each of several connections, and wait. Print `sent` when all are under way, and when all are over JSON: for each
    /// its end (ns since the epoch) and what it got.
    Hold {
        /// HTTP host to dial and name.
        host: String,
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// Connections, each with a thread.
        #[arg(long, default_value_t = 8)]
        connections: u32,
        /// Give up waiting after this many seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// GET the URL a number of times on one connection; print JSON: how often each value of one JSON field was seen.
    Count {
        /// HTTP host to dial and name.
        host: String,
        /// Port.
        port: u16,
        /// Path.
        path: String,
        /// How many requests.
        times: u32,
        /// Which field of the answer.
        field: String,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Serve { port, linger_ms } => serve::run(port, Duration::from_millis(linger_ms)),
        Command::Tell { port, address } => tell::run(address, port),
        Command::Reach { to, times } => reach::run(&to, times),
        Command::Dial { to, bind, udp, timeout_ms } => dial(to, bind, udp, Duration::from_millis(timeout_ms)),
        Command::Probe { host, port, path, text, good, seconds } => {
            probe(&host, port, &path, &text, good, Duration::from_secs(seconds))
        }
        Command::Load { host, port, path, rate, connections, fresh, each, redis, seconds } => {
            let each = if fresh { Some(1) } else { each };
            load::run(&load::Target { host, port, path, each, redis }, rate, connections, Duration::from_secs(seconds))
        }
        Command::Record { host, port, path, pause_ms } => record::run(&host, port, &path, Duration::from_millis(pause_ms)),
        Command::Hold { host, port, path, connections, seconds } => {
            hold::run(&host, port, &path, connections, Duration::from_secs(seconds))
        }
        Command::Count { host, port, path, times, field } => count(&host, port, &path, times, &field),
    }
}

fn say(value: &serde_json::Value) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{value}")?;
    Ok(())
}

fn read_headers(reader: &mut impl BufRead) -> anyhow::Result<BTreeMap<String, String>> {
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(headers);
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

fn dial(to: SocketAddr, bind: Option<IpAddr>, udp: bool, timeout: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let result = if udp { dial_udp(to, timeout) } else { dial_tcp(to, bind, timeout) };
    let micros = started.elapsed().as_micros();
    match result {
        Ok((local, peer)) => say(&json!({"ok": true, "local": local.to_string(), "peer": peer.to_string(), "micros": micros})),
        Err(error) => say(&json!({"ok": false, "errno": error.raw_os_error(), "error": error.to_string(), "micros": micros})),
    }
}

fn dial_udp(to: SocketAddr, timeout: Duration) -> std::io::Result<(SocketAddr, SocketAddr)> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send_to(b"?", to)?;
    let (_, from) = socket.recv_from(&mut [0; 512])?;
    Ok((socket.local_addr()?, from))
}

fn dial_tcp(to: SocketAddr, bind: Option<IpAddr>, timeout: Duration) -> std::io::Result<(SocketAddr, SocketAddr)> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind as bind_socket, connect, setsockopt, socket, sockopt,
    };
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let wait = nix::sys::time::TimeVal::new(i64::try_from(timeout.as_secs()).unwrap_or(3), i64::from(timeout.subsec_micros()));
    setsockopt(&fd, sockopt::SendTimeout, &wait)?;
    if let Some(address) = bind {
        bind_socket(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(SocketAddr::new(address, 0)))?;
    }
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(fd);
    Ok((stream.local_addr()?, stream.peer_addr()?))
}

fn get(stream: &TcpStream, host: &str, path: &str) -> anyhow::Result<(String, String)> {
    let (status, _, body) = exchange(stream, host, path)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// One request and its answer: status line, headers, body.
fn exchange(stream: &TcpStream, host: &str, path: &str) -> anyhow::Result<(String, BTreeMap<String, String>, Vec<u8>)> {
    let mut writer = stream;
    write!(writer, "GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    anyhow::ensure!(!status.is_empty(), "the connection was closed before an answer");
    let headers = read_headers(&mut reader)?;
    let mut body = Vec::new();
    match headers.get("content-length") {
        Some(length) => {
            body.resize(length.parse()?, 0);
            reader.read_exact(&mut body)?;
        }
        None => read_chunks(&mut reader, &mut body)?,
    }
    Ok((status.trim().to_owned(), headers, body))
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> anyhow::Result<()> {
    loop {
        let mut size = String::new();
        reader.read_line(&mut size)?;
        let size = usize::from_str_radix(size.trim(), 16)?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk)?;
        if size == 0 {
            return Ok(());
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

/// By the clock that all processes of the machine share.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

fn probe(host: &str, port: u16, path: &str, text: &str, good: u32, limit: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let (mut in_a_row, mut total, mut last_other) = (0, 0u64, 0u128);
    while in_a_row < good {
        anyhow::ensure!(started.elapsed() < limit, "{total} answers in {limit:?}, never {good} in a row with {text:?}");
        let answer = TcpStream::connect((host, port)).map_err(anyhow::Error::from).and_then(|s| get(&s, host, path));
        total += 1;
        if answer.is_ok_and(|(status, body)| status.contains(text) || body.contains(text)) {
            in_a_row += u32::from(last_other > 0);
        } else {
            if last_other == 0 {
                writeln!(std::io::stdout(), "started")?;
            }
            in_a_row = 0;
            last_other = now();
        }
    }
    say(&json!({"last_other_ns": last_other.to_string(), "answers": total}))
}

fn count(host: &str, port: u16, path: &str, times: u32, field: &str) -> anyhow::Result<()> {
    let stream = TcpStream::connect((host, port))?;
    stream.set_nodelay(true)?;
    let mut seen = BTreeMap::<String, u32>::new();
    for _ in 0..times {
        let (status, body) = get(&stream, host, path)?;
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let value = parsed.get(field).and_then(|v| v.as_str()).map_or(status, str::to_owned);
        *seen.entry(value).or_default() += 1;
    }
    say(&json!(seen))
}
