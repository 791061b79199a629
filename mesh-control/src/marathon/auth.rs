//! How mesh-control says who it is: not at all, by name and password, or as a DC/OS service account.
//!
//! A service account signs a short-lived login token with its key and gets a longer one for it, which every request carries
//! (`Authorization: token=...`, not Bearer). It is renewed when four fifths of its life are over, and at once when it is refused.
//! `client` decides to whom it is told; where to log in says whoever configured the account.

use super::client::{Error, Http, with_cause};
use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;

/// DC/OS refuses login tokens that live longer than ten minutes.
const LOGIN_LIFETIME: Duration = Duration::from_secs(300);
/// Of a token that does not say when it ends; DC/OS's live for five days.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(3600);
/// A login's whole answer.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The answer is one token of about a kilobyte.
const LOGIN_BYTES_MAX: usize = 64 * 1024;

/// Credentials, if there are any.
pub(crate) struct Auth(Kind);

enum Kind {
    None,
    Basic(HeaderValue),
    Account(Box<Account>),
}

struct Account {
    uid: String,
    key: RsaKeyPair,
    login: Uri,
    token: Mutex<Option<Token>>,
}

struct Token {
    header: HeaderValue,
    renew: SystemTime,
}

/// DC/OS's file of a service account.
#[derive(Deserialize)]
struct File {
    uid: String,
    private_key: String,
    login_endpoint: Option<String>,
}

impl Auth {
    pub(crate) const NONE: Self = Self(Kind::None);

    /// From a file with one line `NAME:PASSWORD`.
    pub(crate) fn basic(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let pair = text.trim_end_matches(['\r', '\n']);
        ensure!(pair.contains(':') && !pair.contains('\n'), "{} must hold one line NAME:PASSWORD", file.display());
        let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(pair)))?;
        value.set_sensitive(true);
        Ok(Self(Kind::Basic(value)))
    }

    /// From DC/OS's file of a service account. Without `login_endpoint` in it, `marathon` is behind the same Admin Router.
    pub(crate) fn account(file: &Path, marathon: &str) -> Result<Self> {
        let shown = file.display();
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        let file: File = serde_json::from_str(&text)
            .with_context(|| format!("{shown} is not the JSON of a service account (uid, private_key, login_endpoint)"))?;
        let of_router = || -> Result<String> {
            let uri: Uri = marathon.parse()?;
            let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { bail!("no host in {marathon:?}") };
            Ok(format!("{scheme}://{authority}/acs/api/v1/auth/login"))
        };
        let login = file.login_endpoint.map_or_else(of_router, Ok)?;
        let login = login.parse().with_context(|| format!("{shown}: login_endpoint {login:?} is not a URL"))?;
        let key = PrivateKeyDer::from_pem_slice(file.private_key.as_bytes()).with_context(|| format!("{shown}: private_key"))?;
        let key = match &key {
            PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            _ => bail!("{shown}: private_key is not an RSA key"),
        };
        let key = key.map_err(|why| anyhow::anyhow!("{shown}: private_key is not an RSA key of 2048 bits or more: {why}"))?;
        Ok(Self(Kind::Account(Box::new(Account { uid: file.uid, key, login, token: Mutex::default() }))))
    }

    /// Is there somebody else to be spoken to over TLS?
    pub(crate) fn needs_tls(&self) -> bool {
        matches!(&self.0, Kind::Account(account) if account.login.scheme_str() == Some("https"))
    }

    /// The `authorization` of the next request.
    pub(super) async fn header(&self, http: &Http) -> Result<Option<HeaderValue>, Error> {
        match &self.0 {
            Kind::None => Ok(None),
            Kind::Basic(value) => Ok(Some(value.clone())),
            Kind::Account(account) => account.header(http, SystemTime::now()).await.map(Some),
        }
    }

    /// The last one was refused. True if another may be had.
    pub(super) async fn renew(&self) -> bool {
        let Kind::Account(account) = &self.0 else { return false };
        account.token.lock().await.take().is_some()
    }
}

impl Account {
    async fn header(&self, http: &Http, now: SystemTime) -> Result<HeaderValue, Error> {
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| now < token.renew) {
            return Ok(token.header.clone());
        }
        let login = tokio::time::timeout(LOGIN_TIMEOUT, self.log_in(http, now)).await;
        let new = login.unwrap_or_else(|_| Err(Error::Timeout(self.login.clone())))?;
        let header = new.header.clone();
        *token = Some(new);
        Ok(header)
    }

    async fn log_in(&self, http: &Http, now: SystemTime) -> Result<Token, Error> {
        let body = json!({"uid": self.uid, "token": self.login_token(now).map_err(|why| Error::Login(why.to_string()))?});
        let request = Request::post(self.login.clone()).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(Bytes::from(body.to_string())));
        let failed = |source| Error::Http { uri: self.login.clone(), source };
        let response = http.request(request.map_err(|why| failed(why.into()))?).await.map_err(|why| failed(with_cause(&why)))?;
        if response.status() != StatusCode::OK {
            return Err(Error::Status { uri: self.login.clone(), status: response.status() });
        }
        let body = Limited::new(response.into_body(), LOGIN_BYTES_MAX).collect().await.map_err(failed)?.to_bytes();
        let answer: Value = serde_json::from_slice(&body).map_err(|source| Error::Json { uri: self.login.clone(), source })?;
        let token = answer["token"].as_str().ok_or_else(|| Error::Login("the answer has no token".to_owned()))?;
        let header = HeaderValue::from_str(&format!("token={token}"));
        let mut header =
            header.map_err(|_no_text| Error::Login("the token has characters that no header may have".to_owned()))?;
        header.set_sensitive(true);
        Ok(Token { header, renew: now + lifetime(token, now).mul_f64(0.8) })
    }

    /// A JWT (RS256) of the account's name and the end of its own short life.
    fn login_token(&self, now: SystemTime) -> Result<String> {
        let expires = (now + LOGIN_LIFETIME).duration_since(UNIX_EPOCH)?.as_secs();
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed =
            format!("{}.{}", part(json!({"alg": "RS256", "typ": "JWT"})), part(json!({"uid": self.uid, "exp": expires})));
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        let done = self.key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature);
        done.map_err(|_unspecified| anyhow::anyhow!("the key does not sign"))?;
        Ok(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// How long a token lives from now, by its own claim.
fn lifetime(token: &str, now: SystemTime) -> Duration {
    let claims = token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    let claims: Option<Value> = claims.and_then(|json| serde_json::from_slice(&json).ok());
    let expires =
        claims.and_then(|claims| claims["exp"].as_u64()).and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    expires.map_or(ASSUMED_LIFETIME, |end| end.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_own_claim_says_how_long_it_lives() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let token = |claims: Value| format!("x.{}.y", BASE64_URL_SAFE_NO_PAD.encode(claims.to_string()));
        assert_eq!(lifetime(&token(json!({"exp": 1300})), now), Duration::from_secs(300));
        assert_eq!(lifetime(&token(json!({"exp": 900})), now), Duration::ZERO);
        assert_eq!(lifetime(&token(json!({"uid": "x"})), now), ASSUMED_LIFETIME);
        assert_eq!(lifetime("opaque", now), ASSUMED_LIFETIME);
    }
}
