//! Which filter chain of a listener takes a connection, by Envoy's rules.
//!
//! The conditions are asked in Envoy's order: destination port, destination range, server name, transport, application protocol, source
//! range, source port. At each step only the chains that state it most exactly go on, and there is no way back: a chain that was best so far
//! and fails a later step leaves nothing to the others. What Envoy has not is asked before everything else: a chain may be for some
//! workloads only (one proxy serves all pods of a node), and for the others it is not there.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How a connection begins, as a listener filter found out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    /// `raw_buffer`: anything but TLS, or nobody looked.
    #[default]
    Raw,
    /// `tls`: a ClientHello.
    Tls,
}

/// What the first bytes say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hello {
    /// TLS or not.
    pub transport: Transport,
    /// SNI, in lower case.
    pub server_name: Option<String>,
    /// ALPN's in the client's order, or the one that plain HTTP speaks.
    pub protocols: Vec<String>,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    /// Any address of it.
    pub address: IpAddr,
    /// How many of its bits count.
    pub bits: u8,
}

/// A server name that a chain is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ServerName {
    /// `www.example.com`.
    Exact(String),
    /// `*.example.com`, kept as `.example.com`.
    Suffix(String),
}

/// A chain's conditions. An empty one holds for all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Match {
    /// The original destination's port.
    pub destination_port: Option<u16>,
    /// The original destination.
    pub destinations: Vec<Range>,
    /// SNI.
    pub server_names: Vec<ServerName>,
    /// TLS or not.
    pub transport: Option<Transport>,
    /// ALPN, or what plain HTTP speaks.
    pub protocols: Vec<String>,
    /// The client's address.
    pub sources: Vec<Range>,
    /// The client's port.
    pub source_ports: Vec<u16>,
    /// Labels that the client's workload must have.
    pub labels: Vec<(String, String)>,
    /// Namespace that it must be in.
    pub namespace: Option<String>,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Where the client wanted to go.
    pub destination: (IpAddr, u16),
    /// Where it comes from.
    pub source: (IpAddr, u16),
    /// Its first bytes.
    pub hello: &'a Hello,
    /// The workload's labels and namespace.
    pub workload: (&'a BTreeMap<String, String>, &'a str),
}

/// How exactly a condition holds; greater is more exact, `None`: it does not.
type Fit = Option<Reverse<usize>>;
/// The condition is empty.
const ANY: Fit = Some(Reverse(usize::MAX));

/// The chain that takes the connection, by its place; `None`: the default chain.
#[must_use]
pub fn select(chains: &[Match], ask: &Ask<'_>) -> Option<usize> {
    if let [only] = chains
        && only.is_empty()
    {
        return Some(0);
    }
    let mut left: Vec<usize> = (0..chains.len()).filter(|index| chains[*index].is_for(ask.workload)).collect();
    for step in STEPS {
        let best = left.iter().filter_map(|index| step(&chains[*index], ask)).max()?;
        left.retain(|index| step(&chains[*index], ask) == Some(best));
    }
    left.first().copied()
}

const STEPS: [fn(&Match, &Ask<'_>) -> Fit; 7] = [
    |chain, ask| stated(chain.destination_port, ask.destination.1),
    |chain, ask| ranges(&chain.destinations, ask.destination.0),
    |chain, ask| server_name(&chain.server_names, ask.hello.server_name.as_deref()),
    |chain, ask| stated(chain.transport, ask.hello.transport),
    |chain, ask| protocol(&chain.protocols, &ask.hello.protocols),
    |chain, ask| ranges(&chain.sources, ask.source.0),
    |chain, ask| match chain.source_ports.is_empty() {
        true => ANY,
        false => chain.source_ports.contains(&ask.source.1).then_some(Reverse(0)),
    },
];

fn stated<T: PartialEq>(condition: Option<T>, value: T) -> Fit {
    match condition {
        None => ANY,
        Some(wanted) => (wanted == value).then_some(Reverse(0)),
    }
}

/// The longest range goes first.
fn ranges(ranges: &[Range], address: IpAddr) -> Fit {
    if ranges.is_empty() {
        return ANY;
    }
    ranges.iter().filter(|range| range.contains(address)).map(|range| Reverse(usize::from(u8::MAX - range.bits))).max()
}

/// Exact goes first, then the longest suffix.
fn server_name(names: &[ServerName], asked: Option<&str>) -> Fit {
    if names.is_empty() {
        return ANY;
    }
    let asked = asked?;
    let fit = |name: &ServerName| match name {
        ServerName::Exact(name) => (name == asked).then_some(Reverse(0)),
        // At least one character in front of the dot.
        ServerName::Suffix(suffix) => {
            (asked.len() > suffix.len() && asked.ends_with(suffix.as_str())).then(|| Reverse(usize::MAX - 1 - suffix.len()))
        }
    };
    names.iter().filter_map(fit).max()
}

/// What the client prefers goes first.
fn protocol(wanted: &[String], offered: &[String]) -> Fit {
    if wanted.is_empty() {
        return ANY;
    }
    offered.iter().position(|protocol| wanted.contains(protocol)).map(Reverse)
}

impl Match {
    fn is_for(&self, (labels, namespace): (&BTreeMap<String, String>, &str)) -> bool {
        let has = |(name, value): &(String, String)| labels.get(name) == Some(value);
        self.labels.iter().all(has) && self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
    }

    /// Does it take everything? This is asked for each request, so it compares nothing.
    fn is_empty(&self) -> bool {
        let Self { destination_port, destinations, server_names, transport, protocols, sources, source_ports, labels, namespace } =
            self;
        destination_port.is_none()
            && destinations.is_empty()
            && server_names.is_empty()
            && transport.is_none()
            && protocols.is_empty()
            && sources.is_empty()
            && source_ports.is_empty()
            && labels.is_empty()
            && namespace.is_none()
    }

    /// Does it ask for what only a ClientHello says?
    #[must_use]
    pub fn wants_tls(&self) -> bool {
        let asks = !self.server_names.is_empty() || !self.protocols.is_empty();
        self.transport == Some(Transport::Tls) || (asks && self.transport.is_none())
    }
}

impl Range {
    /// Is the address in it? IPv4 addresses are in IPv4 ranges only, however they are written.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                self.bits == 0 || differ.checked_shr(32 - u32::from(self.bits.min(32))).is_none_or(|high| high == 0)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differ = ours.to_bits() ^ theirs.to_bits();
                self.bits == 0 || differ.checked_shr(128 - u32::from(self.bits.min(128))).is_none_or(|high| high == 0)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
