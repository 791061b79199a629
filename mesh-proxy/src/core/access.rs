//! Lines of the access log: Envoy's `%COMMANDS%` in a text, or as values of a JSON object. Parsed once, then written without look-ups.
//!
//! A request's headers are those that the client sent, with the proxy's `x-request-id`; routes' changes to them do not show. So
//! `%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%` and `%REQ(:PATH)%` are both the path that the client asked for.

mod parse;
mod value;

pub use parse::parse;

use super::flags::Flags;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use mesh_xds::operators;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// Istio's own text format, with the asking pod added at its end: one proxy logs for all pods of a node.
pub const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% \
%BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// A parsed format.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Written as it is, commands replaced.
    Text(Vec<Piece>),
    /// An object with these members, and a line's end. A value that is one command of a number is a number.
    Json(Vec<(String, Vec<Piece>)>),
}

/// A part of a text.
pub type Piece = operators::Piece<Command>;

/// What a command stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// `REQ(NAME?OTHER)`
    Request(Name, Option<Name>),
    /// `RESP(NAME?OTHER)`
    Response(HeaderName, Option<HeaderName>),
    /// One of the others.
    Fact(Fact),
    /// What this proxy never has something to say about: `-`.
    Nothing,
}

/// A header, or what HTTP/2 treats as one.
#[derive(Clone, Debug, PartialEq)]
pub enum Name {
    /// `:authority`
    Authority,
    /// `:method`
    Method,
    /// `:path`, also `x-envoy-original-path`.
    Path,
    /// `:scheme`
    Scheme,
    /// Any other.
    Header(HeaderName),
}

/// Commands without argument.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "named as Envoy's commands, which docs/xds.md lists")]
pub enum Fact {
    BytesReceived,
    BytesSent,
    DownstreamLocalAddress,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    Duration,
    GrpcStatus,
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    RouteName,
    StartTime,
    TraceId,
    UpstreamCluster,
    UpstreamHost,
    UpstreamRequestAttemptCount,
    Workload,
}

/// What is known of a request, or of a connection, that is over. A connection has no method, no status and no headers.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as in a span's facts")]
pub struct Entry<'a> {
    pub started: SystemTime,
    pub duration: Duration,
    pub method: &'a str,
    pub scheme: &'a str,
    pub authority: &'a str,
    pub path: &'a str,
    /// Empty for a connection.
    pub protocol: &'static str,
    pub request: &'a HeaderMap,
    pub response: &'a HeaderMap,
    pub status: u16,
    pub grpc_status: Option<u16>,
    pub flags: Flags,
    /// An upstream's response was begun.
    pub answered: bool,
    pub received: u64,
    pub sent: u64,
    /// 0: none.
    pub attempts: u32,
    pub cluster: &'a str,
    pub route: &'a str,
    pub upstream: Option<SocketAddr>,
    pub client: Option<SocketAddr>,
    pub client_ip: Option<IpAddr>,
    pub destination: Option<SocketAddr>,
    pub trace_id: Option<&'a str>,
    /// The asking pod.
    pub workload: &'a str,
}

impl Format {
    /// Adds a line.
    pub fn write(&self, entry: &Entry<'_>, out: &mut String) {
        match self {
            Self::Text(pieces) => pieces.iter().for_each(|piece| write(piece, entry, out)),
            Self::Json(members) => {
                let mut separator = '{';
                for (name, pieces) in members {
                    out.push(separator);
                    separator = ',';
                    value::quoted(name, out);
                    out.push(':');
                    value::json(pieces, entry, out);
                }
                out.push_str(if members.is_empty() { "{}\n" } else { "}\n" });
            }
        }
    }
}

fn write(piece: &Piece, entry: &Entry<'_>, out: &mut String) {
    match piece {
        Piece::Text(text) => out.push_str(text),
        Piece::Command(command, most) => {
            let start = out.len();
            if !value::text(command, entry, out) {
                out.push('-');
            }
            let end = most.map_or(out.len(), |most| start + most);
            if end < out.len() {
                let end = (start..=end).rev().find(|end| out.is_char_boundary(*end)).unwrap_or(start);
                out.truncate(end);
            }
        }
    }
}

fn push(out: &mut String, value: impl std::fmt::Display) -> bool {
    // Writing to a string does not fail.
    write!(out, "{value}").is_ok()
}

/// A header's bytes as text; what is none of ASCII's is replaced.
fn header(value: &HeaderValue, out: &mut String) -> bool {
    out.extend(value.as_bytes().iter().map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' }));
    true
}

#[cfg(test)]
mod tests;
