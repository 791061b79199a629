//! Paths that mean the same made the same, before anything is decided by them. Envoy's `normalize_path` and its companions.

use std::fmt::Write;

/// What becomes of `%2F` and `%5C`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Escaped {
    /// They stay.
    #[default]
    Keep,
    /// The request is bad.
    Reject,
    /// The client is sent to the path without them.
    Redirect,
    /// They become slashes.
    Forward,
}

/// What is done.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Normalize {
    /// RFC 3986: dot segments, needless escapes; and backslashes become slashes.
    pub canonical: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// Escaped slashes.
    pub escaped: Escaped,
}

/// The outcome.
#[derive(Debug, Eq, PartialEq)]
pub enum Normal {
    /// Nothing to do.
    Same,
    /// The path is this.
    Path(String),
    /// 307 to this.
    Redirect(String),
    /// 400.
    Bad,
}

impl Normalize {
    /// Decides for a path without its query.
    #[must_use]
    pub fn apply(self, path: &str) -> Normal {
        let special = |path: &str| path.bytes().any(|b| matches!(b, b'%' | b'\\')) || path.contains("//") || path.contains("/.");
        if self == Self::default() || !special(path) {
            return Normal::Same;
        }
        let (mut new, mut redirect) = (path.to_owned(), false);
        if self.escaped != Escaped::Keep
            && let Some(unescaped) = unescape_slashes(&new)
        {
            match self.escaped {
                Escaped::Reject => return Normal::Bad,
                Escaped::Redirect => redirect = true,
                Escaped::Forward | Escaped::Keep => {}
            }
            new = unescaped;
        }
        if self.canonical {
            match canonical(&new) {
                Some(path) => new = path,
                None => return Normal::Bad,
            }
        }
        if self.merge_slashes {
            while new.contains("//") {
                new = new.replace("//", "/");
            }
        }
        match (redirect, new == path) {
            (true, _) => Normal::Redirect(new),
            (false, true) => Normal::Same,
            (false, false) => Normal::Path(new),
        }
    }
}

/// `None` if there is none.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut new = path.to_owned();
    for (escape, plain) in [("%2F", "/"), ("%2f", "/"), ("%5C", "\\"), ("%5c", "\\")] {
        new = new.replace(escape, plain);
    }
    (new != path).then_some(new)
}

/// `None` if it is no path.
fn canonical(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        plain.push_str(&rest[..at]);
        if rest[at..].starts_with('\\') {
            plain.push('/');
            rest = &rest[at + 1..];
            continue;
        }
        let byte = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(0) => return None,
            Some(b) if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') => plain.push(char::from(b)),
            // An escape that is needed stays as it was written; one that is none is escaped itself.
            Some(_) => plain.push_str(&rest[at..at + 3]),
            None => {
                plain.push('%');
                rest = &rest[at + 1..];
                continue;
            }
        }
        rest = &rest[at + 3..];
    }
    plain.push_str(rest);
    let body = plain.strip_prefix('/')?;
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = body.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // What the dots stood for ends in a slash.
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(plain.len());
    for segment in &kept {
        // Writing to a string does not fail.
        let _ = write!(out, "/{segment}");
    }
    Some(if out.is_empty() { "/".to_owned() } else { out })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CANONICAL: Normalize = Normalize { canonical: true, merge_slashes: false, escaped: Escaped::Keep };

    fn path(text: &str) -> Normal {
        Normal::Path(text.to_owned())
    }

    #[test]
    fn dot_segments_escapes_and_backslashes() {
        for (from, to) in [
            ("/a/../b", "/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/../../x", "/x"),
            ("/..", "/"),
            ("/%2e%2E/x", "/x"),
            ("/%7Euser/%41%2f", "/~user/A%2f"),
            ("\\a\\..\\b", "/b"),
            ("/a//../b", "/a/b"),
        ] {
            assert_eq!(CANONICAL.apply(from), path(to), "{from}");
        }
        assert_eq!(CANONICAL.apply("/a/b.c/..d"), Normal::Same);
        assert_eq!(CANONICAL.apply("/%00"), Normal::Bad);
        assert_eq!(Normalize::default().apply("/a/../b//%2e"), Normal::Same, "off");
    }

    #[test]
    fn slashes_are_merged_and_escaped_ones_treated_as_told() {
        let merge = Normalize { merge_slashes: true, ..CANONICAL };
        assert_eq!(merge.apply("//a///b"), path("/a/b"));
        for (escaped, expected) in [
            (Escaped::Keep, Normal::Same),
            (Escaped::Reject, Normal::Bad),
            (Escaped::Redirect, Normal::Redirect("/a/b".to_owned())),
            (Escaped::Forward, path("/a/b")),
        ] {
            assert_eq!(Normalize { escaped, ..CANONICAL }.apply("/a%2Fb"), expected, "{escaped:?}");
        }
        let forward = Normalize { escaped: Escaped::Forward, ..CANONICAL };
        assert_eq!(forward.apply("/public/..%2Fsecret"), path("/secret"), "dots are seen after slashes");
    }

    proptest! {
        /// Normal is normal, and has no dots left.
        #[test]
        fn once_is_enough(text in r"/[ab./\\%2eEfF]{0,20}") {
            let all = Normalize { canonical: true, merge_slashes: true, escaped: Escaped::Forward };
            if let Normal::Path(once) = all.apply(&text) {
                prop_assert!(once.starts_with('/') && !once.contains("//"), "{}", once);
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."), "{}", once);
            }
        }
    }
}
