//! Who is logged in: one cookie that holds the name. Any password does, as in Istio's sample, so there is nothing to protect
//! by a signature; what is kept safe is the page (escaped on output) and the header (only printable names are accepted).

use http::{HeaderMap, header};

const COOKIE: &str = "session=";
const MAX_NAME: usize = 64;

/// The name in the request's session cookie.
pub(crate) fn user(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|pair| accept(&decode(pair.trim().strip_prefix(COOKIE)?)))
}

/// The name in a posted login form (`username=…&passwd=…`).
pub(crate) fn user_of_form(body: &[u8]) -> Option<String> {
    let body = std::str::from_utf8(body).ok()?;
    body.split('&').find_map(|field| accept(&decode(field.strip_prefix("username=")?)))
}

/// `Set-Cookie` for a login, or for a logout with `None`.
pub(crate) fn set_cookie(user: Option<&str>) -> String {
    match user {
        Some(user) => format!("{COOKIE}{}; Path=/; HttpOnly; SameSite=Lax", encode(user)),
        None => format!("{COOKIE}; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"),
    }
}

fn accept(name: &str) -> Option<String> {
    let name = name.trim();
    let fits = !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned())
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Form and percent decoding; a broken escape stays as it is.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], escape) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(line: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, line.parse().unwrap())])
    }

    #[test]
    fn a_login_comes_back_as_the_same_name() {
        for name in ["jason", "Jason & Söhne", "<b>", "a+b%20"] {
            let set = set_cookie(Some(name));
            let line = format!("theme=dark; {}", set.split(';').next().unwrap());
            assert_eq!(user(&cookie(&line)).as_deref(), Some(name));
        }
    }

    #[test]
    fn nobody_is_logged_in_without_a_name() {
        assert_eq!(user(&HeaderMap::new()), None);
        assert_eq!(user(&cookie("session=")), None);
        assert_eq!(user(&cookie("other=jason")), None);
        assert_eq!(user_of_form(b"username=&passwd=x"), None);
    }

    #[test]
    fn forms_are_decoded_and_line_breaks_refused() {
        assert_eq!(user_of_form(b"passwd=x&username=jason+b").as_deref(), Some("jason b"));
        assert_eq!(user_of_form(b"username=a%0d%0ax:%20y"), None);
        assert_eq!(user_of_form(&[b'a'; 9]), None);
        assert_eq!(user_of_form(format!("username={}", "a".repeat(65)).as_bytes()), None);
    }

    #[test]
    fn broken_escapes_do_not_panic() {
        for text in ["%", "%4", "%zz", "é%é", "%é"] {
            decode(text);
        }
    }
}
