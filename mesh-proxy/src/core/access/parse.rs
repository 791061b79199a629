//! A format's commands, read once.

use super::{Command, Fact, Name, Piece};
use http::HeaderName;
use std::fmt;

/// A command that is not taken.
#[derive(Debug, Eq, PartialEq)]
pub struct Unknown(pub String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}% is not supported", self.0)
    }
}

/// Reads a text with commands; `%%` is a per cent sign.
///
/// # Errors
/// Names the first command that is not taken.
pub fn parse(text: &str) -> Result<Vec<Piece>, Unknown> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let (inside, after) = rest.split_once('%').ok_or_else(|| Unknown(rest.to_owned()))?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
        }
        pieces.push(command(inside).ok_or_else(|| Unknown(inside.to_owned()))?);
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    Ok(pieces)
}

/// `NAME`, `NAME(ARGUMENT)`, `NAME(ARGUMENT):LENGTH`.
fn command(text: &str) -> Option<Piece> {
    let (name, argument, most) = match text.split_once('(') {
        None => (text, None, None),
        Some((name, rest)) => {
            let (argument, rest) = rest.rsplit_once(')')?;
            let most = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':')?.parse().ok()?),
            };
            (name, Some(argument), most)
        }
    };
    let command = match (name, argument) {
        ("REQ", Some(argument)) => {
            let (name, other) = alternatives(argument, request_name)?;
            Command::Request(name, other)
        }
        ("RESP", Some(argument)) => {
            let (name, other) = alternatives(argument, |name| name.parse::<HeaderName>().ok())?;
            Command::Response(name, other)
        }
        // One proxy serves many pods: which of them asked.
        ("DYNAMIC_METADATA", Some("mesh.source:workload")) => Command::Fact(Fact::Workload),
        (
            "CONNECTION_TERMINATION_DETAILS"
            | "REQUESTED_SERVER_NAME"
            | "UPSTREAM_LOCAL_ADDRESS"
            | "UPSTREAM_TRANSPORT_FAILURE_REASON",
            None,
        ) => Command::Nothing,
        (name, None) => Command::Fact(fact(name)?),
        _ => return None,
    };
    Some(Piece::Command(command, most))
}

fn fact(name: &str) -> Option<Fact> {
    Some(match name {
        "BYTES_RECEIVED" => Fact::BytesReceived,
        "BYTES_SENT" => Fact::BytesSent,
        "DOWNSTREAM_LOCAL_ADDRESS" => Fact::DownstreamLocalAddress,
        "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Fact::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Fact::DownstreamRemoteAddressWithoutPort
        }
        "DURATION" => Fact::Duration,
        "GRPC_STATUS_NUMBER" => Fact::GrpcStatus,
        "PROTOCOL" => Fact::Protocol,
        "RESPONSE_CODE" => Fact::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Fact::ResponseCodeDetails,
        "RESPONSE_FLAGS" => Fact::ResponseFlags,
        "ROUTE_NAME" => Fact::RouteName,
        "START_TIME" => Fact::StartTime,
        "TRACE_ID" => Fact::TraceId,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Fact::UpstreamCluster,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Fact::UpstreamHost,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Fact::UpstreamRequestAttemptCount,
        _ => return None,
    })
}

fn alternatives<T>(argument: &str, read: impl Fn(&str) -> Option<T>) -> Option<(T, Option<T>)> {
    match argument.split_once('?') {
        None => Some((read(argument)?, None)),
        Some((name, other)) => Some((read(name)?, Some(read(other)?))),
    }
}

fn request_name(name: &str) -> Option<Name> {
    Some(match name.to_ascii_lowercase().as_str() {
        ":authority" => Name::Authority,
        ":method" => Name::Method,
        ":path" | "x-envoy-original-path" => Name::Path,
        ":scheme" => Name::Scheme,
        // `X-ENVOY-ORIGINAL-PATH?:PATH` is split at the question mark, so the colon belongs to the name.
        other => Name::Header(other.parse().ok()?),
    })
}
