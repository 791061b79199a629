//! Envoy's command operators (`%REQ(x-user)%`) in values of added headers: parsed once, when the configuration comes, and filled in per request.
//!
//! The operators that are known are those that say something true of one request at one proxy of a whole node; all others are refused by name.

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

/// A header's value: constant, or made of pieces for each request.
#[derive(Clone, Debug)]
pub enum Format {
    /// No operator in it.
    Constant(HeaderValue),
    /// Text and operators.
    Pieces(Vec<Piece>),
}

/// Part of a value.
#[derive(Clone, Debug)]
pub enum Piece {
    /// As it is.
    Text(String),
    /// What the operator says, cut to so many bytes.
    Command(Command, Option<usize>),
}

/// An operator.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
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

/// Why a value was not understood.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unknown {
    /// Not one of those above.
    #[error("%{0}% is not supported")]
    Command(String),
    /// A single `%`.
    #[error("a % without its end; write %% for a percent sign")]
    Open,
    /// Text that no header may carry.
    #[error("no valid header value")]
    Value,
}

/// What is known of an exchange.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The client as `x-forwarded-for` tells, if it may.
    pub client: IpAddr,
    /// Where the client wanted to go.
    pub local: SocketAddr,
    /// Of the client's connection.
    pub protocol: Version,
    /// When the request came. A clock is asked only if a value wants it.
    pub started: &'a dyn Fn() -> SystemTime,
    /// Of the node.
    pub hostname: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// The cluster's name.
    pub cluster: &'a str,
    /// `:method`, `:path`, `:authority`, `:scheme`.
    pub pseudo: [&'a str; 4],
    /// The request's headers; `None` while they are themselves what is changed.
    pub request: Option<&'a HeaderMap>,
    /// The endpoint.
    pub upstream: Option<SocketAddr>,
    /// The response's status.
    pub status: Option<u16>,
}

impl Format {
    /// Reads a value.
    ///
    /// # Errors
    /// Names the operator that is not known.
    pub fn parse(text: &str) -> Result<Self, Unknown> {
        let (mut pieces, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find('%') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let (command, after) = rest.split_once('%').ok_or(Unknown::Open)?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            let (command, most) = operator(command).ok_or_else(|| Unknown::Command(command.to_owned()))?;
            pieces.push(Piece::Command(command, most));
            rest = after;
        }
        plain.push_str(rest);
        let value = HeaderValue::try_from(&plain).map_err(|_invalid| Unknown::Value)?;
        if pieces.is_empty() {
            return Ok(Self::Constant(value));
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Self::Pieces(pieces))
    }

    /// Does it need the request's headers after the request was sent?
    #[must_use]
    pub fn asks_request(&self) -> bool {
        let asks = |piece: &Piece| matches!(piece, Piece::Command(Command::Request(..), _));
        matches!(self, Self::Pieces(pieces) if pieces.iter().any(asks))
    }

    /// The value; `headers` are those that are being changed. What is not there is empty; `None` if the result is no header value.
    #[must_use]
    pub fn fill(&self, headers: &HeaderMap, facts: &Facts<'_>) -> Option<HeaderValue> {
        let pieces = match self {
            Self::Constant(value) => return Some(value.clone()),
            Self::Pieces(pieces) => pieces,
        };
        let mut out = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Command(command, most) => {
                    let from = out.len();
                    command.write(headers, facts, &mut out);
                    if let Some(most) = most {
                        let end = (from..=out.len().min(from + most)).rev().find(|end| out.is_char_boundary(*end));
                        out.truncate(end.unwrap_or(from));
                    }
                }
            }
        }
        HeaderValue::try_from(out).ok()
    }
}

/// `NAME`, `NAME(argument)` or `NAME(argument):length`.
fn operator(text: &str) -> Option<(Command, Option<usize>)> {
    let Some((name, rest)) = text.split_once('(') else {
        let command = match text {
            "DOWNSTREAM_REMOTE_ADDRESS" => Command::Client,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Command::ClientHost,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Command::Peer,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Command::PeerHost,
            "DOWNSTREAM_LOCAL_ADDRESS" => Command::Local,
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Command::LocalHost,
            "DOWNSTREAM_LOCAL_PORT" => Command::LocalPort,
            "PROTOCOL" => Command::Protocol,
            "START_TIME" => Command::StartTime,
            "HOSTNAME" => Command::Hostname,
            "ROUTE_NAME" => Command::Route,
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Command::Cluster,
            "UPSTREAM_REMOTE_ADDRESS" => Command::Upstream,
            "RESPONSE_CODE" => Command::Status,
            _ => return None,
        };
        return Some((command, None));
    };
    let (argument, after) = rest.split_once(')')?;
    let most = match after.strip_prefix(':') {
        Some(length) => Some(length.parse().ok()?),
        None if after.is_empty() => None,
        None => return None,
    };
    let (first, other) = argument.split_once('?').map_or((argument, None), |(first, other)| (first, Some(other)));
    let command = match name {
        "REQ" => Command::Request(Source::parse(first)?, other.map(Source::parse).map_or(Some(None), |s| s.map(Some))?),
        "RESP" => Command::Response(first.parse().ok()?, other.map(str::parse).transpose().ok()?),
        _ => return None,
    };
    Some((command, most))
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

    fn value<'a>(&self, headers: &'a HeaderMap, facts: &'a Facts<'_>) -> Option<&'a str> {
        match self {
            Self::Method => Some(facts.pseudo[0]),
            Self::Path => Some(facts.pseudo[1]),
            Self::Authority => Some(facts.pseudo[2]),
            Self::Scheme => Some(facts.pseudo[3]),
            Self::Header(name) => headers.get(name)?.to_str().ok(),
        }
    }
}

impl Command {
    fn write(&self, headers: &HeaderMap, facts: &Facts<'_>, out: &mut String) {
        let header = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let written = match self {
            Self::Request(first, other) => {
                let headers = facts.request.unwrap_or(headers);
                let value = first.value(headers, facts).or_else(|| other.as_ref()?.value(headers, facts));
                out.write_str(value.unwrap_or_default())
            }
            // Only what a response changes is asked of a response.
            Self::Response(..) if facts.request.is_none() && facts.status.is_none() => Ok(()),
            Self::Response(first, other) => out.write_str(header(first).or_else(|| header(other.as_ref()?)).unwrap_or_default()),
            Self::Client if facts.client == facts.peer.ip() => write!(out, "{}", facts.peer),
            // As Envoy: an address out of `x-forwarded-for` has port 0.
            Self::Client => write!(out, "{}", SocketAddr::new(facts.client, 0)),
            Self::ClientHost => write!(out, "{}", facts.client),
            Self::Peer => write!(out, "{}", facts.peer),
            Self::PeerHost => write!(out, "{}", facts.peer.ip()),
            Self::Local => write!(out, "{}", facts.local),
            Self::LocalHost => write!(out, "{}", facts.local.ip()),
            Self::LocalPort => write!(out, "{}", facts.local.port()),
            Self::Protocol => out.write_str(protocol(facts.protocol)),
            Self::StartTime => start_time((facts.started)(), out),
            Self::Hostname => out.write_str(facts.hostname),
            Self::Route => out.write_str(facts.route),
            Self::Cluster => out.write_str(facts.cluster),
            Self::Upstream => facts.upstream.map_or(Ok(()), |upstream| write!(out, "{upstream}")),
            Self::Status => facts.status.map_or(Ok(()), |status| write!(out, "{status}")),
        };
        // Writing to a string does not fail.
        debug_assert!(written.is_ok());
    }
}

/// `HTTP/1.1`, as Envoy writes it.
#[must_use]
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn start_time(time: SystemTime, out: &mut String) -> std::fmt::Result {
    match jiff::Timestamp::try_from(time) {
        Ok(time) => write!(out, "{}", time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ")),
        // Beyond the year 9999.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    /// Facts for tests of other modules.
    pub(crate) fn facts() -> Facts<'static> {
        Facts {
            peer: SocketAddr::from(([9, 0, 1, 2], 4711)),
            client: [9, 0, 1, 2].into(),
            local: SocketAddr::from(([11, 0, 0, 1], 80)),
            protocol: Version::HTTP_11,
            started: &|| SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            hostname: "node1",
            route: "r",
            cluster: "c",
            pseudo: ["GET", "/p?q", "h:80", "http"],
            request: None,
            upstream: None,
            status: None,
        }
    }

    fn filled(text: &str, headers: &HeaderMap, facts: &Facts<'_>) -> String {
        let value = Format::parse(text).expect("known").fill(headers, facts).expect("a value");
        value.to_str().expect("text").to_owned()
    }

    #[test]
    fn values_are_filled_in() {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-user"), HeaderValue::from_static("jason"))]);
        for (text, expected) in [
            ("plain", "plain"),
            ("100%%", "100%"),
            ("a %REQ(X-User)% b", "a jason b"),
            ("%REQ(none?x-user):3%", "jas"),
            ("%REQ(none)%", ""),
            ("%REQ(:METHOD)% %REQ(:path)% %REQ(:authority)% %REQ(:scheme)%", "GET /p?q h:80 http"),
            ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "9.0.1.2:4711 9.0.1.2"),
            ("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_PORT%", "11.0.0.1:80 80"),
            ("%PROTOCOL% %HOSTNAME% %ROUTE_NAME% %UPSTREAM_CLUSTER%", "HTTP/1.1 node1 r c"),
            ("%START_TIME%", "2023-11-14T22:13:20.042Z"),
            ("%RESP(x-user)%%RESPONSE_CODE%", ""),
        ] {
            assert_eq!(filled(text, &headers, &facts()), expected, "{text}");
        }
        let response = HeaderMap::from_iter([(HeaderName::from_static("x-user"), HeaderValue::from_static("other"))]);
        let facts = Facts { request: Some(&headers), status: Some(503), client: [1, 1, 1, 1].into(), ..facts() };
        let text = "%REQ(x-user)% %RESP(x-user)% %RESPONSE_CODE% %DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%";
        assert_eq!(filled(text, &response, &facts), "jason other 503 1.1.1.1:0 9.0.1.2:4711");
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (text, expected) in [
            ("%ENVIRONMENT(HOME)%", "%ENVIRONMENT(HOME)% is not supported"),
            ("%START_TIME(%s)%", "%START_TIME(% is not supported"),
            ("%REQ(x-a", "a % without its end; write %% for a percent sign"),
            ("%REQ(a b)%", "%REQ(a b)% is not supported"),
            ("%REQ(a):x%", "%REQ(a):x% is not supported"),
            ("a\nb", "no valid header value"),
        ] {
            assert_eq!(Format::parse(text).expect_err("refused").to_string(), expected, "{text}");
        }
    }
}
