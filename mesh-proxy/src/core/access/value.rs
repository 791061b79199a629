//! What commands stand for, as text and as JSON.

use super::{Command, Entry, Fact, Name, Piece, header, push, write};
use std::net::SocketAddr;
use std::time::SystemTime;

/// Adds the command's text; false: there is none.
pub(super) fn text(command: &Command, entry: &Entry<'_>, out: &mut String) -> bool {
    match command {
        Command::Nothing => false,
        Command::Request(name, other) => {
            request(name, entry, out) || other.as_ref().is_some_and(|other| request(other, entry, out))
        }
        Command::Response(name, other) => {
            let found = entry.response.get(name).or_else(|| entry.response.get(other.as_ref()?));
            found.is_some_and(|value| header(value, out))
        }
        Command::Fact(fact) => self::fact(*fact, entry, out),
    }
}

fn request(name: &Name, entry: &Entry<'_>, out: &mut String) -> bool {
    let text = match name {
        Name::Authority => entry.authority,
        Name::Method => entry.method,
        Name::Path => entry.path,
        Name::Scheme => entry.scheme,
        Name::Header(name) => return entry.request.get(name).is_some_and(|value| header(value, out)),
    };
    some(text, out)
}

fn some(text: &str, out: &mut String) -> bool {
    out.push_str(text);
    !text.is_empty()
}

fn fact(fact: Fact, entry: &Entry<'_>, out: &mut String) -> bool {
    let address = |address: Option<SocketAddr>, out: &mut String| address.is_some_and(|address| push(out, address));
    match fact {
        Fact::DownstreamLocalAddress => address(entry.destination, out),
        Fact::DownstreamRemoteAddress => match entry.client {
            Some(client) => push(out, client),
            None => entry.client_ip.is_some_and(|ip| push(out, ip)),
        },
        Fact::DownstreamRemoteAddressWithoutPort => entry.client_ip.is_some_and(|ip| push(out, ip)),
        Fact::Protocol => some(entry.protocol, out),
        Fact::ResponseCodeDetails => !entry.protocol.is_empty() && some(entry.flags.details(entry.answered), out),
        Fact::ResponseFlags => push(out, entry.flags),
        Fact::RouteName => some(entry.route, out),
        Fact::StartTime => utc(entry.started, out),
        Fact::TraceId => entry.trace_id.is_some_and(|id| some(id, out)),
        Fact::UpstreamCluster => some(entry.cluster, out),
        Fact::UpstreamHost => address(entry.upstream, out),
        Fact::Workload => some(entry.workload, out),
        _ => number(fact, entry).is_some_and(|number| push(out, number)),
    }
}

fn number(fact: Fact, entry: &Entry<'_>) -> Option<u64> {
    Some(match fact {
        Fact::BytesReceived => entry.received,
        Fact::BytesSent => entry.sent,
        Fact::Duration => u64::try_from(entry.duration.as_millis()).unwrap_or(u64::MAX),
        Fact::GrpcStatus => entry.grpc_status?.into(),
        Fact::ResponseCode => entry.status.into(),
        Fact::UpstreamRequestAttemptCount => entry.attempts.into(),
        _ => return None,
    })
}

/// A member's value: a number or null if it is one command alone, else a string.
pub(super) fn json(pieces: &[Piece], entry: &Entry<'_>, out: &mut String) {
    if let [Piece::Command(command, None)] = pieces {
        if let Command::Fact(fact) = command
            && let Some(number) = number(*fact, entry)
        {
            push(out, number);
            return;
        }
        let mut value = String::new();
        if !text(command, entry, &mut value) {
            return out.push_str("null");
        }
        return quoted(&value, out);
    }
    let mut value = String::new();
    pieces.iter().for_each(|piece| write(piece, entry, &mut value));
    quoted(&value, out);
}

/// A JSON string.
pub(super) fn quoted(text: &str, out: &mut String) {
    // A string can always be written as JSON.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// `2026-01-31T23:59:59.999Z`.
fn utc(time: SystemTime, out: &mut String) -> bool {
    jiff::Timestamp::try_from(time).is_ok_and(|time| push(out, time.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")))
}
