//! Which VIP a name gets: DC/OS' first choice (a hash of the name), and the next free address if another name has that one.
//!
//! On DC/OS each node probes for itself, in the order in which it hears of the names, so that nodes may disagree. Here one place allots:
//! names that hold an address keep it, new ones are served in alphabetical order.

use mesh_common::vip;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses of names, as the hash knows them (`reviews.marathon`).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Allotment {
    v4: BTreeMap<String, Ipv4Addr>,
    v6: BTreeMap<String, Ipv6Addr>,
}

/// What a name wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Want {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Allotment {
    /// The next allotment: for exactly these names, around addresses that labels claim literally (`VIP_0: 11.1.2.3:80`).
    #[must_use]
    pub(crate) fn next(&self, wants: &BTreeMap<String, Want>, claimed: &BTreeSet<IpAddr>) -> Self {
        let (claimed4, claimed6) = split(claimed);
        let names = |pick: fn(&Want) -> bool| wants.iter().filter(move |(_, want)| pick(want)).map(|(name, _)| name);
        Self {
            v4: allot(&self.v4, names(|want| want.v4), claimed4, vip::address_v4, after_v4),
            v6: allot(&self.v6, names(|want| want.v6), claimed6, vip::address_v6, after_v6),
        }
    }

    /// Every address with its name.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (IpAddr, String)> {
        let v4 = self.v4.iter().map(|(name, address)| (IpAddr::from(*address), name.clone()));
        v4.chain(self.v6.iter().map(|(name, address)| (IpAddr::from(*address), name.clone())))
    }

    /// The addresses of a name, IPv4 first.
    pub(crate) fn of(&self, name: &str) -> Vec<IpAddr> {
        let v4 = self.v4.get(name).copied().map(IpAddr::from);
        v4.into_iter().chain(self.v6.get(name).copied().map(IpAddr::from)).collect()
    }
}

/// From what [`Allotment::rows`] gave.
impl FromIterator<(IpAddr, String)> for Allotment {
    fn from_iter<T: IntoIterator<Item = (IpAddr, String)>>(rows: T) -> Self {
        let mut allotment = Self::default();
        for (address, name) in rows {
            match address {
                IpAddr::V4(address) => drop(allotment.v4.insert(name, address)),
                IpAddr::V6(address) => drop(allotment.v6.insert(name, address)),
            }
        }
        allotment
    }
}

fn split(addresses: &BTreeSet<IpAddr>) -> (BTreeSet<Ipv4Addr>, BTreeSet<Ipv6Addr>) {
    let v4 = addresses.iter().filter_map(|a| if let IpAddr::V4(a) = a { Some(*a) } else { None });
    let v6 = addresses.iter().filter_map(|a| if let IpAddr::V6(a) = a { Some(*a) } else { None });
    (v4.collect(), v6.collect())
}

fn after_v4(address: Ipv4Addr) -> Ipv4Addr {
    if address >= vip::VIP4_MAX { vip::VIP4_MIN } else { Ipv4Addr::from(u32::from(address) + 1) }
}

fn after_v6(address: Ipv6Addr) -> Ipv6Addr {
    if address >= vip::VIP6_MAX { vip::VIP6_MIN } else { Ipv6Addr::from(u128::from(address) + 1) }
}

/// `taken` is all that is claimed otherwise. Ends because the range (2^24) is larger than any number of names that fits into memory
/// here: the registry's limit is far below.
fn allot<'a, A: Copy + Ord>(
    before: &BTreeMap<String, A>,
    names: impl Iterator<Item = &'a String> + Clone,
    mut taken: BTreeSet<A>,
    first: impl Fn(&str) -> A,
    after: impl Fn(A) -> A,
) -> BTreeMap<String, A> {
    let mut held = BTreeMap::new();
    for name in names.clone() {
        if let Some(address) = before.get(name)
            && taken.insert(*address)
        {
            held.insert(name.clone(), *address);
        }
    }
    for name in names {
        if !held.contains_key(name) {
            let mut address = first(name);
            while !taken.insert(address) {
                address = after(address);
            }
            held.insert(name.clone(), address);
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Want = Want { v4: true, v6: false };

    fn wants(names: &[&str]) -> BTreeMap<String, Want> {
        names.iter().map(|name| ((*name).to_owned(), V4)).collect()
    }

    #[test]
    fn first_choice_is_the_hash_and_a_claimed_address_is_passed_over() {
        let empty = Allotment::default();
        let first = vip::address_v4("reviews.marathon");
        assert_eq!(empty.next(&wants(&["reviews.marathon"]), &BTreeSet::new()).of("reviews.marathon"), [IpAddr::V4(first)]);
        let second = IpAddr::V4(after_v4(first));
        assert_eq!(empty.next(&wants(&["reviews.marathon"]), &BTreeSet::from([first.into()])).of("reviews.marathon"), [second]);
        let both = empty.next(&BTreeMap::from([("a".to_owned(), Want { v4: true, v6: true })]), &BTreeSet::new());
        assert_eq!(both.of("a"), [IpAddr::from(vip::address_v4("a")), vip::address_v6("a").into()]);
    }

    #[test]
    fn who_has_an_address_keeps_it() {
        // A collision, made by pretending that "a" and "b" have the same first choice.
        let first = |_: &str| 7u8;
        let after = |a: u8| a.wrapping_add(1);
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let b = allot(&BTreeMap::new(), names(&["b"]).iter(), BTreeSet::new(), first, after);
        let ab = allot(&b, names(&["a", "b"]).iter(), BTreeSet::new(), first, after);
        assert_eq!((ab["b"], ab["a"]), (7, 8), "the newcomer gives way, whatever its name");
        let a = allot(&ab, names(&["a"]).iter(), BTreeSet::new(), first, after);
        assert_eq!(a["a"], 8, "and stays where it is when the other is gone");
        assert_eq!(after_v4(vip::VIP4_MAX), vip::VIP4_MIN);
        let both = Allotment::default().next(&BTreeMap::from([("a".to_owned(), Want { v4: true, v6: true })]), &BTreeSet::new());
        assert_eq!(both.rows().collect::<Allotment>(), both);
    }
}
