//! The cases: what is asked of each rival, over which port of it.

/// Which of a rival's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// One route, HTTP/1.
    One,
    /// The same, HTTP/2 by prior knowledge.
    Http2,
    /// A thousand routes, of which the request's is the last.
    Many,
    /// gRPC, HTTP/2 on both sides.
    Grpc,
}

/// Who asks.
#[derive(Clone, Copy)]
pub(super) enum Load {
    /// wrk, HTTP/1.1.
    Wrk { connections: u32, headers: &'static [&'static str] },
    /// h2load; `grpc`: with a message.
    Http2 { connections: u32, streams: u32, grpc: bool },
}

pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) port: Port,
    pub(super) path: &'static str,
    pub(super) load: Load,
}

const fn keep_alive(name: &'static str, port: Port, path: &'static str, connections: u32) -> Case {
    Case { name, port, path, load: Load::Wrk { connections, headers: &[] } }
}

pub(super) const KEEP_ALIVE: &str = "keep-alive, 32 connections, 1 KiB";
pub(super) const MANY: &str = "1,000 routes, 32 connections, 1 KiB";

/// All of them; the first is what `--quick` measures.
pub(super) const CASES: [Case; 8] = [
    keep_alive(KEEP_ALIVE, Port::One, "/1k", 32),
    keep_alive(MANY, Port::Many, "/1k", 32),
    keep_alive("keep-alive, 1 connection, 1 KiB", Port::One, "/1k", 1),
    keep_alive("keep-alive, 256 connections, 1 KiB", Port::One, "/1k", 256),
    Case {
        name: "a connection per request, 32 at a time, 1 KiB",
        port: Port::One,
        path: "/1k",
        load: Load::Wrk { connections: 32, headers: &["Connection: close"] },
    },
    keep_alive("keep-alive, 8 connections, 1 MiB", Port::One, "/1m", 8),
    Case {
        name: "HTTP/2 to HTTP/1, 4 connections of 16 streams, 1 KiB",
        port: Port::Http2,
        path: "/1k",
        load: Load::Http2 { connections: 4, streams: 16, grpc: false },
    },
    Case {
        name: "unary gRPC, 4 connections of 16 streams",
        port: Port::Grpc,
        path: "/bench.Greeter/Hello",
        load: Load::Http2 { connections: 4, streams: 16, grpc: true },
    },
];
