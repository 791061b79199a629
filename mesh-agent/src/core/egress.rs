//! What is allowed outside the mesh: the control plane's `Egress` resources, and the cells of the kernel's allowlist that they ask for.

use super::desired::{self, TooMany, addr};
use super::policies::Policies;
use super::resources::{Field, Service, ServicePort, World, address, port, proto};
use mesh_common::abi::{Dest, EgressKey, EgressNet, maps, way};
use mesh_xds::agent as wire;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// One ServiceEntry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rule {
    /// Whom it names.
    pub hosts: Vec<Host>,
    /// By protocol number and port: one of [`way`].
    pub ports: BTreeMap<(u8, u16), u32>,
    /// Allowed whatever DNS says: first address and length of each range.
    pub ranges: BTreeSet<(IpAddr, u8)>,
    /// Are addresses of `hosts` learned from DNS?
    pub learn: bool,
    /// Whose workloads it lets out; empty: all.
    pub namespaces: Vec<String>,
    /// Connections that it allowed end with it.
    pub terminate: bool,
}

/// All rules, and the numbers of namespaces.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// By name.
    pub rules: BTreeMap<String, Rule>,
    /// Their namespaces, and others.
    pub policies: Policies,
}

impl Rules {
    /// What this world allows: what its entries say, and VIPs that are for some namespaces only.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let mut rules = world.egress.clone();
        let ports = world.services.iter().flat_map(|(name, service)| service.ports.iter().map(move |port| (name, service, port)));
        let scoped = ports.filter(|(.., port)| !port.namespaces.is_empty());
        let named = |name: &str, port: &ServicePort| format!("VIP {name}:{} ({})", port.port, port.proto);
        rules.extend(scoped.map(|(name, service, port)| (named(name, port), vips(service, port))));
        Self { rules, policies: Policies::of(world) }
    }

    /// The policies that a rule is part of.
    #[must_use]
    pub fn policies_of(&self, rule: &Rule) -> BTreeSet<u32> {
        self.policies.all(&rule.namespaces)
    }

    /// What the rules allow whose connections end with them.
    #[must_use]
    pub fn ending<'a>(&self, learned: impl Iterator<Item = (&'a str, IpAddr)>) -> Allowed {
        let ending = self.rules.iter().filter(|(_, rule)| rule.terminate);
        let rules =
            Self { rules: ending.map(|(name, rule)| (name.clone(), rule.clone())).collect(), policies: self.policies.clone() };
        // Not more than what fits, since it was in force.
        if rules.rules.is_empty() { Allowed::default() } else { allowed(&rules, learned).unwrap_or_default() }
    }

    /// Does any rule learn addresses of this name?
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.rules.values().any(|rule| rule.wants(name))
    }
}

/// Who may dial a port of a service's VIPs, as a rule.
fn vips(service: &Service, port: &ServicePort) -> Rule {
    Rule {
        ports: [((port.proto, port.port), way::PASS)].into(),
        ranges: service.addresses.iter().map(|ip| (*ip, width(*ip))).collect(),
        namespaces: port.namespaces.clone(),
        ..Rule::default()
    }
}

/// A host name in a rule, lower case, without trailing dot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Host {
    /// `httpbin.org`.
    Exact(String),
    /// `*.example.com`, without the asterisk: `.example.com`. One or more labels stand for it.
    Suffix(String),
}

impl Rule {
    /// Are addresses of this name allowed by this rule?
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        self.learn
            && self.hosts.iter().any(|host| match host {
                Host::Exact(host) => host == name,
                Host::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            })
    }
}

/// Contents of the allowlist, each with its [`way`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allowed {
    /// Single destinations.
    pub exact: BTreeMap<EgressKey, u32>,
    /// Prefix length (of the whole key) and range.
    pub nets: BTreeMap<(u32, EgressNet), u32>,
}

/// One write.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EgressOp {
    /// Allow, this way from here on.
    Add(EgressKey, u32),
    /// Allow a range.
    AddNet(u32, EgressNet, u32),
    /// No longer.
    Delete(EgressKey),
    /// No longer.
    DeleteNet(u32, EgressNet),
}

impl Allowed {
    /// Nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.nets.is_empty()
    }

    /// What of it `other` does not have.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let exact = self.exact.iter().filter(|(key, _)| !other.exact.contains_key(key));
        let nets = self.nets.iter().filter(|(key, _)| !other.nets.contains_key(key));
        Self { exact: exact.map(|(key, way)| (*key, *way)).collect(), nets: nets.map(|(key, way)| (*key, *way)).collect() }
    }

    /// Does it have this destination, by itself or in a range?
    #[must_use]
    pub fn covers(&self, policy: u32, dest: &Dest) -> bool {
        let to = desired::ip(dest.addr);
        let question = EgressNet::question(policy, dest);
        let around = |(bits, net): &(u32, EgressNet)| {
            let of_net =
                u8::try_from((bits + u32::from(width(to))).saturating_sub(EgressNet::FIXED_BITS + 128)).unwrap_or_default();
            let same = (net.policy, net.port, net.proto, net.family)
                == (question.policy, question.port, question.proto, question.family);
            same && range(to, of_net).0 == desired::ip(net.addr)
        };
        self.exact.contains_key(&EgressKey { policy, dest: *dest }) || self.nets.keys().any(around)
    }

    /// What an operation makes of it.
    pub fn apply(&mut self, op: &EgressOp) {
        match op {
            EgressOp::Add(key, way) => drop(self.exact.insert(*key, *way)),
            EgressOp::AddNet(bits, net, way) => drop(self.nets.insert((*bits, *net), *way)),
            EgressOp::Delete(key) => drop(self.exact.remove(key)),
            EgressOp::DeleteNet(bits, net) => drop(self.nets.remove(&(*bits, *net))),
        }
    }
}

/// The cells that one learned address asks for.
#[must_use]
pub fn cells(rules: &Rules, name: &str, ip: IpAddr) -> BTreeMap<EgressKey, u32> {
    let mut cells = BTreeMap::new();
    for rule in rules.rules.values().filter(|rule| rule.wants(name)) {
        for policy in rules.policies_of(rule) {
            rule.ports.iter().for_each(|((proto, port), way)| stricter(&mut cells, exact(policy, ip, *proto, *port), *way));
        }
    }
    cells
}

/// Of two rules of one policy for the same address or range, what is for the proxy by one must not get past it by the other. A rule for an address goes
/// before one for a range around it, as the longer range does.
fn stricter<K: Ord>(cells: &mut BTreeMap<K, u32>, key: K, way: u32) {
    let known = cells.entry(key).or_insert(way);
    if way == way::PROXY {
        *known = way;
    }
}

/// The whole allowlist.
///
/// # Errors
/// If a table would not fit. Nothing is cut off silently.
pub fn allowed<'a>(rules: &Rules, learned: impl Iterator<Item = (&'a str, IpAddr)>) -> Result<Allowed, TooMany> {
    let mut allowed = Allowed::default();
    let each = rules.rules.values().flat_map(|rule| rules.policies_of(rule).into_iter().map(move |policy| (rule, policy)));
    for (rule, policy) in each {
        for ((ip, bits), ((proto, port), way)) in rule.ranges.iter().flat_map(|r| rule.ports.iter().map(move |p| (r, p))) {
            if *bits == width(*ip) {
                stricter(&mut allowed.exact, exact(policy, *ip, *proto, *port), *way);
            } else {
                stricter(&mut allowed.nets, net((policy, *proto, *port), *ip, *bits), *way);
            }
        }
    }
    for (name, ip) in learned {
        cells(rules, name, ip).into_iter().for_each(|(key, way)| stricter(&mut allowed.exact, key, way));
    }
    TooMany::check(maps::EGRESS_EXACT, allowed.exact.len(), maps::EGRESS_EXACT_MAX)?;
    TooMany::check(maps::EGRESS_CIDR, allowed.nets.len(), maps::EGRESS_CIDR_MAX)?;
    Ok(allowed)
}

/// The operations that turn `actual` into `desired`: what is no longer allowed goes first, what stays allowed is not touched.
#[must_use]
pub fn reconcile(desired: &Allowed, actual: &Allowed) -> Vec<EgressOp> {
    let gone = actual.exact.keys().filter(|key| !desired.exact.contains_key(key));
    let mut ops: Vec<EgressOp> = gone.copied().map(EgressOp::Delete).collect();
    let gone = actual.nets.keys().filter(|key| !desired.nets.contains_key(key));
    ops.extend(gone.map(|(bits, net)| EgressOp::DeleteNet(*bits, *net)));
    let new = desired.exact.iter().filter(|(key, way)| actual.exact.get(key) != Some(way));
    ops.extend(new.map(|(key, way)| EgressOp::Add(*key, *way)));
    let new = desired.nets.iter().filter(|(key, way)| actual.nets.get(key) != Some(way));
    ops.extend(new.map(|((bits, net), way)| EgressOp::AddNet(*bits, *net, *way)));
    ops
}

fn exact(policy: u32, ip: IpAddr, proto: u8, port: u16) -> EgressKey {
    EgressKey { policy, dest: Dest { addr: addr(ip), port, proto, pad: 0 } }
}

fn net((policy, proto, port): (u32, u8, u16), ip: IpAddr, bits: u8) -> (u32, EgressNet) {
    // An IPv4 address lies in the last 32 bits.
    let before = EgressNet::FIXED_BITS + 128 - u32::from(width(ip));
    let dest = Dest { addr: addr(ip), port, proto, pad: 0 };
    (before + u32::from(bits), EgressNet::question(policy, &dest))
}

/// Bits of an address of this family.
fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Reads a resource.
pub(super) fn rule(wire: wire::Egress) -> Field<Rule> {
    let hosts = wire.hosts.iter().enumerate().map(|(i, text)| host(&format!("hosts[{i}]"), text));
    let ranges = wire.addresses.iter().enumerate().map(|(i, text)| parse_range(&format!("addresses[{i}]"), text));
    let ports = wire.ports.iter().enumerate().map(|(i, p)| {
        let at = |name: &str| format!("ports[{i}].{name}");
        let way = match wire::Mode::try_from(p.mode) {
            Ok(wire::Mode::Direct) => way::PASS,
            Ok(wire::Mode::Proxy) => way::PROXY,
            Ok(wire::Mode::Kernel) => return Err((at("mode"), "outside the mesh there is nothing to balance over".to_owned())),
            Err(error) => return Err((at("mode"), error.to_string())),
        };
        Ok(((proto(&at("transport"), p.transport)?, port(&at("port"), p.port)?), way))
    });
    Ok(Rule {
        hosts: hosts.collect::<Field<_>>()?,
        ports: ports.collect::<Field<_>>()?,
        ranges: ranges.collect::<Field<_>>()?,
        learn: wire.learn,
        namespaces: wire.namespaces,
        terminate: wire.terminate_on_revoke,
    })
}

fn host(field: &str, text: &str) -> Field<Host> {
    let bad = |problem: &str| (field.to_owned(), format!("{text:?} {problem}"));
    let (wild, name) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if name.is_empty() || name.len() > NAME_MAX || name.contains('*') {
        return Err(bad("is no host name, nor one behind \"*.\""));
    }
    if name.ends_with('.') || name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(bad("must be in lower case, without a trailing dot"));
    }
    Ok(if wild { Host::Suffix(format!(".{name}")) } else { Host::Exact(name.to_owned()) })
}

/// Longest name that DNS allows.
pub const NAME_MAX: usize = 253;

fn parse_range(field: &str, text: &str) -> Field<(IpAddr, u8)> {
    let Some((base, bits)) = text.split_once('/') else {
        let ip = address(field, text)?;
        return Ok((ip, width(ip)));
    };
    let base = address(field, base)?;
    let bits: Option<u8> = bits.parse().ok().filter(|bits| *bits <= width(base));
    let bits = bits.ok_or_else(|| (field.to_owned(), format!("{text:?} is no address range")))?;
    Ok(range(base, bits))
}

/// The range by its first address, so that one range has one key.
#[must_use]
pub fn range(ip: IpAddr, bits: u8) -> (IpAddr, u8) {
    let first = match ip {
        IpAddr::V4(v4) => IpAddr::from((v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).to_be_bytes()),
    };
    (first, bits)
}

#[cfg(test)]
mod tests;
