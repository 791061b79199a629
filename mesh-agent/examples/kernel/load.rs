//! The loops. One thread holds both ends, so that every packet is made, carried and taken on one core, and nothing waits for a scheduler: what
//! is left is what the kernel does.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use socket2::{Domain, SockAddr, Socket, Type};

/// One slice of one load.
pub(crate) struct Sample {
    /// Connections, requests or bytes.
    pub(crate) done: u64,
    pub(crate) seconds: f64,
    /// Of this thread, and of the kernel on its behalf.
    pub(crate) cpu: f64,
    /// Nanoseconds of one connect() or one exchange.
    pub(crate) p50: u32,
    pub(crate) p99: u32,
}

/// How the accepting side learns where the client wanted to go.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Asked {
    /// It is the one that was meant.
    Nothing,
    /// `getsockname`.
    OwnName,
    /// What conntrack remembers.
    OriginalDst,
}

struct Clock {
    start: Instant,
    cpu: f64,
    slice: Duration,
    nanos: Vec<u32>,
}

impl Clock {
    fn start(slice: Duration) -> Self {
        let mut core = CpuSet::new();
        // The last one: interrupts tend to be the first one's.
        let last = std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
        core.set(last).expect("a core of this machine");
        sched_setaffinity(Pid::from_raw(0), &core).expect("may choose its core");
        Self { start: Instant::now(), cpu: cpu(), slice, nanos: Vec::with_capacity(1 << 16) }
    }

    fn goes_on(&self) -> bool {
        self.start.elapsed() < self.slice
    }

    fn took(&mut self, begin: Instant) {
        self.nanos.push(begin.elapsed().as_nanos().try_into().unwrap_or(u32::MAX));
    }

    fn end(mut self, done: u64) -> Sample {
        let (seconds, cpu) = (self.start.elapsed().as_secs_f64(), cpu() - self.cpu);
        self.nanos.sort_unstable();
        let at = |share: usize| self.nanos.get(self.nanos.len() * share / 100).copied().unwrap_or_default();
        Sample { done, seconds, cpu, p50: at(50), p99: at(99) }
    }
}

fn cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("this thread's");
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

/// Connects, accepts, closes: one after the other. The reset at the end leaves no port in TIME_WAIT.
pub(crate) fn connections(to: &[SockAddr], listeners: &[Socket], asked: Asked, slice: Duration) -> Sample {
    let mut draw = Draw::new();
    let mut done = 0;
    let mut clock = Clock::start(slice);
    while clock.goes_on() {
        let to = &to[draw.below(to.len())];
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.set_linger(Some(Duration::ZERO)).expect("set");
        let begin = Instant::now();
        client.connect(to).unwrap_or_else(|error| panic!("{:?}: {error}", to.as_socket()));
        clock.took(begin);
        let server = accept(listeners);
        let name = match asked {
            Asked::Nothing => None,
            Asked::OwnName => Some(server.local_addr().expect("bound")),
            Asked::OriginalDst => Some(server.original_dst_v4().expect("conntrack knows")),
        };
        assert!(name.is_none_or(|name| name.as_socket() == to.as_socket()), "handed over with its destination");
        drop(client);
        drop(server);
        done += 1;
    }
    clock.end(done)
}

/// Which of them it came to is not known: each is asked, without waiting.
fn accept(listeners: &[Socket]) -> Socket {
    for _ in 0..1_000_000 {
        for listener in listeners {
            match listener.accept_raw() {
                Ok((socket, _)) => return socket,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }
    panic!("connected, and nobody was asked");
}

/// A connection that stays, for [`exchanges`] and [`stream`].
pub(crate) fn pair(to: &SockAddr, listeners: &[Socket]) -> (Socket, Socket) {
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    client.connect(to).expect("connects");
    let server = accept(listeners);
    for socket in [&client, &server] {
        socket.set_tcp_nodelay(true).expect("set");
        socket.set_nonblocking(true).expect("set");
    }
    (client, server)
}

/// Requests of 128 bytes, answers of 1 KiB, one after the other.
pub(crate) fn exchanges(to: &SockAddr, listeners: &[Socket], slice: Duration) -> Sample {
    let (client, server) = pair(to, listeners);
    let (question, answer) = ([0; 128], [0; 1024]);
    let mut done = 0;
    let mut clock = Clock::start(slice);
    while clock.goes_on() {
        let begin = Instant::now();
        (&client).write_all(&question).expect("fits");
        take(&server, question.len());
        (&server).write_all(&answer).expect("fits");
        take(&client, answer.len());
        clock.took(begin);
        done += 1;
    }
    clock.end(done)
}

fn take(socket: &Socket, mut wanted: usize) {
    let mut buffer = [MaybeUninit::uninit(); 2048];
    while wanted > 0 {
        match socket.recv(&mut buffer[..wanted]) {
            Ok(0) => panic!("closed"),
            Ok(length) => wanted -= length,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
}

/// As many bytes as go through, in writes of 64 KiB.
pub(crate) fn stream(to: &SockAddr, listeners: &[Socket], slice: Duration) -> Sample {
    let (client, server) = pair(to, listeners);
    let (from, mut into) = (vec![0; 1 << 16], vec![0; 1 << 18]);
    let mut done = 0;
    let clock = Clock::start(slice);
    while clock.goes_on() {
        match (&client).write(&from) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        match (&server).read(&mut into) {
            Ok(length) => done += length as u64,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }
    clock.end(done)
}

/// Xorshift: which service is next costs nothing and follows no order.
struct Draw(u64);

impl Draw {
    const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}
