//! Which hash a request carries to the balancer: a route's hash policies, evaluated as Envoy does, so that both choose the same host.

mod cookie;

use super::matching::{HeaderKey, RequestView};
use std::net::{IpAddr, SocketAddr};

pub use cookie::Cookie;

/// xxHash64.
#[must_use]
pub fn xxhash(bytes: &[u8], seed: u64) -> u64 {
    twox_hash::XxHash64::oneshot(seed, bytes)
}

/// MurmurHash64A with the seed of GNU's `std::hash`.
#[must_use]
pub fn murmur2(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |value: u64| value ^ (value >> 47);
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let mut hash = SEED ^ length.wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = mix(u64::from_le_bytes(*word).wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = (hash ^ word).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let rest = rest.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        hash = (hash ^ rest).wrapping_mul(FACTOR);
    }
    mix(mix(hash).wrapping_mul(FACTOR))
}

/// One rule for a part of the hash.
#[derive(Clone, Debug)]
pub struct HashPolicy {
    /// What is hashed.
    pub of: HashOf,
    /// Once there is a hash after this one, the rest is not asked.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Clone, Debug)]
pub enum HashOf {
    /// All values of a header, in the order of the alphabet.
    Header(HeaderKey),
    /// A cookie's value; one that is generated where it is missing, if the cookie has a time to live.
    Cookie(Cookie),
    /// The client's address, without its port.
    SourceIp,
    /// The first value of a query parameter, as sent.
    Query(String),
}

/// What hashes are made of.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// As the client sent it.
    pub request: &'a RequestView<'a>,
    /// The client's end of the connection.
    pub client: SocketAddr,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
}

/// The hash of a request, and what its response has to say in `set-cookie`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hashed {
    /// `None`: no policy found anything, so the choice is random.
    pub hash: Option<u64>,
    /// A cookie for each that was generated.
    pub cookies: Vec<String>,
}

/// Evaluates policies in order. Hashes are combined by rotation and XOR, so that two equal ones do not cancel each other out.
#[must_use]
pub fn hash(policies: &[HashPolicy], asker: &Asker<'_>) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        let new = match &policy.of {
            HashOf::Header(key) => header(asker.request, key),
            HashOf::Cookie(cookie) => match (cookie.value(asker.request.headers), cookie.generate(asker)) {
                (Some(value), _) => Some(xxhash(value, 0)),
                (None, Some((value, text))) => {
                    hashed.cookies.push(text);
                    Some(xxhash(value.as_bytes(), 0))
                }
                (None, None) => None,
            },
            HashOf::SourceIp => Some(source_ip(asker.client.ip())),
            HashOf::Query(name) => query(asker.request.query, name).map(|value| xxhash(value.as_bytes(), 0)),
        };
        if let Some(new) = new {
            hashed.hash = Some(hashed.hash.unwrap_or(0).rotate_left(1) ^ new);
        }
        if policy.terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}

/// The hash of a client's address, as text. A mapped IPv4 address counts as what it is.
#[must_use]
pub fn source_ip(client: IpAddr) -> u64 {
    xxhash(client.to_canonical().to_string().as_bytes(), 0)
}

/// Each value's hash seeds the next one's; sorted, so that the order in which they came does not matter.
fn header(request: &RequestView<'_>, key: &HeaderKey) -> Option<u64> {
    let HeaderKey::Name(name) = key else { return key.value(request).map(|value| xxhash(value.as_bytes(), 0)) };
    let mut values: Vec<&[u8]> = request.headers.get_all(name).iter().map(http::HeaderValue::as_bytes).collect();
    values.sort_unstable();
    (!values.is_empty()).then(|| values.iter().fold(0, |seed, value| xxhash(value, seed)))
}

fn query<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let mut pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderName, HeaderValue};

    fn of(what: Vec<(HashOf, bool)>, headers: &HeaderMap) -> Option<u64> {
        let query = Some("a=1&user=jason&user=x&b");
        let request = RequestView { method: "GET", authority: "reviews:9080", scheme: "http", path: "/p", query, headers };
        let address = |text: &str| text.parse().expect("address");
        let asker = Asker { request: &request, client: address("9.0.1.4:5000"), destination: address("11.0.0.1:80") };
        let policies: Vec<_> = what.into_iter().map(|(of, terminal)| HashPolicy { of, terminal }).collect();
        hash(&policies, &asker).hash
    }

    fn named(name: &'static str) -> HashOf {
        HashOf::Header(HeaderKey::Name(HeaderName::from_static(name)))
    }

    /// Published test vectors: xxHash's own sanity check and `std::hash<std::string>` of GNU's library.
    #[test]
    fn the_functions_are_the_published_ones() {
        assert_eq!(xxhash(b"", 0), 0xef46_db37_51d8_e999);
        assert_eq!(xxhash(b"a", 0), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(xxhash(b"abc", 0), 0x44bc_2cf5_ad77_0999);
        assert_eq!(murmur2(b""), 6_142_509_188_972_423_790);
        assert_eq!(murmur2(b"a"), 4_993_892_634_952_068_459);
    }

    #[test]
    fn values_of_a_header_count_in_any_order() {
        let headers = |values: [&'static str; 2]| {
            HeaderMap::from_iter(values.map(|value| (HeaderName::from_static("x"), HeaderValue::from_static(value))))
        };
        let one = of(vec![(named("x"), false)], &headers(["foo", "bar"]));
        assert_eq!(one, of(vec![(named("x"), false)], &headers(["bar", "foo"])));
        assert_eq!(one, Some(xxhash(b"foo", xxhash(b"bar", 0))));
        assert_eq!(of(vec![(named("missing"), false)], &headers(["a", "b"])), None);
        assert_eq!(of(vec![(HashOf::Header(HeaderKey::Authority), false)], &HeaderMap::new()), Some(xxhash(b"reviews:9080", 0)));
    }

    #[test]
    fn addresses_and_parameters_are_hashed_as_text() {
        let none = HeaderMap::new();
        assert_eq!(of(vec![(HashOf::SourceIp, false)], &none), Some(xxhash(b"9.0.1.4", 0)));
        assert_eq!(source_ip("::ffff:9.0.1.4".parse().expect("address")), xxhash(b"9.0.1.4", 0));
        let parameter = |name: &str| of(vec![(HashOf::Query(name.to_owned()), false)], &none);
        assert_eq!(parameter("user"), Some(xxhash(b"jason", 0)));
        assert_eq!(parameter("b"), Some(xxhash(b"", 0)));
        assert_eq!(parameter("c"), None);
    }

    #[test]
    fn several_hashes_are_rotated_and_a_terminal_one_ends_the_list() {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x"), HeaderValue::from_static("v"))]);
        let (x, ip) = (xxhash(b"v", 0), xxhash(b"9.0.1.4", 0));
        assert_eq!(of(vec![(named("x"), false), (HashOf::SourceIp, false)], &headers), Some(x.rotate_left(1) ^ ip));
        assert_eq!(of(vec![(named("x"), false), (named("x"), false)], &headers), Some(x.rotate_left(1) ^ x), "not cancelled out");
        assert_eq!(of(vec![(named("x"), true), (HashOf::SourceIp, false)], &headers), Some(x));
        assert_eq!(
            of(vec![(named("y"), true), (HashOf::SourceIp, false)], &headers),
            Some(ip),
            "a terminal one without a hash ends nothing"
        );
    }
}
