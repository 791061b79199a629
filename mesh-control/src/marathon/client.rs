//! HTTP to Marathon: bounded in time and size, and never led astray by a redirect. Credentials go to configured hosts only.

use super::auth::Auth;
use super::hints;
use super::types::Info;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, LOCATION};
use http::uri::{Authority, Uri};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// Largest answer that is read; ten thousand apps with fifty thousand tasks are about a hundred megabytes.
const BODY_LIMIT: usize = 256 * 1024 * 1024;
/// Connecting, and the answer's head of an event stream.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole answer. Marathon's own proxy to its leader gives up after 10 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 3;

/// Why Marathon gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A configured URL is none.
    #[error("{0:?} is not a URL of the form http://HOST:PORT or https://HOST:PORT/PATH")]
    Url(String),
    /// No connection, or it broke.
    #[error("{}: {source}", place(uri))]
    Http { uri: Uri, source: Box<dyn std::error::Error + Send + Sync> },
    /// Too slow.
    #[error("{}: no answer in time", place(.0))]
    Timeout(Uri),
    /// An answer that is none.
    #[error("{} answers {status}", place(uri))]
    Status { uri: Uri, status: StatusCode },
    /// A redirect to a host that nobody configured.
    #[error("{} redirects to {to}, which is neither a configured Marathon nor its leader", place(from))]
    Astray { from: Uri, to: String },
    /// No token from DC/OS, or none that can be asked for.
    #[error("logging in: {0}")]
    Login(String),
    /// An answer about another thing than was asked for.
    #[error("{} answers with {found:?}", place(uri))]
    Other { uri: Uri, found: String },
    /// Not the JSON that Marathon documents.
    #[error("{}: {source}", place(uri))]
    Json { uri: Uri, source: serde_json::Error },
    /// The event stream ended.
    #[error("{0}")]
    Stream(&'static str),
}

/// What requests are sent with.
pub(super) type Http = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client of one Marathon, which may have several URLs.
pub(crate) struct Client {
    http: Http,
    auth: Auth,
    urls: Vec<Uri>,
    /// Index of the URL in use, and who Marathon says is its leader.
    current: Mutex<(usize, Option<Authority>)>,
}

impl Client {
    /// `tls` is for URLs with `https`.
    pub(crate) fn new(urls: &[String], tls: rustls::ClientConfig, auth: Auth) -> Result<Self, Error> {
        let parse = |url: &String| match url.trim_end_matches('/').parse::<Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some() => Ok(uri),
            _ => Err(Error::Url(url.clone())),
        };
        let urls = urls.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() {
            return Err(Error::Url(String::new()));
        }
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(Duration::from_secs(10)));
        connector.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(connector);
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, auth, urls, current: Mutex::new((0, None)) })
    }

    /// Takes the next of the configured URLs from now on.
    pub(crate) fn rotate(&self) {
        let mut current = self.current.lock();
        current.0 = (current.0 + 1) % self.urls.len();
    }

    /// Whom redirects may lead to besides the configured hosts.
    pub(crate) fn set_leader(&self, leader: &str) {
        self.current.lock().1 = leader.parse().ok();
    }

    /// The URL in use, for people.
    pub(crate) fn url(&self) -> String {
        self.urls[self.current.lock().0].to_string()
    }

    /// GET of a JSON document that every Marathon has.
    pub(crate) async fn must_get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let missing = || Error::Status { uri: self.uri(path).unwrap_or_default(), status: StatusCode::NOT_FOUND };
        self.get(path).await?.ok_or_else(missing)
    }

    /// The error for an answer about something else.
    pub(crate) fn other(&self, path: &str, found: &str) -> Error {
        Error::Other { uri: self.uri(path).unwrap_or_default(), found: found.to_owned() }
    }

    /// GET of a JSON document; `None` if there is no such thing.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        let uri = self.uri(path)?;
        let answer = async {
            let response = self.follow_redirects(uri.clone(), "application/json").await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                status => return Err(Error::Status { uri: uri.clone(), status }),
            }
            let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
            let body = body.map_err(|source| Error::Http { uri: uri.clone(), source })?.to_bytes();
            serde_json::from_slice(&body).map(Some).map_err(|source| Error::Json { uri: uri.clone(), source })
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(Error::Timeout(uri.clone())))
    }

    /// Attaches to the event stream.
    pub(crate) async fn events(&self) -> Result<Incoming, Error> {
        let kinds: String = hints::KINDS.iter().map(|kind| format!("event_type={kind}&")).collect();
        let uri = self.uri(&format!("/v2/events?{kinds}plan-format=light"))?;
        // Exactly this value, or Marathon answers 405.
        let attach = || tokio::time::timeout(CONNECT_TIMEOUT, self.follow_redirects(uri.clone(), "text/event-stream"));
        let mut head = attach().await;
        if let Ok(Err(Error::Astray { .. })) = head {
            // It may be the leader's address, which those know whom we are configured to ask.
            let info: Info = self.must_get("/v2/info").await?;
            self.set_leader(info.leader_authority());
            head = attach().await;
        }
        let response = head.unwrap_or_else(|_| Err(Error::Timeout(uri.clone())))?;
        match response.status() {
            StatusCode::OK => Ok(response.into_body()),
            status => Err(Error::Status { uri, status }),
        }
    }

    fn uri(&self, path: &str) -> Result<Uri, Error> {
        let url = format!("{}{path}", self.url().trim_end_matches('/'));
        url.parse().map_err(|_invalid: http::uri::InvalidUri| Error::Url(url))
    }

    /// Asks again once if the credentials were refused: a token may have been revoked, or the clocks may differ.
    async fn follow_redirects(&self, uri: Uri, accept: &str) -> Result<Response<Incoming>, Error> {
        let response = self.ask(uri.clone(), accept).await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.auth.renew().await {
            return self.ask(uri, accept).await;
        }
        Ok(response)
    }

    async fn ask(&self, mut uri: Uri, accept: &str) -> Result<Response<Incoming>, Error> {
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::get(uri.clone()).header(ACCEPT, accept);
            if self.is_configured(&uri)
                && let Some(value) = self.auth.header(&self.http).await?
            {
                request = request.header(AUTHORIZATION, value);
            }
            let request = request.body(Full::default());
            let request = request.map_err(|source| Error::Http { uri: uri.clone(), source: source.into() })?;
            let response = self.http.request(request).await;
            let response = response.map_err(|source| Error::Http { uri: uri.clone(), source: with_cause(&source) })?;
            if !matches!(response.status(), StatusCode::FOUND | StatusCode::TEMPORARY_REDIRECT) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            uri = self.redirect(&uri, location)?;
        }
        Err(Error::Astray { to: "itself, again and again".to_owned(), from: uri })
    }

    /// May it be told our credentials? Not over plain HTTP if it was configured with TLS.
    fn is_configured(&self, uri: &Uri) -> bool {
        self.urls.iter().any(|url| url.scheme() == uri.scheme() && url.authority() == uri.authority())
    }

    /// A standby sends event streams to the leader. Whoever answers must not be able to send us anywhere else.
    fn redirect(&self, from: &Uri, location: &str) -> Result<Uri, Error> {
        let astray = || Error::Astray { from: from.clone(), to: location.to_owned() };
        let to: Uri = location.parse().map_err(|_invalid: http::uri::InvalidUri| astray())?;
        let Some(authority) = to.authority() else {
            let path = to.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            let (scheme, base) = (from.scheme_str().unwrap_or("http"), from.authority().map_or("", Authority::as_str));
            return format!("{scheme}://{base}{path}").parse().map_err(|_invalid: http::uri::InvalidUri| astray());
        };
        let leader = self.current.lock().1.as_ref() == Some(authority) && to.scheme() == from.scheme();
        if leader || self.is_configured(&to) { Ok(to) } else { Err(astray()) }
    }
}

/// For `https` URLs: the authorities of this PEM file, and no others.
pub(crate) fn tls(authorities: &std::path::Path) -> anyhow::Result<rustls::ClientConfig> {
    use anyhow::Context;
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    let shown = || format!("cannot read the authorities in {}", authorities.display());
    for certificate in CertificateDer::pem_file_iter(authorities).with_context(shown)? {
        // Bundles of systems hold certificates that rustls does not take; the others are as good as before.
        let _ = roots.add(certificate.with_context(shown)?);
    }
    anyhow::ensure!(!roots.is_empty(), "{} holds no certificate of an authority", authorities.display());
    Ok(with_roots(roots))
}

/// Without any authority, for clients of plain HTTP.
pub(crate) fn no_tls() -> rustls::ClientConfig {
    with_roots(rustls::RootCertStore::empty())
}

fn with_roots(roots: rustls::RootCertStore) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // Its default versions are those that the provider has ciphers for.
    builder.expect("ring serves TLS 1.2 and 1.3").with_root_certificates(roots).with_no_client_auth()
}

/// A URL without its query, which is long for events and says nothing.
fn place(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or("http");
    format!("{scheme}://{}{}", uri.authority().map_or("", Authority::as_str), uri.path())
}

/// hyper's own text is "client error (Connect)"; the reason is one or two levels below.
pub(super) fn with_cause(error: &legacy::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.into()
}
