//! Who asks, how far that is believed, and what strangers may not say: `x-forwarded-for`, `x-forwarded-proto` and the `x-envoy-` headers.
//! As Envoy's connection manager does it before anything is routed.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// Headers that steer a proxy, which only clients inside may send.
const STEERING: [&str; 16] = [
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-internal",
];
/// Headers that only proxies write: not taken from outside the first of them.
const EDGE: [&str; 4] = [
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-path",
];

/// What a listener believes.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// The peer is the client: it is what is appended to `x-forwarded-for`, and what it says of itself is not believed.
    pub use_remote_address: bool,
    /// Proxies in front whose `x-forwarded-for` is believed.
    pub trusted_hops: u32,
    /// `x-forwarded-for` is left alone.
    pub skip_append: bool,
    /// Clients with these addresses are inside. By default none is, as in Envoy since 1.33.
    pub internal: Vec<Range>,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range(IpAddr, u8);

/// What was found out of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Client {
    /// Its address, as far as is believed.
    pub address: IpAddr,
    /// It comes from outside, and this is the first proxy.
    pub edge: bool,
    /// There may be `x-envoy-` headers in its request.
    pub envoy: bool,
}

/// The connection that a request came on.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The other end.
    pub peer: IpAddr,
    /// This end.
    pub local: IpAddr,
    /// It is encrypted.
    pub tls: bool,
}

impl Range {
    /// `None` if the length is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (length <= bits).then_some(Self(address, length))
    }

    /// Is it in?
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.0, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(32 - u32::from(self.1)).unwrap_or(0) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(128 - u32::from(self.1)).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

impl Trust {
    /// Judges the client and cleans the request's headers accordingly.
    pub fn judge(&self, headers: &mut HeaderMap, arrival: Arrival) -> Client {
        let (believed, alone) = if self.use_remote_address {
            let alone = !headers.contains_key(FOR);
            let hops = self.trusted_hops.checked_sub(1);
            let believed = hops.and_then(|skip| last_address(headers, skip).0).unwrap_or(arrival.peer);
            if !self.skip_append {
                append(headers, if arrival.peer.is_loopback() { arrival.local } else { arrival.peer });
            }
            (Some(believed), alone)
        } else {
            last_address(headers, self.trusted_hops)
        };
        // What the peer says of its scheme is believed only of a proxy.
        let unsure = self.use_remote_address && self.trusted_hops == 0;
        if unsure || !headers.contains_key(PROTO) {
            headers.insert(PROTO, HeaderValue::from_static(if arrival.tls { "https" } else { "http" }));
        }
        let internal = alone && believed.is_some_and(|address| self.internal.iter().any(|range| range.contains(address)));
        let client = believed.unwrap_or(arrival.peer);
        let edge = self.use_remote_address && !internal;
        let envoy = headers.keys().any(|name| name.as_str().starts_with("x-envoy-"));
        if envoy && !internal {
            STEERING.iter().for_each(|name| drop(headers.remove(*name)));
        }
        if envoy && edge {
            EDGE.iter().for_each(|name| drop(headers.remove(*name)));
        }
        if internal {
            headers.insert(INTERNAL, HeaderValue::from_static("true"));
        }
        if edge && let Ok(address) = HeaderValue::try_from(client.to_string()) {
            headers.insert(EXTERNAL_ADDRESS, address);
        }
        Client { address: client, edge, envoy: envoy && internal }
    }
}

/// The address so many entries from the end, and whether it is the only one.
fn last_address(headers: &HeaderMap, skip: u32) -> (Option<IpAddr>, bool) {
    let mut entries = Vec::new();
    for value in headers.get_all(FOR) {
        entries.extend(value.to_str().unwrap_or_default().split(','));
    }
    let entry = entries.len().checked_sub(1 + skip as usize).and_then(|at| entries.get(at));
    let address = entry.and_then(|entry| entry.trim().parse().ok());
    (address, entries.len() == 1 && skip == 0)
}

fn append(headers: &mut HeaderMap, address: IpAddr) {
    let mut all = String::new();
    for value in headers.get_all(FOR) {
        all.push_str(value.to_str().unwrap_or_default());
        all.push(',');
    }
    all.push_str(&address.to_string());
    if let Ok(value) = HeaderValue::try_from(all) {
        headers.insert(FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: [u8; 4] = [203, 0, 113, 7];

    fn judge(trust: &Trust, given: &[(&'static str, &'static str)]) -> (Client, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let client = trust.judge(&mut headers, Arrival { peer: PEER.into(), local: [9, 9, 9, 9].into(), tls: false });
        (client, headers)
    }

    fn inside(address: [u8; 4], length: u8) -> Vec<Range> {
        vec![Range::new(address.into(), length).expect("short enough")]
    }

    #[test]
    fn a_gateway_appends_its_peer_and_believes_nothing() {
        let gateway = Trust { use_remote_address: true, ..Trust::default() };
        let given = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-original-path", "/x"),
        ];
        let (client, headers) = judge(&gateway, &given);
        assert_eq!(client, Client { address: PEER.into(), edge: true, envoy: false });
        assert_eq!(
            (&headers[FOR], &headers[PROTO], &headers[EXTERNAL_ADDRESS]),
            (&"1.1.1.1,203.0.113.7".parse().expect("v"), &"http".parse().expect("v"), &"203.0.113.7".parse().expect("v"))
        );
        assert_eq!(headers.len(), 3, "{headers:?}");
        let hops = Trust { trusted_hops: 1, skip_append: true, ..gateway };
        let (client, headers) = judge(&hops, &[("x-forwarded-for", "2.2.2.2, 1.1.1.1"), ("x-forwarded-proto", "https")]);
        assert_eq!((client.address, &headers[PROTO]), ([1, 1, 1, 1].into(), &"https".parse().expect("v")));
        assert_eq!(headers[FOR], "2.2.2.2, 1.1.1.1");
    }

    #[test]
    fn a_sidecars_listener_leaves_the_chain_alone_and_takes_orders_from_inside_only() {
        let steering = ("x-envoy-upstream-rq-timeout-ms", "5");
        for (internal, given, taken) in [
            (vec![], &[steering][..], false),
            (inside([10, 0, 0, 0], 8), &[steering], false),
            (inside([10, 0, 0, 0], 8), &[("x-forwarded-for", "10.2.3.4"), steering], true),
            (inside([10, 0, 0, 0], 8), &[("x-forwarded-for", "10.2.3.4,10.2.3.4"), steering], false),
            (inside([0, 0, 0, 0], 0), &[("x-forwarded-for", "1.1.1.1"), steering], true),
        ] {
            let (client, headers) = judge(&Trust { internal, ..Trust::default() }, given);
            assert_eq!(
                (client.envoy, headers.contains_key(steering.0), headers.contains_key(INTERNAL)),
                (taken, taken, taken),
                "{given:?}"
            );
            assert!(!client.edge && !headers.contains_key(EXTERNAL_ADDRESS));
            assert_eq!(headers[PROTO], "http");
        }
        let (_, headers) = judge(&Trust::default(), &[("x-envoy-original-path", "/x"), ("x-envoy-internal", "true")]);
        assert!(headers.contains_key("x-envoy-original-path") && !headers.contains_key(INTERNAL));
    }
}
