//! Envoy's command operators (`%REQ(x-user)%`) in texts: how they are spelled, and which of them the values of changed headers may have.
//!
//! Both ends read them here, so that mesh-control admits what mesh-proxy takes: a value that the proxy refused would cost the
//! routes of a whole port. What an operator stands for is the proxy's.

use http::HeaderName;

/// Part of a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece<C> {
    /// As it is.
    Text(String),
    /// What the operator says, cut to so many bytes.
    Command(C, Option<usize>),
}

/// Why a text was not understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unknown {
    /// Not one that is known here.
    #[error("%{0}% is not supported")]
    Command(String),
    /// A single `%`.
    #[error("a % without its end; write %% for a percent sign")]
    Open,
}

/// Reads a text with operators; `%%` is a per cent sign. `read` knows them by name and argument.
///
/// # Errors
/// Names the first operator that `read` does not know.
pub fn parse<C>(text: &str, read: impl Fn(&str, Option<&str>) -> Option<C>) -> Result<Vec<Piece<C>>, Unknown> {
    let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let (inside, after) = rest.split_once('%').ok_or(Unknown::Open)?;
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        let known = spelled(inside).and_then(|(name, argument, most)| Some(Piece::Command(read(name, argument)?, most)));
        pieces.push(known.ok_or_else(|| Unknown::Command(inside.to_owned()))?);
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

/// `NAME`, `NAME(ARGUMENT)` or `NAME(ARGUMENT):LENGTH`.
fn spelled(text: &str) -> Option<(&str, Option<&str>, Option<usize>)> {
    let Some((name, rest)) = text.split_once('(') else { return Some((text, None, None)) };
    let (argument, after) = rest.rsplit_once(')')?;
    let most = match after.strip_prefix(':') {
        Some(length) => Some(length.parse().ok()?),
        None if after.is_empty() => None,
        None => return None,
    };
    Some((name, Some(argument), most))
}

/// `NAME` or `NAME?OTHER`, each read by `read`.
pub fn alternatives<T>(argument: &str, read: impl Fn(&str) -> Option<T>) -> Option<(T, Option<T>)> {
    match argument.split_once('?') {
        None => Some((read(argument)?, None)),
        Some((name, other)) => Some((read(name)?, Some(read(other)?))),
    }
}

/// What a value of a changed header may have: what says something true of one request at one proxy of a whole node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum InHeader {
    /// `%REQ(name?other)%`: a request header, else the other.
    Request(Source, Option<Source>),
    /// `%RESP(name?other)%`: the same of the response.
    Response(HeaderName, Option<HeaderName>),
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`: the client, as trusted by `x-forwarded-for`, with a port if it is the peer.
    Client,
    /// `%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%`
    ClientHost,
    /// `%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%`: the other end of the connection.
    Peer,
    /// `%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%`
    PeerHost,
    /// `%DOWNSTREAM_LOCAL_ADDRESS%`: where the client wanted to go.
    Local,
    /// `%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%`
    LocalHost,
    /// `%DOWNSTREAM_LOCAL_PORT%`
    LocalPort,
    /// `%PROTOCOL%`
    Protocol,
    /// `%START_TIME%`, as `2026-11-21T12:00:00.000Z`.
    StartTime,
    /// `%HOSTNAME%`: the node's.
    Hostname,
    /// `%ROUTE_NAME%`
    Route,
    /// `%UPSTREAM_CLUSTER%`
    Cluster,
    /// `%UPSTREAM_REMOTE_ADDRESS%`: the endpoint; of responses only.
    Upstream,
    /// `%RESPONSE_CODE%`: of responses only.
    Status,
}

/// What `%REQ(...)%` names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Source {
    /// `:method`
    Method,
    /// `:path`, with the query.
    Path,
    /// `:authority` or `host`
    Authority,
    /// `:scheme`
    Scheme,
    /// A header; the first, if there are several.
    Header(HeaderName),
}

/// Reads the value of a changed header.
///
/// # Errors
/// Names the first operator that it may not have.
pub fn header_value(text: &str) -> Result<Vec<Piece<InHeader>>, Unknown> {
    parse(text, in_header)
}

fn in_header(name: &str, argument: Option<&str>) -> Option<InHeader> {
    Some(match (name, argument) {
        ("REQ", Some(argument)) => {
            let (first, other) = alternatives(argument, Source::parse)?;
            InHeader::Request(first, other)
        }
        ("RESP", Some(argument)) => {
            let (first, other) = alternatives(argument, |name| name.parse().ok())?;
            InHeader::Response(first, other)
        }
        ("DOWNSTREAM_REMOTE_ADDRESS", None) => InHeader::Client,
        ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", None) => InHeader::ClientHost,
        ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", None) => InHeader::Peer,
        ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", None) => InHeader::PeerHost,
        ("DOWNSTREAM_LOCAL_ADDRESS", None) => InHeader::Local,
        ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", None) => InHeader::LocalHost,
        ("DOWNSTREAM_LOCAL_PORT", None) => InHeader::LocalPort,
        ("PROTOCOL", None) => InHeader::Protocol,
        ("START_TIME", None) => InHeader::StartTime,
        ("HOSTNAME", None) => InHeader::Hostname,
        ("ROUTE_NAME", None) => InHeader::Route,
        ("UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW", None) => InHeader::Cluster,
        ("UPSTREAM_REMOTE_ADDRESS", None) => InHeader::Upstream,
        ("RESPONSE_CODE", None) => InHeader::Status,
        _ => return None,
    })
}

impl Source {
    fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            name => Self::Header(name.parse().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_operators_alternate() {
        let name = |name: &str| Source::Header(name.parse().expect("a name"));
        let text = |text: &str| Piece::Text(text.to_owned());
        let pieces = header_value("100%% of %REQ(X-A?:path):12%, %PROTOCOL%").expect("known");
        let request = InHeader::Request(name("x-a"), Some(Source::Path));
        assert_eq!(
            pieces,
            [text("100% of "), Piece::Command(request, Some(12)), text(", "), Piece::Command(InHeader::Protocol, None)]
        );
        assert_eq!(header_value(""), Ok(vec![]));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (text, expected) in [
            ("%ENVIRONMENT(HOME)%", "%ENVIRONMENT(HOME)% is not supported"),
            ("%PROTOCOL()%", "%PROTOCOL()% is not supported"),
            ("%START_TIME(%s)%", "%START_TIME(% is not supported"),
            ("%REQ(x-a", "a % without its end; write %% for a percent sign"),
            ("%REQ(a b)%", "%REQ(a b)% is not supported"),
            ("%REQ(a):x%", "%REQ(a):x% is not supported"),
            ("%REQ%", "%REQ% is not supported"),
            ("50% off", "a % without its end; write %% for a percent sign"),
        ] {
            assert_eq!(header_value(text).expect_err("refused").to_string(), expected, "{text}");
        }
    }
}
