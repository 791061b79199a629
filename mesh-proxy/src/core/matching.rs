//! Does a string, a header or a query parameter match? With Envoy's semantics, down to what a missing header means.

use http::{HeaderMap, HeaderName};
use regex::Regex;
use std::borrow::Cow;

/// What routing may look at. Borrowed from the request: building it allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// `:method`.
    pub method: &'a str,
    /// `:authority`, with its port if the client sent one.
    pub authority: &'a str,
    /// `:scheme`.
    pub scheme: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    /// All but pseudo headers.
    pub headers: &'a HeaderMap,
}

/// A condition on a string.
#[derive(Clone, Debug)]
pub struct StringMatch {
    /// How.
    pub pattern: Pattern,
    /// ASCII case is ignored. Not with a regex, as in Envoy.
    pub ignore_case: bool,
}

/// How a string is compared.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Contains.
    Contains(String),
    /// All of it matches; compiled by [`full_match`].
    Regex(Regex),
}

/// Compiles a regex that must match the whole string, as RE2 full match.
///
/// # Errors
/// If it is no regex, or its program would be larger than the crate's default limit.
pub fn full_match(pattern: &str) -> Result<Regex, regex::Error> {
    // Checked alone first: `a)(b` would become valid by the parentheses.
    Regex::new(pattern)?;
    Regex::new(&format!(r"\A(?:{pattern})\z"))
}

impl StringMatch {
    /// A case-sensitive condition.
    #[must_use]
    pub fn new(pattern: Pattern) -> Self {
        Self { pattern, ignore_case: false }
    }

    /// Decides.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        let fold = self.ignore_case;
        let equal = |a: &str, b: &str| if fold { a.eq_ignore_ascii_case(b) } else { a == b };
        match &self.pattern {
            Pattern::Exact(text) => equal(value, text),
            Pattern::Prefix(text) => value.get(..text.len()).is_some_and(|head| equal(head, text)),
            Pattern::Suffix(text) => {
                value.len().checked_sub(text.len()).and_then(|at| value.get(at..)).is_some_and(|tail| equal(tail, text))
            }
            Pattern::Contains(text) if fold => value.to_ascii_lowercase().contains(&text.to_ascii_lowercase()),
            Pattern::Contains(text) => value.contains(text.as_str()),
            Pattern::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Where a header condition looks.
#[derive(Clone, Debug)]
pub enum HeaderKey {
    /// `:method`.
    Method,
    /// `:authority` or `host`.
    Authority,
    /// `:path`, with the query.
    Path,
    /// `:scheme`.
    Scheme,
    /// A plain header.
    Name(HeaderName),
}

/// What a header condition asks.
#[derive(Clone, Debug)]
pub enum HeaderTest {
    /// Whether the header is there (or not).
    Present(bool),
    /// Its value.
    Value(StringMatch),
    /// Its value is an integer from..to.
    Range(i64, i64),
}

/// A condition on a header.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Which.
    pub key: HeaderKey,
    /// What.
    pub test: HeaderTest,
    /// The opposite is asked.
    pub invert: bool,
    /// A missing header counts as an empty one. Else a condition on the value of a missing header fails, also an inverted one.
    pub missing_is_empty: bool,
}

impl HeaderMatch {
    /// Decides.
    #[must_use]
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let Some(matched) = self.key.any(request, &|value| self.test.passes(value)) else {
            // Nothing is there to be looked at, unless an empty value stands for it.
            return match self.test {
                HeaderTest::Present(wanted) => (self.missing_is_empty == wanted) != self.invert,
                HeaderTest::Value(_) | HeaderTest::Range(..) => self.missing_is_empty && self.test.passes("") != self.invert,
            };
        };
        matched != self.invert
    }
}

impl HeaderTest {
    fn passes(&self, value: &str) -> bool {
        match self {
            Self::Present(wanted) => *wanted,
            Self::Value(test) => test.matches(value),
            Self::Range(from, to) => value.parse::<i64>().is_ok_and(|n| (*from..*to).contains(&n)),
        }
    }
}

impl HeaderKey {
    /// Does any value of the header pass? Each is looked at by itself, so that nobody hides `admin` behind a second value (CVE-2026-26308); cookies,
    /// which HTTP/2 may split, are one value. `None`: there is no such header.
    fn any(&self, request: &RequestView<'_>, passes: &dyn Fn(&str) -> bool) -> Option<bool> {
        match self {
            Self::Name(name) if *name != http::header::COOKIE => {
                let mut there = None;
                for value in request.headers.get_all(name) {
                    if passes(&String::from_utf8_lossy(value.as_bytes())) {
                        return Some(true);
                    }
                    there = Some(false);
                }
                there
            }
            key => key.value(request).map(|value| passes(&value)),
        }
    }

    pub(super) fn value<'a>(&self, request: &RequestView<'a>) -> Option<Cow<'a, str>> {
        match self {
            Self::Method => Some(Cow::Borrowed(request.method)),
            Self::Authority => Some(Cow::Borrowed(request.authority)),
            Self::Scheme => Some(Cow::Borrowed(request.scheme)),
            Self::Path => Some(match request.query {
                Some(query) => Cow::Owned(format!("{}?{query}", request.path)),
                None => Cow::Borrowed(request.path),
            }),
            Self::Name(name) => {
                let mut values = request.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
                let first = values.next()?;
                // HTTP/2 splits cookies; they are one header of several values all the same.
                let by = if *name == http::header::COOKIE { "; " } else { "," };
                Some(values.fold(first, |joined, value| Cow::Owned(format!("{joined}{by}{value}"))))
            }
        }
    }
}

/// A condition on a query parameter; the first of that name counts.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// Case-sensitive.
    pub name: String,
    /// `None` asks only for presence (`false`: absence).
    pub test: Result<StringMatch, bool>,
}

impl QueryMatch {
    /// Decides. Values are compared as sent: Envoy decodes no percent signs here.
    #[must_use]
    pub fn matches(&self, query: Option<&str>) -> bool {
        let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let value = pairs.filter(|(name, _)| *name == self.name).map(|(_, value)| value).next();
        match &self.test {
            Ok(test) => value.is_some_and(|value| test.matches(value)),
            Err(present) => value.is_some() == *present,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regex_matches_all_of_the_value() {
        // The walkthrough's cookie, as measured on Envoy: a space after the semicolon does not match.
        let cookie = StringMatch::new(Pattern::Regex(full_match("^(.*?;)?(usertype=tester)(;.*)?$").expect("valid")));
        for (value, expected) in [
            ("usertype=tester", true),
            ("a=b;usertype=tester", true),
            ("usertype=tester; c=d", true),
            ("a=b; usertype=tester", false),
            ("xusertype=tester", false),
        ] {
            assert_eq!(cookie.matches(value), expected, "{value}");
        }
        let either = StringMatch::new(Pattern::Regex(full_match("a|b").expect("valid")));
        assert!(either.matches("a") && either.matches("b") && !either.matches("ab"));
        assert!(full_match("a)(b").is_err(), "the added parentheses heal nothing");
    }

    #[test]
    fn a_missing_header_fails_unless_it_counts_as_empty() {
        let headers = HeaderMap::from_iter([(http::header::COOKIE, http::HeaderValue::from_static("a=b"))]);
        let request =
            RequestView { method: "GET", authority: "h:80", scheme: "http", path: "/p", query: Some("q=1"), headers: &headers };
        let on = |key: HeaderKey, test, invert, missing_is_empty| {
            HeaderMatch { key, test, invert, missing_is_empty }.matches(&request)
        };
        let exact = |text: &str| HeaderTest::Value(StringMatch::new(Pattern::Exact(text.to_owned())));
        let missing = || HeaderKey::Name(HeaderName::from_static("end-user"));
        assert!(!on(missing(), exact("jason"), false, false));
        assert!(!on(missing(), exact("jason"), true, false), "inverted, and still missing");
        assert!(on(missing(), exact("jason"), true, true));
        assert!(on(missing(), HeaderTest::Present(true), true, false));
        assert!(on(missing(), HeaderTest::Present(false), false, false));
        assert!(on(HeaderKey::Path, exact("/p?q=1"), false, false));
        assert!(on(HeaderKey::Authority, exact("h:80"), false, false));
        assert!(on(HeaderKey::Method, exact("GET"), false, false));
        assert!(on(HeaderKey::Name(http::header::COOKIE), exact("a=b"), false, false));
        assert!(!on(HeaderKey::Method, exact("GET"), true, false) && on(HeaderKey::Scheme, exact("http"), false, false));
    }

    #[test]
    fn each_of_several_values_is_looked_at() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x", "a"), ("x", "b"), ("cookie", "c=d"), ("cookie", "e=f"), ("n", "42")] {
            headers.append(name, http::HeaderValue::from_static(value));
        }
        let request = RequestView { method: "GET", authority: "h", scheme: "http", path: "/", query: None, headers: &headers };
        let on = |name: &'static str, test| {
            let key = HeaderKey::Name(HeaderName::from_static(name));
            HeaderMatch { key, test, invert: false, missing_is_empty: false }.matches(&request)
        };
        let exact = |text: &str| HeaderTest::Value(StringMatch::new(Pattern::Exact(text.to_owned())));
        assert!(on("x", exact("a")) && on("x", exact("b")) && !on("x", exact("a,b")));
        let missing = |test, missing_is_empty| {
            let key = HeaderKey::Name(HeaderName::from_static("missing"));
            HeaderMatch { key, test, invert: false, missing_is_empty }.matches(&request)
        };
        assert!(missing(HeaderTest::Present(true), true) && !missing(HeaderTest::Present(true), false));
        assert!(on("cookie", exact("c=d; e=f")));
        assert!(on("n", HeaderTest::Range(42, 43)) && !on("n", HeaderTest::Range(41, 42)) && !on("x", HeaderTest::Range(0, 9)));
        let fold = |pattern| StringMatch { pattern, ignore_case: true };
        for pattern in [
            Pattern::Exact("A,B".into()),
            Pattern::Prefix("A".into()),
            Pattern::Suffix("B".into()),
            Pattern::Contains(",B".into()),
        ] {
            assert!(fold(pattern.clone()).matches("a,b") && !StringMatch::new(pattern).matches("a,b"));
        }
    }

    #[test]
    fn query_parameters() {
        let exact = |name: &str, text: &str| QueryMatch {
            name: name.to_owned(),
            test: Ok(StringMatch::new(Pattern::Exact(text.to_owned()))),
        };
        assert!(exact("b", "2").matches(Some("a=1&b=2&b=3")));
        assert!(!exact("b", "3").matches(Some("a=1&b=2&b=3")));
        assert!(QueryMatch { name: "a".to_owned(), test: Err(true) }.matches(Some("a")));
        assert!(!QueryMatch { name: "a".to_owned(), test: Err(true) }.matches(None));
    }
}
