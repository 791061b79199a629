//! HTTP to Marathon: bounded in time and size, and never led astray by a redirect.

use super::hints;
use bytes::Bytes;
use http::header::{ACCEPT, LOCATION};
use http::uri::{Authority, Uri};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
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
    #[error("{0:?} is not a URL of the form http://HOST:PORT")]
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
    /// Not the JSON that Marathon documents.
    #[error("{}: {source}", place(uri))]
    Json { uri: Uri, source: serde_json::Error },
    /// The event stream ended.
    #[error("{0}")]
    Stream(&'static str),
}

/// A client of one Marathon, which may have several URLs.
pub(crate) struct Client {
    http: legacy::Client<HttpConnector, Empty<Bytes>>,
    urls: Vec<Uri>,
    /// Index of the URL in use, and who Marathon says is its leader.
    current: Mutex<(usize, Option<Authority>)>,
}

impl Client {
    pub(crate) fn new(urls: &[String]) -> Result<Self, Error> {
        let parse = |url: &String| match url.trim_end_matches('/').parse::<Uri>() {
            Ok(uri) if uri.scheme_str() == Some("http") && uri.authority().is_some() => Ok(uri),
            _ => Err(Error::Url(url.clone())),
        };
        let urls = urls.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() {
            return Err(Error::Url(String::new()));
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(Duration::from_secs(10)));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, urls, current: Mutex::new((0, None)) })
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
        let head = tokio::time::timeout(CONNECT_TIMEOUT, self.follow_redirects(uri.clone(), "text/event-stream")).await;
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

    async fn follow_redirects(&self, mut uri: Uri, accept: &str) -> Result<Response<Incoming>, Error> {
        for _ in 0..=REDIRECTS_MAX {
            let request = Request::get(uri.clone()).header(ACCEPT, accept).body(Empty::new());
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

    /// A standby sends event streams to the leader. Whoever answers must not be able to send us anywhere else.
    fn redirect(&self, from: &Uri, location: &str) -> Result<Uri, Error> {
        let astray = || Error::Astray { from: from.clone(), to: location.to_owned() };
        let to: Uri = location.parse().map_err(|_invalid: http::uri::InvalidUri| astray())?;
        let Some(authority) = to.authority() else {
            let path = to.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            let base = from.authority().map_or("", Authority::as_str);
            return format!("http://{base}{path}").parse().map_err(|_invalid: http::uri::InvalidUri| astray());
        };
        let configured = self.urls.iter().any(|url| url.authority() == Some(authority));
        let leader = self.current.lock().1.as_ref() == Some(authority);
        if to.scheme_str() == Some("http") && (configured || leader) { Ok(to) } else { Err(astray()) }
    }
}

/// A URL without its query, which is long for events and says nothing.
fn place(uri: &Uri) -> String {
    format!("http://{}{}", uri.authority().map_or("", Authority::as_str), uri.path())
}

/// hyper's own text is "client error (Connect)"; the reason is one or two levels below.
fn with_cause(error: &legacy::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.into()
}
