//! VIPs as dcos-net has them: by the labels of running tasks' ports, cluster-wide, with the addresses that its hash gives to names. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::Core;
use super::instance::{Instance, State};
use super::spec::{Endpoint, container_port};

const ZONE: &str = ".l4lb.thisdcos.directory";
const FRAMEWORK: &str = "marathon";
/// dcos-net's ranges: named VIPs are `min + hash % (max - min)`.
const MIN4: u32 = 0x0b00_0000;
const SIZE4: u32 = 0x00ff_ffff;
const MIN6: u128 = 0xfd01_000c_0000_0000_0000_0000_0000_0000;
const SIZE6: u128 = 0xffff_ffff_ffff_ffff;

/// Name or address, port, protocol.
type Key = (String, u16, &'static str);
type Table = BTreeMap<Key, BTreeSet<SocketAddr>>;

/// What `/v1/vips` answers, on every node the same.
pub(crate) fn json(core: &Core) -> Value {
    let backend = |place: &SocketAddr| json!({"ip": place.ip(), "port": place.port()});
    let vip = |((host, port, protocol), backends): (&Key, &BTreeSet<SocketAddr>)| json!({"vip": format!("{host}:{port}"), "protocol": protocol, "backend": backends.iter().map(backend).collect::<Vec<_>>()});
    table(core).iter().map(vip).collect()
}

/// The addresses of a named VIP: of the families in which it has backends.
pub(crate) fn lookup(core: &Core, name: &str) -> Option<Vec<IpAddr>> {
    let short = name.strip_suffix(ZONE)?;
    let table = table(core);
    let backends = || table.iter().filter(|((host, ..), _)| host == name).flat_map(|(_, backends)| backends);
    let v4 = backends().any(SocketAddr::is_ipv4).then(|| IpAddr::V4(address4(short)));
    let v6 = backends().any(SocketAddr::is_ipv6).then(|| IpAddr::V6(address6(short)));
    let all: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    (!all.is_empty()).then_some(all)
}

fn table(core: &Core) -> Table {
    let mut table = Table::new();
    for instance in core.instances.values().filter(|instance| !instance.is_scheduled()) {
        for task in instance.tasks.iter().filter(|task| matches!(task.state, State::Running | State::Killing)) {
            let container = instance.spec.containers.iter().find(|c| c.name == task.container);
            for (index, endpoint) in container.into_iter().flat_map(|c| &c.endpoints).enumerate() {
                let host_port = instance.host_ports.get(&(task.container.clone(), index)).copied();
                publish(instance, endpoint, host_port, &mut table);
            }
        }
    }
    table
}

/// A port with a host port is at its agent's address, whatever its network; on a node of its own dcos-net's rules lead past that.
fn publish(instance: &Instance, endpoint: &Endpoint, host_port: Option<u16>, into: &mut Table) {
    let places: Vec<SocketAddr> = match host_port {
        Some(port) => instance.hostname.parse().ok().map(|ip: IpAddr| (ip, port).into()).into_iter().collect(),
        None => {
            let port = container_port(endpoint, 0).filter(|port| *port > 0);
            port.into_iter().flat_map(|port| instance.addresses().into_iter().map(move |ip| (ip, port).into())).collect()
        }
    };
    for (_, value) in endpoint.labels.iter().filter(|(key, _)| key.starts_with("VIP") || key.starts_with("vip")) {
        let Some((host, port)) = value.rsplit_once(':') else { continue };
        let Ok(port) = port.parse::<u16>() else { continue };
        let literal: Option<IpAddr> = host.parse().ok();
        let name = literal.map_or_else(|| format!("{}.{FRAMEWORK}{ZONE}", fragment(host)), |ip| ip.to_string());
        let fits = |place: &&SocketAddr| literal.is_none_or(|ip| ip.is_ipv4() == place.is_ipv4());
        for protocol in &endpoint.protocols {
            let protocol = if protocol == "udp" { "udp" } else { "tcp" };
            into.entry((name.clone(), port, protocol)).or_default().extend(places.iter().filter(fits));
        }
    }
}

/// Mesos' `domain_frag`: what DNS does not allow is dropped.
fn fragment(raw: &str) -> String {
    let label = |label: &str| {
        let legal = label.chars().map(|c| if c == '_' { '-' } else { c.to_ascii_lowercase() });
        let legal: String = legal.filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        legal.trim_matches('-').to_owned()
    };
    raw.split('.').map(label).filter(|label| !label.is_empty()).collect::<Vec<_>>().join(".")
}

fn address4(short: &str) -> Ipv4Addr {
    Ipv4Addr::from(MIN4 + phash2(short.as_bytes()) % SIZE4)
}

fn address6(short: &str) -> Ipv6Addr {
    let digest = Sha1::digest(short.as_bytes());
    Ipv6Addr::from(MIN6 + digest.iter().fold(0, |rest, byte| (rest << 8 | u128::from(*byte)) % SIZE6))
}

/// Erlang's `phash2/1` of a binary that is not empty: Bob Jenkins' hash of 1996.
fn phash2(bytes: &[u8]) -> u32 {
    let mut state = [0x9e37_79b9_u32, 0x9e37_79b9, 0x08d1_2e65];
    let number = |part: &[u8]| part.iter().rev().fold(0, |sum: u32, byte| sum << 8 | u32::from(*byte));
    let mut rest = bytes;
    while let Some((block, tail)) = rest.split_at_checked(12) {
        for (sum, part) in state.iter_mut().zip(block.chunks(4)) {
            *sum = sum.wrapping_add(number(part));
        }
        mix(&mut state);
        rest = tail;
    }
    for (sum, part) in state.iter_mut().zip(rest.chunks(4)).take(2) {
        *sum = sum.wrapping_add(number(part));
    }
    // The last word has the length in its lowest byte.
    let last = number(rest.get(8..).unwrap_or_default()) << 8;
    state[2] = state[2].wrapping_add(last).wrapping_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    mix(&mut state);
    state[2]
}

fn mix(state: &mut [u32; 3]) {
    let shifts = [(13, false), (8, true), (13, false), (12, false), (16, true), (5, false), (3, false), (10, true), (15, false)];
    for (turn, (bits, left)) in shifts.into_iter().enumerate() {
        let (a, b, c) = (turn % 3, (turn + 1) % 3, (turn + 2) % 3);
        let shifted = if left { state[c] << bits } else { state[c] >> bits };
        state[a] = state[a].wrapping_sub(state[b]).wrapping_sub(state[c]) ^ shifted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_addresses_that_dcos_net_gives_them() {
        // Of dcos-net's own test suite, there in a range of 254 addresses.
        assert_eq!((phash2(b"foo.bar") % 254, phash2(b"baz.qux") % 254), (37, 39));
        assert_eq!(address6("qux.ipv6").to_string(), "fd01:c::6d6d:9c64:fd19:f251");
        assert_eq!(address4("reviews.marathon").to_string(), "11.15.94.83");
        assert_eq!(fragment("/my_group/My.app-"), "my-groupmy.app");
    }
}
