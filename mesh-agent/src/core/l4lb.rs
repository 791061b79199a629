//! Two tables of VIPs side by side: what dcos-net's load balancer says of this node, and what our kernel half holds.

use mesh_common::decide::l4::{TCP, UDP};
use mesh_common::vip::{self, VipHost};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A VIP's port: name or address, port, protocol.
pub type Key = (String, u16, u8);

/// Who serves what.
pub type Table = BTreeMap<Key, BTreeSet<SocketAddr>>;

/// One element of dcos-net's `/v1/vips`.
#[derive(Deserialize)]
struct Entry {
    vip: String,
    protocol: String,
    backend: Vec<Place>,
}

#[derive(Deserialize)]
struct Place {
    ip: IpAddr,
    port: u16,
}

/// Why an answer is no table.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Not of that form.
    #[error("this is not what dcos-net answers to /v1/vips: {0}")]
    Json(#[from] serde_json::Error),
    /// A VIP without a port.
    #[error("vip {0:?}: {1}")]
    Vip(String, vip::InvalidVip),
    /// Neither TCP nor UDP.
    #[error("vip {0:?}: protocol {1:?} is neither tcp nor udp")]
    Protocol(String, String),
}

/// Reads dcos-net's answer.
///
/// # Errors
/// Names what is not as dcos-net writes it.
pub fn parse(text: &str) -> Result<Table, Invalid> {
    let mut table = Table::new();
    for Entry { vip, protocol, backend } in serde_json::from_str::<Vec<Entry>>(text)? {
        let parsed = vip::parse(&vip).map_err(|error| Invalid::Vip(vip.clone(), error))?;
        let host = match parsed.host {
            VipHost::Name(name) => name.to_ascii_lowercase(),
            VipHost::Address(address) => address.to_string(),
        };
        let proto = match protocol.as_str() {
            "tcp" => TCP,
            "udp" => UDP,
            _ => return Err(Invalid::Protocol(vip, protocol)),
        };
        let places = backend.into_iter().map(|place| SocketAddr::new(place.ip, place.port));
        table.entry((host, parsed.port, proto)).or_default().extend(places);
    }
    Ok(table)
}

/// How a VIP's port stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// Both send to the same backends.
    Same,
    /// dcos-net serves it, the mesh does not.
    Missing,
    /// The mesh serves it, dcos-net does not: so it is for services that have no VIP label, and nobody of dcos-net's clients knows it.
    Ours,
    /// Both serve it, by other backends.
    Backends {
        /// Only dcos-net sends there.
        theirs: BTreeSet<SocketAddr>,
        /// Only the mesh does.
        ours: BTreeSet<SocketAddr>,
    },
}

impl Finding {
    /// Would a client notice the change from one to the other?
    #[must_use]
    pub const fn differs(&self) -> bool {
        matches!(self, Self::Missing | Self::Backends { .. })
    }
}

/// dcos-net names every backend that has a host port by its agent's address and that port. The mesh dials containers themselves where it can, as
/// dcos-net's own rules do on their node: `published` says what is dialled for which host port.
#[must_use]
pub fn as_dialled(theirs: Table, published: &BTreeSet<(SocketAddr, SocketAddr)>) -> Table {
    let dialled: BTreeMap<_, _> = published.iter().map(|(dialled, host_port)| (*host_port, *dialled)).collect();
    let places = |of: BTreeSet<SocketAddr>| of.into_iter().map(|place| dialled.get(&place).copied().unwrap_or(place)).collect();
    theirs.into_iter().map(|(key, of)| (key, places(of))).collect()
}

/// Compares them. A backend that drains (`is_draining`) is one of both: dcos-net lists it with weight 0, which its answer does not show.
pub fn compare(theirs: &Table, ours: &Table, is_draining: impl Fn(u8, SocketAddr) -> bool) -> BTreeMap<Key, Finding> {
    let keys: BTreeSet<&Key> = theirs.keys().chain(ours.keys()).collect();
    let find = |key: &Key| match (theirs.get(key), ours.get(key)) {
        (None, _) => Finding::Ours,
        (Some(_), None) => Finding::Missing,
        (Some(a), Some(b)) => {
            let theirs: BTreeSet<_> = a.difference(b).filter(|place| !is_draining(key.2, **place)).copied().collect();
            let ours: BTreeSet<_> = b.difference(a).copied().collect();
            if theirs.is_empty() && ours.is_empty() { Finding::Same } else { Finding::Backends { theirs, ours } }
        }
    };
    keys.into_iter().map(|key| (key.clone(), find(key))).collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("the same"),
            Self::Missing => f.write_str("only dcos-net has it"),
            Self::Ours => f.write_str("only the mesh has it"),
            Self::Backends { theirs, ours } => {
                let list = |of: &BTreeSet<SocketAddr>| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                let parts = [("only dcos-net sends to", theirs), ("only the mesh sends to", ours)];
                let parts = parts.iter().filter(|(_, of)| !of.is_empty()).map(|(what, of)| format!("{what} {}", list(of)));
                f.write_str(&parts.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: &[&str]) -> BTreeSet<SocketAddr> {
        all.iter().map(|text| text.parse().expect("a place")).collect()
    }

    fn key(host: &str, port: u16, proto: u8) -> Key {
        (host.to_owned(), port, proto)
    }

    #[test]
    fn dcos_nets_answer_is_read_by_name_and_by_address() {
        let text = r#"[{"vip":"reviews.marathon.l4lb.thisdcos.directory:9080","protocol":"tcp","backend":[{"ip":"9.0.1.1","port":9080}]},
            {"vip":"1.2.3.4:53","protocol":"udp","backend":[]},
            {"vip":"fd01:c::6d6d:9c64:fd19:f251:80","protocol":"tcp","backend":[{"ip":"fd01:b::1","port":1}]}]"#;
        let table = parse(text).expect("as dcos-net writes it");
        assert_eq!(table[&key("reviews.marathon.l4lb.thisdcos.directory", 9080, TCP)], places(&["9.0.1.1:9080"]));
        assert_eq!(table[&key("1.2.3.4", 53, UDP)], places(&[]));
        assert_eq!(table[&key("fd01:c::6d6d:9c64:fd19:f251", 80, TCP)], places(&["[fd01:b::1]:1"]));
        for (bad, why) in [
            ("{}", "is not what dcos-net answers"),
            (r#"[{"vip":"a.b","protocol":"tcp","backend":[]}]"#, "a.b"),
            (r#"[{"vip":"a.b:1","protocol":"sctp","backend":[]}]"#, "sctp"),
        ] {
            let error = parse(bad).expect_err(bad).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_host_port_is_the_container_behind_it() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("a place");
        let theirs: Table = [(key("web", 80, TCP), places(&["198.18.0.11:31000", "198.18.0.12:31000"]))].into();
        let published = BTreeSet::from([(at("9.0.1.2:8080"), at("198.18.0.11:31000"))]);
        let ours: Table = [(key("web", 80, TCP), places(&["9.0.1.2:8080", "198.18.0.12:31000"]))].into();
        let found = compare(&as_dialled(theirs, &published), &ours, |_, _| false);
        assert_eq!(found[&key("web", 80, TCP)], Finding::Same);
    }

    #[test]
    fn what_a_client_would_notice_differs() {
        let theirs: Table = [
            (key("same", 1, TCP), places(&["9.0.1.1:1", "9.0.1.2:1"])),
            (key("gone", 1, TCP), places(&["9.0.1.1:1"])),
            (key("other", 1, TCP), places(&["9.0.1.1:1", "9.0.1.2:1"])),
            (key("drains", 1, TCP), places(&["9.0.1.9:1"])),
        ]
        .into();
        let ours: Table = [
            (key("same", 1, TCP), places(&["9.0.1.2:1", "9.0.1.1:1"])),
            (key("other", 1, TCP), places(&["9.0.1.1:1", "9.0.1.3:1"])),
            (key("drains", 1, TCP), places(&[])),
            (key("mesh", 1, UDP), places(&["9.0.1.1:1"])),
        ]
        .into();
        let found = compare(&theirs, &ours, |_, place| place == "9.0.1.9:1".parse().expect("a place"));
        assert_eq!(found[&key("same", 1, TCP)], Finding::Same);
        assert_eq!(found[&key("drains", 1, TCP)], Finding::Same);
        assert_eq!(found[&key("gone", 1, TCP)], Finding::Missing);
        assert_eq!(found[&key("mesh", 1, UDP)], Finding::Ours);
        let other = &found[&key("other", 1, TCP)];
        assert_eq!(other.to_string(), "only dcos-net sends to 9.0.1.2:1, only the mesh sends to 9.0.1.3:1");
        assert_eq!(found.values().filter(|finding| finding.differs()).count(), 2);
    }
}
