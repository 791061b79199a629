//! Which backend takes a connection? Asked when [`super::l4::decide`] says that one does.
//!
//! The same code is linked into the kernel programs and into user space. Every choice costs at most four look-ups, whatever the number of
//! backends: they are drawn by weight with Walker's alias method, for which the agent has laid them out (`mesh-agent/src/core/slots.rs`).

use crate::abi::{Addr, Backend, BackendKey, Service, choice};

/// What is known of backends. Implemented over eBPF maps in the kernel.
pub trait Set<'a> {
    /// The backend of this service and index.
    fn backend(&self, key: BackendKey) -> Option<&'a Backend>;
    /// How many connections it has.
    fn active(&self, backend: &Backend) -> i64;
}

/// The backend for one connection; `None` only if the set does not hold what the service's cell promises.
///
/// `random` gives numbers that are uniform over u32; `source` one that stands for the client (see [`source`]), asked for where the choice
/// depends on it.
#[inline(always)]
pub fn choose<'a, S: Set<'a>>(
    service: &Service,
    set: &S,
    mut random: impl FnMut() -> u32,
    source: impl FnOnce() -> u32,
) -> Option<&'a Backend> {
    match service.choice {
        choice::SOURCE => draw(service, set, source()),
        choice::RANDOM => draw(service, set, random()),
        _ => {
            let first = draw(service, set, random())?;
            if service.backends == 1 {
                return Some(first);
            }
            match draw(service, set, random()) {
                Some(second) if is_idler(second, set.active(second), first, set.active(first)) => Some(second),
                _ => Some(first),
            }
        }
    }
}

/// The index is the number's share of the set, what is left of the number decides between this backend and its alias.
#[inline(always)]
fn draw<'a, S: Set<'a>>(service: &Service, set: &S, number: u32) -> Option<&'a Backend> {
    let scaled = u64::from(number) * u64::from(service.backends);
    let key = |index| BackendKey { service: service.id, index };
    let own = set.backend(key((scaled >> 32) as u32))?;
    if scaled as u32 <= own.share {
        return Some(own);
    }
    // Halfway through an update the alias may be gone: then this one is as good.
    set.backend(key(own.alias)).or(Some(own))
}

/// Has `second` fewer connections for its weight? The first was drawn by weight, so it stays where they are even: among unequal weights,
/// up to one connection, or weights would not count where connections are short and few.
#[inline(always)]
fn is_idler(second: &Backend, second_active: i64, first: &Backend, first_active: i64) -> bool {
    let slack = u64::from(first.weight != second.weight);
    let positive = |active: i64| if active < 0 { 0 } else { active as u64 & 0xffff_ffff };
    positive(first_active) * u64::from(second.weight) > (positive(second_active) + slack) * u64::from(first.weight)
}

/// A number that stands for a client's address: equal for equal addresses on every node, uniform over different ones.
#[must_use]
#[inline(always)]
pub const fn source(addr: &Addr) -> u32 {
    let a = &addr.0;
    let high = u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    let low = u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    (mix(mix(high) ^ low) >> 32) as u32
}

/// Scatters: splitmix64's finaliser.
#[must_use]
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests;
