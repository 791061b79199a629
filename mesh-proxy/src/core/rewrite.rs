//! What the upstream sees instead of the request's path and host, and where a redirect points.

use super::matching::RequestView;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use regex::Regex;

/// A change of the path. The query is kept.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The matched prefix (or the whole path, if it was matched exactly) becomes this.
    Prefix(String),
    /// Every match of the regex becomes the substitution (`$1` syntax of the crate `regex`).
    Regex(Regex, String),
    /// The whole path becomes this.
    Full(String),
}

impl PathRewrite {
    /// The new path; `matched` is the length of what the route matched.
    #[must_use]
    pub fn apply(&self, path: &str, matched: usize) -> String {
        match self {
            // As Envoy, letter by letter: `/prw/x` with `/` is `//x`, and who wants `/x` matches `/prw/`.
            Self::Prefix(new) => format!("{new}{}", path.get(matched..).unwrap_or_default()),
            Self::Regex(regex, substitution) => regex.replace_all(path, substitution).into_owned(),
            Self::Full(new) => new.clone(),
        }
    }
}

/// Another host for the upstream.
#[derive(Clone, Debug)]
pub enum HostRewrite {
    /// This.
    Literal(HeaderValue),
    /// The value of this header, unless it is empty or missing.
    Header(HeaderName),
    /// What the regex makes of the path.
    Path(Regex, String),
}

impl HostRewrite {
    /// The new host; `None`: the old one.
    #[must_use]
    pub fn apply(&self, headers: &HeaderMap, path: &str) -> Option<HeaderValue> {
        match self {
            Self::Literal(host) => Some(host.clone()),
            Self::Header(name) => headers.get(name).filter(|host| !host.is_empty()).cloned(),
            Self::Path(regex, substitution) => HeaderValue::try_from(&*regex.replace_all(path, substitution)).ok(),
        }
    }
}

/// RE2's `\1` in a substitution as the crate `regex` wants it: `${1}`; `$` is literal in RE2.
#[must_use]
pub fn substitution(re2: &str) -> String {
    let mut out = String::with_capacity(re2.len());
    let mut chars = re2.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(digit @ '0'..='9') => out.push_str(&format!("${{{digit}}}")),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            c => out.push(c),
        }
    }
    out
}

/// An answer that points elsewhere.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// Another scheme.
    pub scheme: Option<String>,
    /// Another host.
    pub host: Option<String>,
    /// Another port.
    pub port: Option<u16>,
    /// Another path.
    pub path: Option<PathRewrite>,
    /// The query is dropped.
    pub strip_query: bool,
}

impl Redirect {
    /// The value of `location`.
    #[must_use]
    pub fn location(&self, request: &RequestView<'_>, matched: usize) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let host = self.host.as_deref().unwrap_or_else(|| match split_port(request.authority) {
            (host, Some(_)) if self.port.is_some() => host,
            // The default port of the scheme that is left behind.
            (host, Some(port))
                if scheme != request.scheme && matches!((request.scheme, port), ("http", "80") | ("https", "443")) =>
            {
                host
            }
            _ => request.authority,
        });
        let path = self.path.as_ref().map(|rewrite| rewrite.apply(request.path, matched));
        let path = path.as_deref().unwrap_or(request.path);
        let mut location = format!("{scheme}://{host}");
        if let Some(port) = self.port {
            location.push(':');
            location.push_str(&port.to_string());
        }
        if !path.starts_with('/') {
            location.push('/');
        }
        location.push_str(path);
        // A query that the new path brings stays, and the request's does not come after it.
        if let (Some(query), false, false) = (request.query, self.strip_query, path.contains('?')) {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

/// Splits `host:port`, `[v6]:port`; a bare host has no port.
#[must_use]
pub fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port))
            if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            (host, Some(port))
        }
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_rewritten_as_measured_on_envoy() {
        let to_root = PathRewrite::Prefix("/".to_owned());
        for (path, expected) in [("/prw/x", "//x"), ("/prw", "/"), ("/prwx", "/x")] {
            assert_eq!(to_root.apply(path, 4), expected, "{path}");
        }
        let regex = PathRewrite::Regex(Regex::new("^/v([0-9]+)/(.*)$").expect("valid"), substitution(r"/\2/$v\1"));
        assert_eq!(regex.apply("/v2/x", 0), "/x/$v2");
    }

    #[test]
    fn locations() {
        let headers = HeaderMap::new();
        let request = RequestView {
            method: "GET",
            authority: "a:8080",
            scheme: "http",
            path: "/redir",
            query: Some("a=b"),
            headers: &headers,
        };
        let plain = Redirect { status: StatusCode::FOUND, scheme: None, host: None, port: None, path: None, strip_query: false };
        let new = Redirect { path: Some(PathRewrite::Full("/new".to_owned())), ..plain.clone() };
        assert_eq!(new.location(&request, 6), "http://a:8080/new?a=b");
        let host = Redirect { host: Some("b".to_owned()), strip_query: true, ..plain.clone() };
        assert_eq!(host.location(&request, 6), "http://b/redir");
        let https = Redirect { scheme: Some("https".to_owned()), ..plain.clone() };
        let at = |authority| RequestView { authority, ..request };
        assert_eq!(https.location(&request, 6), "https://a:8080/redir?a=b");
        assert_eq!(https.location(&at("a:80"), 6), "https://a/redir?a=b");
        assert_eq!(plain.location(&at("a:80"), 6), "http://a:80/redir?a=b", "the scheme stays, and so does what was asked");
        let port = Redirect { port: Some(443), ..https };
        assert_eq!(port.location(&request, 6), "https://a:443/redir?a=b");
        let query = Redirect { path: Some(PathRewrite::Full("new?x=y".to_owned())), strip_query: true, ..plain.clone() };
        assert_eq!(query.location(&request, 6), "http://a:8080/new?x=y");
        let regex = PathRewrite::Regex(Regex::new("r(.)dir").expect("valid"), substitution(r"\1"));
        let regex = Redirect { path: Some(regex), ..plain };
        assert_eq!(regex.location(&request, 6), "http://a:8080/e?a=b");
        assert_eq!(split_port("[::1]"), ("[::1]", None));
        assert_eq!(split_port("[::1]:80"), ("[::1]", Some("80")));
    }
}
