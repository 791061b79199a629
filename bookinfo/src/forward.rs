//! Which request headers travel on to the next service, so that traces connect and rules on `end-user` match behind the first hop.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Exact names besides those that begin with `x-b3-`.
const FORWARDED: [&str; 6] = ["x-request-id", "b3", "traceparent", "tracestate", "x-ot-span-context", "end-user"];

pub(crate) static END_USER: HeaderName = HeaderName::from_static("end-user");

/// The part of `incoming` that goes on, every value of a repeated header in its order.
pub(crate) fn forwarded(incoming: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in incoming {
        if FORWARDED.contains(&name.as_str()) || name.as_str().starts_with("x-b3-") {
            out.append(name, value.clone());
        }
    }
    out
}

/// The same for the page: who is logged in is `end-user`, whatever the browser sent under that name.
pub(crate) fn forwarded_as(incoming: &HeaderMap, user: Option<&str>) -> HeaderMap {
    let mut out = forwarded(incoming);
    if let Some(value) = user.and_then(|user| HeaderValue::from_bytes(user.as_bytes()).ok()) {
        out.insert(&END_USER, value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn tracing_headers_and_end_user_go_on_and_nothing_else() {
        let traced = [
            ("x-request-id", "1"),
            ("x-b3-traceid", "2"),
            ("x-b3-spanid", "3"),
            ("x-b3-parentspanid", "4"),
            ("x-b3-sampled", "5"),
            ("x-b3-flags", "6"),
            ("b3", "7"),
            ("traceparent", "8"),
            ("tracestate", "9"),
            ("x-ot-span-context", "10"),
            ("end-user", "jason"),
        ];
        let mut incoming = headers(&traced);
        incoming.extend(headers(&[("cookie", "session=jason"), ("authorization", "x"), ("host", "h"), ("connection", "close")]));
        assert_eq!(forwarded(&incoming), headers(&traced));
    }

    #[test]
    fn repeated_headers_keep_every_value_in_order() {
        let incoming = headers(&[("tracestate", "a=1"), ("tracestate", "b=2")]);
        assert_eq!(forwarded(&incoming).get_all("tracestate").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    }

    #[test]
    fn the_session_overrides_what_the_browser_claims() {
        let incoming = headers(&[("end-user", "mallory")]);
        assert_eq!(forwarded_as(&incoming, Some("jason")).get("end-user").unwrap(), "jason");
        assert_eq!(forwarded_as(&incoming, Some("jason")).get_all("end-user").iter().count(), 1);
    }

    #[test]
    fn a_name_that_is_no_header_value_is_not_sent() {
        assert!(forwarded_as(&HeaderMap::new(), Some("a\r\nx: y")).is_empty());
    }
}
