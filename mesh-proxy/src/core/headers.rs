//! Headers that a proxy must drop, and those that a route adds or removes.

use super::format::{Facts, Format};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Of HTTP/1.0.
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Of nobody's standard.
pub const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What becomes of a value when the header is there already. Envoy's `append_action`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Existing {
    /// One more value.
    Append,
    /// The existing one stays.
    Keep,
    /// It is replaced, or added if absent.
    Overwrite,
    /// It is replaced; absent, it stays absent.
    OverwriteOnly,
}

/// Removals and additions, removals first.
#[derive(Clone, Debug, Default)]
pub struct HeaderOps {
    /// Removed.
    pub remove: Vec<HeaderName>,
    /// Added.
    pub add: Vec<Addition>,
}

/// A header to add.
#[derive(Clone, Debug)]
pub struct Addition {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: Format,
    /// If it is there already.
    pub existing: Existing,
    /// A value that turns out empty is added all the same.
    pub keep_empty: bool,
}

impl HeaderOps {
    /// Changes the headers, in Envoy's order: removals; then all values are made, from what is there now; then replacements; then additions.
    pub fn apply(&self, headers: &mut HeaderMap, facts: &Facts<'_>) {
        for name in &self.remove {
            headers.remove(name);
        }
        if let [only] = self.add.as_slice() {
            if let Some((value, replaces)) = only.decide(headers, facts) {
                only.put(headers, value, replaces);
            }
            return;
        }
        let decided: Vec<_> = self.add.iter().map(|addition| (addition, addition.decide(headers, facts))).collect();
        for replacing in [true, false] {
            for (addition, value) in &decided {
                if let Some((value, _)) = value.as_ref().filter(|(_, replaces)| *replaces == replacing) {
                    addition.put(headers, value.clone(), replacing);
                }
            }
        }
    }

    /// Do values need the request's headers after the request was sent?
    #[must_use]
    pub fn asks_request(&self) -> bool {
        self.add.iter().any(|addition| addition.value.asks_request())
    }
}

impl Addition {
    /// The value, and whether it replaces what is there; `None` if nothing happens.
    fn decide(&self, headers: &HeaderMap, facts: &Facts<'_>) -> Option<(HeaderValue, bool)> {
        let replaces = match self.existing {
            Existing::Append => false,
            Existing::Overwrite => true,
            Existing::Keep if headers.contains_key(&self.name) => return None,
            Existing::Keep => false,
            Existing::OverwriteOnly if !headers.contains_key(&self.name) => return None,
            Existing::OverwriteOnly => true,
        };
        let value = self.value.fill(headers, facts)?;
        (self.keep_empty || !value.is_empty()).then_some((value, replaces))
    }

    fn put(&self, headers: &mut HeaderMap, value: HeaderValue, replaces: bool) {
        if replaces {
            headers.insert(&self.name, value);
        } else {
            headers.append(&self.name, value);
        }
    }
}

/// Removes what belongs to one connection only: RFC 9110's list and whatever `Connection` names. `te: trailers` stays, gRPC needs it.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // A look-up costs less than a removal.
    if headers.contains_key(header::CONNECTION) {
        let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let names = values.flat_map(|value| value.split(',')).map(str::trim);
        // Mostly one of these, which are not looked for: the one goes anyway, the other is no header.
        let others = names.filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"));
        let named: Vec<HeaderName> = others.filter_map(|name| name.parse().ok()).collect();
        headers.remove(header::CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        if headers.contains_key(&name) {
            headers.remove(name);
        }
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::format::tests::facts;

    fn applied(before: &[&'static str], add: &[(&str, Existing)], remove: bool) -> Vec<String> {
        let x = HeaderName::from_static("x");
        let mut headers = HeaderMap::new();
        for value in before {
            headers.append(&x, HeaderValue::from_static(value));
        }
        let add = add.iter().map(|(value, existing)| {
            let value = Format::parse(value).expect("known");
            Addition { name: x.clone(), value, existing: *existing, keep_empty: false }
        });
        let ops = HeaderOps { remove: if remove { vec![x.clone()] } else { Vec::new() }, add: add.collect() };
        ops.apply(&mut headers, &facts());
        headers.get_all(&x).iter().map(|value| value.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn removals_then_replacements_then_additions() {
        use Existing::{Append, Keep, Overwrite, OverwriteOnly};
        assert_eq!(applied(&["old"], &[("new", Append)], true), ["new"]);
        assert_eq!(applied(&["new"], &[("kept", Keep), ("more", Append)], false), ["new", "more"]);
        assert_eq!(applied(&["a", "b"], &[("one", OverwriteOnly)], false), ["one"]);
        assert_eq!(applied(&["a"], &[("none", OverwriteOnly)], true), [""; 0]);
        assert_eq!(applied(&["a"], &[("last", Append), ("first", Overwrite)], false), ["first", "last"], "whatever their order");
        assert_eq!(applied(&[], &[("a", Keep), ("b", Keep)], false), ["a", "b"], "both saw that there was none");
        assert_eq!(applied(&["a"], &[("%REQ(x)%b", Overwrite)], false), ["ab"], "made from what was there");
        assert_eq!(applied(&["a"], &[("%REQ(none)%", Overwrite)], false), ["a"], "an empty value changes nothing");
    }

    #[test]
    fn what_connection_names_goes_with_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, x-hop"), ("x-hop", "1"), ("keep-alive", "5"), ("te", "trailers"), ("host", "a")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te"]);
    }
}
