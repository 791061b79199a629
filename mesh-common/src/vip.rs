//! DC/OS VIPs: labels, DNS names and addresses, as dcos-net's l4lb computes them.
//!
//! Pure functions of names. Where several names claim one address the control plane decides (it allots centrally); here is only the
//! first choice, which is what DC/OS gives a name on a cluster without collisions.

use sha1::{Digest, Sha1};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// DC/OS's range for named VIPs starts here (`minuteman` min in DC/OS's configuration).
pub const VIP4_MIN: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
/// ... and ends here; the number of addresses to hash into is `max - min`.
pub const VIP4_MAX: Ipv4Addr = Ipv4Addr::new(11, 255, 255, 255);
/// The IPv6 range starts here.
pub const VIP6_MIN: Ipv6Addr = Ipv6Addr::new(0xfd01, 0xc, 0, 0, 0, 0, 0, 0);
/// ... and ends here.
pub const VIP6_MAX: Ipv6Addr = Ipv6Addr::new(0xfd01, 0xc, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff);
/// Zone of all named VIPs.
pub const ZONE: &str = "l4lb.thisdcos.directory";

/// A parsed VIP label value.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Vip {
    /// Who.
    pub host: VipHost,
    /// The port that clients dial.
    pub port: u16,
}

/// The part of a VIP label before the port.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum VipHost {
    /// `/reviews` or `reviews`, raw.
    Name(String),
    /// `1.2.3.4` or an IPv6 address.
    Address(IpAddr),
}

/// Why a VIP label's value was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidVip {
    /// No `:` at all.
    #[error("a VIP is NAME:PORT or ADDRESS:PORT, and this has no ':'")]
    NoPort,
    /// What follows the last `:` is no port.
    #[error("the port after the last ':' must be a number from 1 to 65535")]
    BadPort,
    /// Nothing before the port that DNS could name.
    #[error("the name before the port has no letter or digit")]
    NoName,
}

/// Is this port label a VIP label? (`VIP_0`, `vip_foo`, `VIP`: l4lb looks at the first three letters only.)
#[must_use]
pub fn is_vip_label(key: &str) -> bool {
    key.starts_with("VIP") || key.starts_with("vip")
}

/// Reads a VIP label's value (`/reviews:9080`, `1.2.3.4:80`): split at the last `:`, as l4lb does.
///
/// # Errors
/// Says what is wrong with the value; l4lb logs and skips such a label, and so should the caller.
pub fn parse(value: &str) -> Result<Vip, InvalidVip> {
    let (host, port) = value.rsplit_once(':').ok_or(InvalidVip::NoPort)?;
    let port = port.parse::<u16>().ok().filter(|p| *p > 0).ok_or(InvalidVip::BadPort)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = match bare.parse::<IpAddr>() {
        Ok(address) => VipHost::Address(address),
        Err(_) if fragment(host).is_empty() => return Err(InvalidVip::NoName),
        Err(_) => VipHost::Name(host.to_owned()),
    };
    Ok(Vip { host, port })
}

/// The DNS name without the zone: `/reviews` of framework `marathon` is `reviews.marathon`.
#[must_use]
pub fn short_name(label: &str, framework: &str) -> String {
    let parts = [fragment(label), fragment(framework)];
    parts.iter().filter(|p| !p.is_empty()).cloned().collect::<Vec<_>>().join(".")
}

/// The full DNS name: `/reviews` of framework `marathon` is `reviews.marathon.l4lb.thisdcos.directory`.
#[must_use]
pub fn full_name(label: &str, framework: &str) -> String {
    format!("{}.{ZONE}", short_name(label, framework))
}

/// Normalises one part of a name as Mesos' DNS does (`mesos_state:domain_frag`): each dot-separated label is lower-cased, `_` becomes `-`,
/// characters illegal in DNS are dropped, leading `-` and trailing `-` go, and at most 63 characters stay.
fn fragment(raw: &str) -> String {
    let labels = raw.split('.').map(|label| {
        let legal = label.chars().filter_map(|c| match c.to_ascii_lowercase() {
            '_' => Some('-'),
            c @ ('a'..='z' | '0'..='9' | '-') => Some(c),
            _ => None,
        });
        let kept: String = legal.collect::<String>().trim_start_matches('-').chars().take(63).collect();
        kept.trim_end_matches('-').to_owned()
    });
    labels.filter(|l| !l.is_empty()).collect::<Vec<_>>().join(".")
}

/// First choice for a named VIP's IPv4 address: `min + phash2(name, max - min)`, with name as [`short_name`] gives it.
#[must_use]
pub fn address_v4(short_name: &str) -> Ipv4Addr {
    address_v4_in(short_name, VIP4_MIN, VIP4_MAX)
}

fn address_v4_in(short_name: &str, min: Ipv4Addr, max: Ipv4Addr) -> Ipv4Addr {
    let (min, max) = (u32::from(min), u32::from(max));
    Ipv4Addr::from(min + phash2(short_name.as_bytes()) % (max - min))
}

/// First choice for a named VIP's IPv6 address: `min + SHA-1(name) mod (max - min)`.
#[must_use]
pub fn address_v6(short_name: &str) -> Ipv6Addr {
    let range = u128::from(VIP6_MAX) - u128::from(VIP6_MIN);
    // The digest has 160 bits: reduce it byte by byte. `range` has 64 bits, so the intermediate fits.
    let digest = Sha1::digest(short_name.as_bytes());
    let rest = digest.iter().fold(0u128, |rest, byte| (rest * 256 + u128::from(*byte)) % range);
    Ipv6Addr::from(u128::from(VIP6_MIN) + rest)
}

/// `erlang:phash2/1` of a binary: Bob Jenkins' 1996 hash ("lookup2"), with Erlang's seed.
fn phash2(bytes: &[u8]) -> u32 {
    const GOLDEN: u32 = 0x9e37_79b9;
    const SEED: u32 = 0x08d1_2e65;
    if bytes.is_empty() {
        return SEED;
    }
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0u32, |word, byte| word << 8 | u32::from(*byte));
    let (mut a, mut b, mut c) = (GOLDEN, GOLDEN, SEED);
    let mut blocks = bytes.chunks_exact(12);
    for block in &mut blocks {
        a = a.wrapping_add(word(&block[0..4]));
        b = b.wrapping_add(word(&block[4..8]));
        c = c.wrapping_add(word(&block[8..12]));
        mix(&mut a, &mut b, &mut c);
    }
    let tail = blocks.remainder();
    c = c.wrapping_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    a = a.wrapping_add(word(&tail[..tail.len().min(4)]));
    b = b.wrapping_add(word(tail.get(4..tail.len().min(8)).unwrap_or_default()));
    // The lowest byte of c holds the length, so the tail's last bytes come one place higher.
    c = c.wrapping_add(word(tail.get(8..).unwrap_or_default()) << 8);
    mix(&mut a, &mut b, &mut c);
    c
}

fn mix(a: &mut u32, b: &mut u32, c: &mut u32) {
    for (x, y, z) in [(13, 8, 13), (12, 16, 5), (3, 10, 15)] {
        *a = a.wrapping_sub(*b).wrapping_sub(*c) ^ (*c >> x);
        *b = b.wrapping_sub(*c).wrapping_sub(*a) ^ (*a << y);
        *c = c.wrapping_sub(*a).wrapping_sub(*b) ^ (*b >> z);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_agree_with_dcos_net() {
        // Vectors of dcos-net's own suite (range 11.0.0.0 to 11.0.0.254) and of research/marathon.md section 3.2.
        let small = |name| address_v4_in(name, VIP4_MIN, Ipv4Addr::new(11, 0, 0, 254));
        assert_eq!(phash2(b""), 147_926_629);
        assert_eq!(small("foo.bar"), Ipv4Addr::new(11, 0, 0, 37));
        assert_eq!(small("baz.qux"), Ipv4Addr::new(11, 0, 0, 39));
        assert_eq!(address_v6("qux.ipv6").to_string(), "fd01:c::6d6d:9c64:fd19:f251");
        for (name, want) in [
            ("reviews.marathon", "11.15.94.83"),
            ("details.marathon", "11.135.95.226"),
            ("ratings.marathon", "11.165.188.164"),
            ("productpage.marathon", "11.95.184.14"),
            ("apiserver.marathon", "11.81.214.31"),
            ("nginx.marathon", "11.127.55.54"),
            ("node.cassandra", "11.197.245.132"),
        ] {
            assert_eq!(address_v4(name).to_string(), want, "{name}");
        }
    }

    #[test]
    fn names_are_normalised_as_mesos_dns_does() {
        for (label, want) in [
            ("/reviews", "reviews.marathon.l4lb.thisdcos.directory"),
            ("reviews", "reviews.marathon.l4lb.thisdcos.directory"),
            ("/mygroup/myapp", "mygroupmyapp.marathon.l4lb.thisdcos.directory"),
            ("/api.hello-world", "api.hello-world.marathon.l4lb.thisdcos.directory"),
            ("/My_App-", "my-app.marathon.l4lb.thisdcos.directory"),
            ("name.marathon", "name.marathon.marathon.l4lb.thisdcos.directory"),
        ] {
            assert_eq!(full_name(label, "marathon"), want, "{label}");
        }
        assert_eq!(short_name(&"a".repeat(80), "marathon").len(), 63 + ".marathon".len());
    }

    #[test]
    fn labels_are_split_at_the_last_colon() {
        let name = |host: &str, port| Ok(Vip { host: VipHost::Name(host.to_owned()), port });
        assert_eq!(parse("/reviews:9080"), name("/reviews", 9080));
        assert_eq!(parse("a:b:80"), name("a:b", 80));
        assert_eq!(parse("1.2.3.4:80"), Ok(Vip { host: VipHost::Address([1, 2, 3, 4].into()), port: 80 }));
        let v6: IpAddr = "fd01::5".parse().expect("literal");
        assert_eq!(parse("fd01::5:80"), Ok(Vip { host: VipHost::Address(v6), port: 80 }));
        assert_eq!(parse("[fd01::5]:80"), Ok(Vip { host: VipHost::Address(v6), port: 80 }));
        assert_eq!(parse("/reviews"), Err(InvalidVip::NoPort));
        for port in ["0", "65536", "-1", "http", ""] {
            assert_eq!(parse(&format!("/reviews:{port}")), Err(InvalidVip::BadPort), "{port}");
        }
        assert_eq!(parse("/:80"), Err(InvalidVip::NoName));
        assert!(is_vip_label("VIP_0") && is_vip_label("vip") && is_vip_label("VIPfoo"));
        assert!(!is_vip_label("Vip_0") && !is_vip_label("HAPROXY_0_VIP"));
    }
}
