//! A format's commands, read once.

use super::{Command, Fact, Name, Piece};
use http::HeaderName;
use mesh_xds::operators::{self, Unknown, alternatives};

/// Reads a text with commands; `%%` is a per cent sign.
///
/// # Errors
/// Names the first command that is not taken.
pub fn parse(text: &str) -> Result<Vec<Piece>, Unknown> {
    operators::parse(text, command)
}

fn command(name: &str, argument: Option<&str>) -> Option<Command> {
    Some(match (name, argument) {
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
    })
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
