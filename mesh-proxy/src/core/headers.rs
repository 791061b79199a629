//! Headers that a proxy must drop, and those that a route adds or removes.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

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
    pub add: Vec<(HeaderName, HeaderValue, Existing)>,
}

impl HeaderOps {
    /// Changes the headers.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value, existing) in &self.add {
            let present = headers.contains_key(name);
            match existing {
                Existing::Append => {
                    headers.append(name, value.clone());
                }
                Existing::Keep if present => {}
                Existing::OverwriteOnly if !present => {}
                Existing::Keep | Existing::Overwrite | Existing::OverwriteOnly => {
                    headers.insert(name, value.clone());
                }
            }
        }
    }
}

/// Removes what belongs to one connection only: RFC 9110's list and whatever `Connection` names. `te: trailers` stays, gRPC needs it.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most requests carry none of these, and a look-up costs less than a removal.
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        headers.remove(header::CONNECTION);
        for name in named {
            headers.remove(name);
        }
    }
    for name in [
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    if headers.get(header::TE).is_some_and(|te| te != "trailers") {
        headers.remove(header::TE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_comes_before_addition() {
        let x = HeaderName::from_static("x");
        let mut headers = HeaderMap::from_iter([(x.clone(), HeaderValue::from_static("old"))]);
        let ops = |add: Vec<(&'static str, Existing)>, remove: Vec<HeaderName>| HeaderOps {
            remove,
            add: add.into_iter().map(|(value, how)| (x.clone(), HeaderValue::from_static(value), how)).collect(),
        };
        ops(vec![("new", Existing::Append)], vec![x.clone()]).apply(&mut headers);
        assert_eq!(headers.get_all(&x).iter().collect::<Vec<_>>(), ["new"]);
        ops(vec![("kept", Existing::Keep), ("more", Existing::Append)], vec![]).apply(&mut headers);
        assert_eq!(headers.get_all(&x).iter().collect::<Vec<_>>(), ["new", "more"]);
        ops(vec![("one", Existing::OverwriteOnly)], vec![]).apply(&mut headers);
        assert_eq!(headers.get_all(&x).iter().collect::<Vec<_>>(), ["one"]);
        ops(vec![("none", Existing::OverwriteOnly)], vec![x.clone()]).apply(&mut headers);
        assert!(headers.is_empty());
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
