//! Egress policies by number: what everybody may, and what a namespace may beside it.
//!
//! A number is made of the namespace's name, so that all agents of a node, one after the other, say the same without remembering. Two names
//! of one number are told apart by the agent, which knows all names; the programs know numbers only.

/// What everybody may.
pub const EVERYBODY: u32 = 0;
/// Where the node's gateway lives, as Istio's does.
pub const GATEWAY_NAMESPACE: &str = "istio-system";

/// The number of a namespace, as long as nobody else has it: FNV-1a, never [`EVERYBODY`].
#[must_use]
pub const fn of(namespace: &str) -> u32 {
    let bytes = namespace.as_bytes();
    let (mut hash, mut i) = (0x811c_9dc5_u32, 0);
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    if hash == EVERYBODY { 1 } else { hash }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_published_hash() {
        assert_eq!((of("a"), of("foobar")), (0xe40c_292c, 0xbf9c_f968));
        assert_ne!(of(GATEWAY_NAMESPACE), of("default"));
    }
}
