//! Names as keys: the lower-case wire form (each label behind its length) without the final zero, so that equal keys are equal names
//! and a suffix that starts at a label is a parent domain.

use hickory_proto::rr::Name;
use std::borrow::Borrow;

/// Longest label.
const LABEL_MAX: usize = 63;
/// Longest name on the wire, without the final zero.
const NAME_MAX: usize = 254;

/// A name that was compared for the last time with its case.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in crate::dns) struct Key(Box<[u8]>);

/// Why a text is no name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(in crate::dns) enum InvalidName {
    /// Nothing in it, or nothing between two dots.
    #[error("{0:?} has an empty label")]
    EmptyLabel(String),
    /// A label of more than 63 bytes.
    #[error("{0:?} has a label of more than {LABEL_MAX} characters")]
    LongLabel(String),
    /// More than 253 characters.
    #[error("{0:?} is longer than a name may be")]
    Long(String),
    /// Something other than letters, digits, `-`, `_`, or a `*` that is not the whole first label.
    #[error("{0:?} has the character {1:?}, which no host name has")]
    Character(String, char),
}

impl Key {
    /// The key of a name from a message.
    pub(in crate::dns) fn of(name: &Name) -> Self {
        let mut wire = Vec::with_capacity(NAME_MAX);
        for label in name.iter() {
            // A parsed label has at most 63 bytes.
            wire.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        Self(wire.into())
    }

    /// Reads a host name as text, with or without a final dot. `*` may stand for the whole first label.
    pub(in crate::dns) fn parse(text: &str) -> Result<Self, InvalidName> {
        let mut wire = Vec::with_capacity(text.len() + 1);
        for (at, label) in text.strip_suffix('.').unwrap_or(text).split('.').enumerate() {
            let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if label.is_empty() {
                return Err(InvalidName::EmptyLabel(text.to_owned()));
            }
            if let Some(c) = label.chars().find(|c| !legal(*c)).filter(|_| !(at == 0 && label == "*")) {
                return Err(InvalidName::Character(text.to_owned(), c));
            }
            let length = u8::try_from(label.len()).ok().filter(|l| usize::from(*l) <= LABEL_MAX);
            wire.push(length.ok_or_else(|| InvalidName::LongLabel(text.to_owned()))?);
            wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
        if wire.len() > NAME_MAX { Err(InvalidName::Long(text.to_owned())) } else { Ok(Self(wire.into())) }
    }

    /// The bytes of the key.
    pub(in crate::dns) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The domains above this name, the nearest first, the root not.
    pub(in crate::dns) fn parents(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let length = usize::from(*rest.first()?);
            rest = rest.get(length + 1..)?;
            (!rest.is_empty()).then_some(rest)
        })
    }

    /// A domain from [`Self::parents`], on its own.
    pub(in crate::dns) fn from_suffix(parent: &[u8]) -> Self {
        Self(parent.into())
    }

    /// `*.` before a domain.
    pub(in crate::dns) fn wildcard(parent: &[u8]) -> Self {
        Self([b"\x01*", parent].concat().into())
    }

    /// Is this a name such as `*.example.com`?
    pub(in crate::dns) fn is_wildcard(&self) -> bool {
        self.0.starts_with(b"\x01*")
    }

    /// Is it that domain, or below it?
    pub(in crate::dns) fn is_within(&self, domain: &Self) -> bool {
        self == domain || self.parents().any(|parent| parent == &*domain.0)
    }

    /// The name as text, lower case and without final dot; `None` if it has bytes that no host name has.
    pub(in crate::dns) fn to_text(&self) -> Option<String> {
        let mut text = String::with_capacity(self.0.len());
        let mut rest: &[u8] = &self.0;
        while let Some((length, after)) = rest.split_first() {
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(std::str::from_utf8(label).ok()?);
            rest = after;
        }
        Self::parse(&text).is_ok_and(|key| key == *self).then_some(text)
    }

    /// The name as records carry it.
    pub(in crate::dns) fn to_name(&self) -> Name {
        let mut labels = Vec::new();
        let mut rest: &[u8] = &self.0;
        while let Some((length, after)) = rest.split_first() {
            let (label, after) = after.split_at(usize::from(*length).min(after.len()));
            labels.push(label);
            rest = after;
        }
        // Every key was made of legal labels and is short enough; the root would be a harmless owner.
        Name::from_labels(labels).unwrap_or_else(|_| Name::root())
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::parse(text).expect("valid")
    }

    #[test]
    fn text_and_messages_give_the_same_key_whatever_the_case() {
        let name = Name::from_ascii("ReViews.Marathon.l4lb.thisdcos.directory.").expect("valid");
        assert_eq!(Key::of(&name), key("reviews.marathon.L4LB.thisdcos.directory"));
        assert_eq!(key("a.b."), key("a.b"));
        assert_ne!(key("a.b"), key("ab"));
        assert_eq!(key("a.b").to_name(), Name::from_ascii("a.b.").expect("valid"));
        assert!(key("*.example.com").is_wildcard());
        assert_eq!(Key::wildcard(key("example.com").as_bytes()), key("*.example.com"));
    }

    #[test]
    fn domains_contain_whole_labels_only() {
        assert!(key("x.l4lb.directory").is_within(&key("l4lb.directory")));
        assert!(key("l4lb.directory").is_within(&key("l4lb.directory")));
        assert!(!key("xl4lb.directory").is_within(&key("l4lb.directory")));
        assert!(!key("directory").is_within(&key("l4lb.directory")));
    }

    #[test]
    fn bad_names_are_refused_by_their_fault() {
        assert!(matches!(Key::parse(""), Err(InvalidName::EmptyLabel(_))));
        assert!(matches!(Key::parse("a..b"), Err(InvalidName::EmptyLabel(_))));
        assert!(matches!(Key::parse("a b"), Err(InvalidName::Character(_, ' '))));
        assert!(matches!(Key::parse("a.*.b"), Err(InvalidName::Character(_, '*'))));
        assert!(matches!(Key::parse(&"a".repeat(64)), Err(InvalidName::LongLabel(_))));
        assert!(matches!(Key::parse(&"a.".repeat(128)), Err(InvalidName::Long(_))));
        assert!(Key::parse(&"a.".repeat(127)).is_ok());
    }
}
