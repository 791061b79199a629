//! Who we are to a Mesos agent: the files that Mesos and DC/OS have for it, as the header `Authorization`.

use base64::Engine;
use serde::Deserialize;

/// How an agent wants to know it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// Mesos' own authenticator: a principal and its secret.
    Basic,
    /// DC/OS: a token, which its own word says is one (not `Bearer`).
    Token,
}

/// The value of the header, from the text of a file. Errors never show the text.
///
/// # Errors
/// If the file has not what it should.
pub fn header(scheme: Scheme, text: &str) -> Result<String, String> {
    match scheme {
        Scheme::Basic => {
            let Credential { principal, secret } = credential(text)?;
            if principal.contains(':') {
                return Err("a principal with a colon cannot be sent by basic authentication".to_owned());
            }
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{principal}:{secret}"));
            Ok(format!("Basic {pair}"))
        }
        Scheme::Token => match text.trim() {
            "" => Err("it is empty".to_owned()),
            token if token.contains(char::is_whitespace) => Err("it has more than one word, which no token has".to_owned()),
            token => Ok(format!("token={token}")),
        },
    }
}

#[derive(Deserialize)]
struct Credential {
    principal: String,
    secret: String,
}

/// Mesos reads two forms: JSON, and two words.
fn credential(text: &str) -> Result<Credential, String> {
    if text.trim_start().starts_with('{') {
        // Without serde's own words, which may quote the file.
        return serde_json::from_str(text)
            .map_err(|_quotes: serde_json::Error| "it is not {\"principal\": …, \"secret\": …}".to_owned());
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        [principal, secret] => Ok(Credential { principal: (*principal).to_owned(), secret: (*secret).to_owned() }),
        _ => Err("it is neither PRINCIPAL SECRET nor {\"principal\": …, \"secret\": …}".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_mesos_and_of_dcos() {
        let basic = Ok("Basic bWVzaDpzM2NyZXQ=".to_owned());
        assert_eq!(header(Scheme::Basic, "mesh s3cret\n"), basic);
        assert_eq!(header(Scheme::Basic, r#" {"principal": "mesh", "secret": "s3cret"}"#), basic);
        assert_eq!(header(Scheme::Token, "eyJ0.eXAi.sig\n"), Ok("token=eyJ0.eXAi.sig".to_owned()));
        for (scheme, text) in [
            (Scheme::Basic, "s3cret"),
            (Scheme::Basic, "mesh s3cret more"),
            (Scheme::Basic, r#"{"principal": "mesh", "secret": 5}"#),
            (Scheme::Basic, "me:sh s3cret"),
            (Scheme::Token, " \n"),
            (Scheme::Token, "two s3cret"),
        ] {
            let error = header(scheme, text).expect_err(text);
            assert!(!error.contains("s3cret") && !error.is_empty(), "{error}");
        }
    }
}
