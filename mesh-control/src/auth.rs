//! Who is asking: bearer tokens from a static token file, in kube-apiserver's format (`token,user,uid,"group1,group2"`).
//!
//! Read once at the start; a token is never logged, and only its SHA-256 is kept.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// May do everything with the API.
pub(crate) const ADMINS: &str = "system:masters";
/// May subscribe to xDS, and nothing else.
pub(crate) const NODES: &str = "mesh:nodes";

/// Somebody with a token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    /// Whether the user is in the group.
    pub(crate) fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Why the token file cannot be used. Never quotes the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokensError {
    #[error("cannot read the token file {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {why}", path = path.display())]
    Line { path: PathBuf, line: usize, why: &'static str },
    #[error("{path} has no token", path = .0.display())]
    Empty(PathBuf),
}

/// All tokens. Looked up by digest, so the time of a look-up says nothing about a token.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens(HashMap<[u8; 32], User>);

impl Tokens {
    /// Reads the file.
    pub(crate) fn load(path: &Path) -> Result<Self, TokensError> {
        let text = std::fs::read_to_string(path).map_err(|source| TokensError::Read { path: path.to_owned(), source })?;
        let tokens = Self::parse(&text).map_err(|(line, why)| TokensError::Line { path: path.to_owned(), line, why })?;
        if tokens.0.is_empty() { Err(TokensError::Empty(path.to_owned())) } else { Ok(tokens) }
    }

    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut tokens = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = fields(line).ok_or((index + 1, "a quote is not closed"))?;
            let [token, name, _uid, rest @ ..] = fields.as_slice() else {
                return Err((index + 1, "a line is `token,user,uid,\"group1,group2\"`, the groups being optional"));
            };
            if token.is_empty() || name.is_empty() {
                return Err((index + 1, "token and user must not be empty"));
            }
            let groups = rest.first().map_or("", String::as_str).split(',').map(str::trim);
            let groups = groups.filter(|g| !g.is_empty()).map(str::to_owned).collect();
            if tokens.insert(digest(token), User { name: name.clone(), groups }).is_some() {
                return Err((index + 1, "the token is already that of an earlier line"));
            }
        }
        Ok(Self(tokens))
    }

    /// Whose token it is.
    pub(crate) fn user(&self, bearer: &str) -> Option<&User> {
        self.0.get(&digest(bearer))
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// One CSV line; `None` if a quote is not closed.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = vec![];
    let mut rest = line;
    loop {
        let (field, after) = match rest.trim_start().strip_prefix('"') {
            Some(quoted) => {
                let end = quoted.find('"')?;
                let after = quoted[end + 1..].trim_start();
                (quoted[..end].to_owned(), after.strip_prefix(','))
            }
            None => match rest.split_once(',') {
                Some((field, after)) => (field.trim().to_owned(), Some(after)),
                None => (rest.trim().to_owned(), None),
            },
        };
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Some(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_file_of_kube_apiserver() {
        let tokens = Tokens::parse("# who\nabc,admin,1,\"system:masters, ops\"\n\ndef,node,2,mesh:nodes\nghi,plain,3\n").unwrap();
        assert_eq!(tokens.user("abc").unwrap().groups, ["system:masters", "ops"]);
        assert!(tokens.user("def").unwrap().is_in(NODES));
        assert!(tokens.user("ghi").unwrap().groups.is_empty());
        assert!(tokens.user("ab").is_none() && tokens.user("").is_none());
    }

    #[test]
    fn refuses_lines_that_would_let_the_wrong_one_in() {
        for (text, line) in [("abc,admin", 1), (",admin,1", 1), ("a,b,1\na,c,2", 2), ("a,b,1,\"x", 1)] {
            assert_eq!(Tokens::parse(text).unwrap_err().0, line, "{text}");
        }
    }
}
