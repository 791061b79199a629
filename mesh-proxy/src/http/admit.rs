//! What is done with a request before it is routed: refused, understood, cleaned. Envoy's connection manager.

use super::incoming::Brought;
use super::local::Local;
use super::{Connection, ids, tunnel};
use crate::config::{HttpOptions, StripPort};
use crate::core::flags::Flags;
use crate::core::forwarded::{Arrival, Client};
use crate::core::h1::asked::Misframed;
use crate::core::headers::remove_hop_by_hop;
use crate::core::path::{Normal, Normalize};
use crate::core::rewrite::split_port;
use crate::core::timeouts::is_grpc;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Uri, Version};
use std::net::SocketAddr;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

fn misframed(misframed: Misframed) -> Local {
    match misframed {
        Misframed::TwoLengths => Local::new(StatusCode::BAD_REQUEST, "Bad Request", Flags::DOWNSTREAM_PROTOCOL),
        Misframed::Coding => Local::new(StatusCode::NOT_IMPLEMENTED, "Not Implemented", Flags::DOWNSTREAM_PROTOCOL),
    }
}

/// A request that may be routed.
pub(super) struct Admitted {
    /// The host that it names. Text, and not empty.
    pub(super) authority: HeaderValue,
    pub(super) client: Client,
    /// What its connection should become; `connect` for CONNECT.
    pub(super) upgrade: Option<String>,
    pub(super) grpc: bool,
    /// It sends its body when it is asked to.
    pub(super) waits: bool,
    pub(super) version: Version,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
}

impl Admitted {
    pub(super) fn authority(&self) -> &str {
        // Checked when it was admitted.
        self.authority.to_str().unwrap_or_default()
    }
}

/// The host that the client names: in the request's target, else in `host`.
pub(super) fn authority(parts: &Parts) -> Option<HeaderValue> {
    let value = match parts.uri.authority() {
        Some(authority) => HeaderValue::try_from(authority.as_str()).ok(),
        None => parts.headers.get(header::HOST).cloned(),
    };
    value.filter(|value| !value.is_empty() && value.to_str().is_ok())
}

/// Admits a request or says how it is answered.
pub(super) fn admit(
    parts: &mut Parts,
    (authority, brought): (Option<HeaderValue>, &Brought),
    options: &HttpOptions,
    connection: &Connection,
) -> Result<Admitted, Local> {
    let version = parts.version;
    if let Some(mark) = brought.misframed {
        return Err(misframed(mark));
    }
    if parts.headers.len() > options.downstream.headers {
        return Err(Local::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Request Header Fields Too Large", Flags::default()));
    }
    if version < Version::HTTP_11 && !options.http10 {
        return Err(Local::new(StatusCode::UPGRADE_REQUIRED, "", Flags::default()));
    }
    let default = || options.http10_host.clone().filter(|_| version < Version::HTTP_11);
    let bad = || Local::new(StatusCode::BAD_REQUEST, "", Flags::default());
    let authority = authority.or_else(default).ok_or_else(bad)?;
    let authority = host(authority, options, connection.destination);
    let connect = parts.method == Method::CONNECT;
    if !connect {
        path(parts, options.normalize)?;
    }
    let upgrade = if connect {
        Some("connect".to_owned())
    } else if brought.plain {
        None
    } else {
        tunnel::wanted(parts)
    };
    let headers = &mut parts.headers;
    // Looked for only where there are any: this runs for every request.
    let waits = !brought.plain && special(headers, options, version);
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
    let arrival = Arrival { peer: connection.peer.ip(), local: connection.destination.ip(), tls: connection.tls };
    let client = options.trust.judge(headers, arrival);
    let replace = client.edge && !options.preserve_request_id;
    if options.generate_request_id && (replace || !headers.contains_key(REQUEST_ID)) {
        headers.insert(REQUEST_ID, connection.guest.pod().with_rng(ids::request_id));
    }
    if let Some(via) = &options.via {
        append_via(headers, via);
    }
    let grpc = is_grpc(headers);
    let scheme = match (parts.uri.scheme_str(), headers.get(FORWARDED_PROTO)) {
        (Some("https"), _) => "https",
        (Some("http"), _) => "http",
        (_, Some(proto)) if proto == "https" => "https",
        (_, Some(proto)) if proto == "http" => "http",
        _ if connection.tls => "https",
        _ => "http",
    };
    Ok(Admitted { authority, client, upgrade, grpc, waits, version, scheme })
}

/// Takes away what concerns one connection only. True if the client waits to be asked for its body by the endpoint.
fn special(headers: &mut HeaderMap, options: &HttpOptions, version: Version) -> bool {
    remove_hop_by_hop(headers);
    let expects = headers.get(header::EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let waits = expects && options.pass_expect && version == Version::HTTP_11;
    if expects && !waits {
        // The client is told to go on as soon as its body is read.
        headers.remove(header::EXPECT);
    }
    waits
}

/// The host as it is routed by.
fn host(authority: HeaderValue, options: &HttpOptions, destination: SocketAddr) -> HeaderValue {
    if options.strip_port == StripPort::None && !options.strip_dot {
        return authority;
    }
    let text = authority.to_str().unwrap_or_default();
    let (host, port) = split_port(text);
    let strips = match options.strip_port {
        StripPort::None => false,
        StripPort::Any => true,
        StripPort::Matching => port.and_then(|port| port.parse().ok()) == Some(destination.port()),
    };
    let port = port.filter(|_| !strips);
    let host = if options.strip_dot { host.strip_suffix('.').unwrap_or(host) } else { host };
    let new = match port {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
        None => HeaderValue::try_from(host),
    };
    new.unwrap_or(authority)
}

fn path(parts: &mut Parts, normalize: Normalize) -> Result<(), Local> {
    let with_query = |path: String| match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    match normalize.apply(parts.uri.path()) {
        Normal::Same => Ok(()),
        Normal::Bad => Err(Local::new(StatusCode::BAD_REQUEST, "", Flags::default())),
        Normal::Redirect(path) => Err(Local::redirect(StatusCode::TEMPORARY_REDIRECT, &with_query(path))),
        Normal::Path(path) => {
            let uri: Result<Uri, _> = with_query(path).parse();
            parts.uri = uri.map_err(|_invalid| Local::new(StatusCode::BAD_REQUEST, "", Flags::default()))?;
            Ok(())
        }
    }
}

/// HTTP/2 clients may send each cookie by itself; everybody behind us expects one header.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let Some(first) = cookies.next() else { return };
    let mut all = first.as_bytes().to_vec();
    let mut several = false;
    for cookie in cookies {
        all.extend_from_slice(b"; ");
        all.extend_from_slice(cookie.as_bytes());
        several = true;
    }
    if several && let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(header::COOKIE, all);
    }
}

/// Says that it passed here.
pub(super) fn append_via(headers: &mut HeaderMap, via: &str) {
    let old = headers.get(header::VIA).and_then(|old| old.to_str().ok());
    let new = old.map_or_else(|| via.to_owned(), |old| format!("{old}, {via}"));
    if let Ok(new) = HeaderValue::try_from(new) {
        headers.insert(header::VIA, new);
    }
}
