//! The cookie that keeps a client at its host: read from the request, generated where it is missing.

use super::{Asker, xxhash};
use http::{HeaderMap, header};
use std::time::Duration;

/// A cookie to hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Generated where it is missing, if set; zero: until the client's session ends.
    pub ttl: Option<Duration>,
    /// Of the generated one; may be empty.
    pub path: String,
    /// Of the generated one: name and value, which may be empty.
    pub attributes: Vec<(String, String)>,
}

impl Cookie {
    /// The value that the client sent, without quotes; an empty one counts as missing.
    pub(super) fn value<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let cookies = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        let pairs = cookies.filter_map(|cookie| {
            let equals = cookie.iter().position(|byte| *byte == b'=')?;
            Some((cookie[..equals].trim_ascii(), cookie[equals + 1..].trim_ascii_end()))
        });
        let (_, value) = pairs.into_iter().find(|(name, _)| *name == self.name.as_bytes())?;
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some(bare.unwrap_or(value)).filter(|value| !value.is_empty())
    }

    /// A value for this connection, and the text of its `set-cookie`. All requests of a connection get the same one, so that those that
    /// are sent at once do not end on different hosts.
    pub(super) fn generate(&self, asker: &Asker<'_>) -> Option<(String, String)> {
        let ttl = self.ttl?;
        let value = format!("{:016x}", xxhash(format!("{}{}", asker.client, asker.destination).as_bytes(), 0));
        let mut text = format!("{}=\"{value}\"", self.name);
        let mut add = |attribute: &str, of: &str| {
            text.push_str("; ");
            text.push_str(attribute);
            if !of.is_empty() {
                text.push('=');
                text.push_str(of);
            }
        };
        if ttl.as_secs() > 0 {
            add("Max-Age", &ttl.as_secs().to_string());
        }
        if !self.path.is_empty() {
            add("Path", &self.path);
        }
        for (name, value) in &self.attributes {
            add(name, value);
        }
        add("HttpOnly", "");
        Some((value, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::matching::RequestView;
    use http::HeaderValue;

    fn cookie(ttl: Option<u64>) -> Cookie {
        Cookie {
            name: "session-cookie".to_owned(),
            ttl: ttl.map(Duration::from_secs),
            path: String::new(),
            attributes: Vec::new(),
        }
    }

    #[test]
    fn the_clients_value_is_found_and_unquoted() {
        for (sent, expected) in [
            ("session-cookie=abc", Some("abc")),
            ("a=b; session-cookie=abc; c=d", Some("abc")),
            ("a=b;session-cookie=\"abc\"", Some("abc")),
            ("session-cookie=a=b", Some("a=b")),
            ("session-cookie=", None),
            ("session-cookie", None),
            ("xsession-cookie=abc", None),
        ] {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static(sent))]);
            assert_eq!(cookie(None).value(&headers), expected.map(str::as_bytes), "{sent}");
        }
    }

    #[test]
    fn a_cookie_is_generated_only_if_it_has_a_time_to_live() {
        let headers = HeaderMap::new();
        let (client, destination) = ("9.0.1.4:5000".parse().expect("address"), "11.0.0.1:80".parse().expect("address"));
        let request = RequestView { method: "GET", authority: "a", scheme: "http", path: "/", query: None, headers: &headers };
        let asker = Asker { request: &request, client, destination };
        assert_eq!(cookie(None).generate(&asker), None);
        let value = format!("{:016x}", xxhash(b"9.0.1.4:500011.0.0.1:80", 0));
        let text = |cookie: Cookie| cookie.generate(&asker).expect("generated").1;
        assert_eq!(text(cookie(Some(3600))), format!("session-cookie=\"{value}\"; Max-Age=3600; HttpOnly"));
        assert_eq!(text(cookie(Some(0))), format!("session-cookie=\"{value}\"; HttpOnly"));
        let attributes = vec![("SameSite".to_owned(), "Strict".to_owned()), ("Secure".to_owned(), String::new())];
        let full = Cookie { path: "/p".to_owned(), attributes, ..cookie(Some(1)) };
        assert_eq!(text(full), format!("session-cookie=\"{value}\"; Max-Age=1; Path=/p; SameSite=Strict; Secure; HttpOnly"));
    }
}
