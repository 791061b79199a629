//! Values of added headers with Envoy's command operators (`%REQ(x-user)%`): parsed once, when the configuration comes, and filled in per request.
//! Which operators there are says [`mesh_xds::operators`].

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use mesh_xds::operators::{self, InHeader, Piece, Source};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

/// A header's value: constant, or made of pieces for each request.
#[derive(Clone, Debug)]
pub enum Format {
    /// No operator in it.
    Constant(HeaderValue),
    /// Text and operators.
    Pieces(Vec<Piece<InHeader>>),
}

/// Why a value was not understood.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unknown {
    /// An operator in it.
    #[error(transparent)]
    Operator(#[from] operators::Unknown),
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
        let pieces = operators::header_value(text)?;
        match &pieces[..] {
            [] => Ok(Self::Constant(HeaderValue::from_static(""))),
            [Piece::Text(plain)] => HeaderValue::try_from(plain).map(Self::Constant).map_err(|_invalid| Unknown::Value),
            pieces if pieces.iter().any(is_unfit) => Err(Unknown::Value),
            _ => Ok(Self::Pieces(pieces)),
        }
    }

    /// Does it need the request's headers after the request was sent?
    #[must_use]
    pub fn asks_request(&self) -> bool {
        let asks = |piece: &Piece<InHeader>| matches!(piece, Piece::Command(InHeader::Request(..), _));
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
                    write(command, headers, facts, &mut out);
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

/// Text that no header may carry.
fn is_unfit(piece: &Piece<InHeader>) -> bool {
    matches!(piece, Piece::Text(text) if HeaderValue::from_str(text).is_err())
}

fn named<'a>(source: &Source, headers: &'a HeaderMap, facts: &'a Facts<'_>) -> Option<&'a str> {
    match source {
        Source::Method => Some(facts.pseudo[0]),
        Source::Path => Some(facts.pseudo[1]),
        Source::Authority => Some(facts.pseudo[2]),
        Source::Scheme => Some(facts.pseudo[3]),
        Source::Header(name) => headers.get(name)?.to_str().ok(),
    }
}

fn write(command: &InHeader, headers: &HeaderMap, facts: &Facts<'_>, out: &mut String) {
    let header = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let written = match command {
        InHeader::Request(first, other) => {
            let headers = facts.request.unwrap_or(headers);
            let value = named(first, headers, facts).or_else(|| named(other.as_ref()?, headers, facts));
            out.write_str(value.unwrap_or_default())
        }
        // Only what a response changes is asked of a response.
        InHeader::Response(..) if facts.request.is_none() && facts.status.is_none() => Ok(()),
        InHeader::Response(first, other) => out.write_str(header(first).or_else(|| header(other.as_ref()?)).unwrap_or_default()),
        InHeader::Client if facts.client == facts.peer.ip() => write!(out, "{}", facts.peer),
        // As Envoy: an address out of `x-forwarded-for` has port 0.
        InHeader::Client => write!(out, "{}", SocketAddr::new(facts.client, 0)),
        InHeader::ClientHost => write!(out, "{}", facts.client),
        InHeader::Peer => write!(out, "{}", facts.peer),
        InHeader::PeerHost => write!(out, "{}", facts.peer.ip()),
        InHeader::Local => write!(out, "{}", facts.local),
        InHeader::LocalHost => write!(out, "{}", facts.local.ip()),
        InHeader::LocalPort => write!(out, "{}", facts.local.port()),
        InHeader::Protocol => out.write_str(protocol(facts.protocol)),
        InHeader::StartTime => start_time((facts.started)(), out),
        InHeader::Hostname => out.write_str(facts.hostname),
        InHeader::Route => out.write_str(facts.route),
        InHeader::Cluster => out.write_str(facts.cluster),
        InHeader::Upstream => facts.upstream.map_or(Ok(()), |upstream| write!(out, "{upstream}")),
        InHeader::Status => facts.status.map_or(Ok(()), |status| write!(out, "{status}")),
    };
    // Writing to a string does not fail.
    debug_assert!(written.is_ok());
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
            ("a\nb", "no valid header value"),
            ("a\nb %PROTOCOL%", "no valid header value"),
        ] {
            assert_eq!(Format::parse(text).expect_err("refused").to_string(), expected, "{text}");
        }
    }
}
