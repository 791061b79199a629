//! Which virtual host a `Host` names: exact, then the longest `*suffix`, then the longest `prefix*`, then `*`.

use crate::core::rewrite::split_port;
use crate::core::table::Table;
use std::borrow::Cow;

/// Two virtual hosts claim the same domain.
#[derive(Debug, thiserror::Error)]
#[error("domain {0:?} occurs twice")]
pub struct DuplicateDomain(pub String);

/// Domains to positions.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: Table<String, usize>,
    /// Without the star, longest first.
    suffixes: Vec<(String, usize)>,
    /// Without the star, longest first.
    prefixes: Vec<(String, usize)>,
    any: Option<usize>,
    ports: Ports,
}

/// Does the port that a client names in `Host` matter?
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Ports {
    /// A domain is the whole of it (`ignore_port_in_host_matching` is false).
    #[default]
    Matter,
    /// It is cut off before domains are looked at.
    Ignored,
}

impl Index {
    pub(super) fn new<'a>(hosts: impl Iterator<Item = &'a [String]>, ports: Ports) -> Result<Self, DuplicateDomain> {
        let mut index = Self { ports, ..Self::default() };
        let mut seen = std::collections::HashSet::new();
        for (position, domains) in hosts.enumerate() {
            for domain in domains {
                let domain = domain.to_ascii_lowercase();
                if !seen.insert(domain.clone()) {
                    return Err(DuplicateDomain(domain));
                }
                if domain == "*" {
                    index.any = Some(position);
                } else if let Some(suffix) = domain.strip_prefix('*') {
                    index.suffixes.push((suffix.to_owned(), position));
                } else if let Some(prefix) = domain.strip_suffix('*') {
                    index.prefixes.push((prefix.to_owned(), position));
                } else {
                    index.exact.insert(domain, position);
                }
            }
        }
        index.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        index.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(index)
    }

    pub(super) fn find(&self, authority: &str) -> Option<usize> {
        let authority = if authority.bytes().any(|b| b.is_ascii_uppercase()) {
            Cow::Owned(authority.to_ascii_lowercase())
        } else {
            Cow::Borrowed(authority)
        };
        let host = match self.ports {
            Ports::Matter => &*authority,
            Ports::Ignored => split_port(&authority).0,
        };
        if let Some(position) = self.exact.get(host) {
            return Some(*position);
        }
        // A star stands for at least one character, as in Envoy.
        let suffix = self.suffixes.iter().find(|(suffix, _)| host.len() > suffix.len() && host.ends_with(suffix.as_str()));
        let prefix = || self.prefixes.iter().find(|(prefix, _)| host.len() > prefix.len() && host.starts_with(prefix.as_str()));
        suffix.or_else(prefix).map(|(_, position)| *position).or(self.any)
    }
}
