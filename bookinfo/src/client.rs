//! Asking another service: an ordinary pooled HTTP/1.1 client over getaddrinfo, a deadline, and how long it took.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

/// Long enough that an injected delay of 7 s is seen as a delay, not as an error.
const DEADLINE: Duration = Duration::from_secs(10);
const MAX_ANSWER: usize = 1 << 20;

/// What a service answered, and after how long.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) json: Value,
    pub(crate) millis: u64,
}

/// Why there is no answer; `reason` is written for the person who reads the page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) status: Option<u16>,
    pub(crate) reason: String,
    pub(crate) millis: u64,
}

/// Where the other services are. The variables are those of Istio's sample.
pub(crate) struct Backends {
    client: Client<HttpConnector, Empty<Bytes>>,
    details: String,
    ratings: String,
    reviews: String,
}

impl Backends {
    pub(crate) fn from_env(env: impl Fn(&str) -> Option<String>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(10))
            .pool_timer(TokioTimer::new())
            .build(connector);
        let authority = |service| authority(service, &env);
        Self { client, details: authority("details"), ratings: authority("ratings"), reviews: authority("reviews") }
    }

    pub(crate) async fn details(&self, id: u64, headers: HeaderMap) -> Result<Answer, Failure> {
        self.get("details", format!("http://{}/details/{id}", self.details), headers).await
    }

    pub(crate) async fn ratings(&self, id: u64, headers: HeaderMap) -> Result<Answer, Failure> {
        self.get("ratings", format!("http://{}/ratings/{id}", self.ratings), headers).await
    }

    pub(crate) async fn reviews(&self, id: u64, headers: HeaderMap) -> Result<Answer, Failure> {
        self.get("reviews", format!("http://{}/reviews/{id}", self.reviews), headers).await
    }

    async fn get(&self, service: &str, url: String, headers: HeaderMap) -> Result<Answer, Failure> {
        let start = Instant::now();
        let outcome = tokio::time::timeout(DEADLINE, self.exchange(&url, headers)).await;
        let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let failure = |status, reason: String| Failure { status, reason, millis };
        match outcome {
            Err(_) => Err(failure(None, format!("{service} did not answer within {} s", DEADLINE.as_secs()))),
            Ok(Err(error)) => Err(failure(None, format!("{service} could not be asked: {}", chain(&*error)))),
            Ok(Ok((200, body))) => match serde_json::from_slice(&body) {
                Ok(json) => Ok(Answer { status: 200, json, millis }),
                Err(error) => Err(failure(Some(200), format!("{service} answered something that is not JSON: {error}"))),
            },
            Ok(Ok((status, body))) => {
                let text = String::from_utf8_lossy(&body).trim().chars().take(200).collect::<String>();
                let because = if text.is_empty() { String::new() } else { format!(": {text}") };
                Err(failure(Some(status), format!("{service} answered {status}{because}")))
            }
        }
    }

    async fn exchange(&self, url: &str, headers: HeaderMap) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let mut request = Request::get(url.parse::<Uri>()?).body(Empty::new())?;
        *request.headers_mut() = headers;
        let response = self.client.request(request).await?;
        let status = response.status().as_u16();
        Ok((status, Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes()))
    }
}

/// `host:port` of a service: `DETAILS_HOSTNAME` and `DETAILS_SERVICE_PORT` if given, else the short name with `SERVICES_DOMAIN`.
fn authority(service: &str, env: &impl Fn(&str) -> Option<String>) -> String {
    let upper = service.to_uppercase();
    let host = env(&format!("{upper}_HOSTNAME")).unwrap_or_else(|| match env("SERVICES_DOMAIN") {
        Some(domain) => format!("{service}.{domain}"),
        None => service.to_owned(),
    });
    let port = env(&format!("{upper}_SERVICE_PORT")).unwrap_or_else(|| "9080".to_owned());
    format!("{host}:{port}")
}

/// An error with its causes, since hyper's own text is only "client error (Connect)".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_services_domain() {
        let domain = |name: &str| (name == "SERVICES_DOMAIN").then(|| "marathon.l4lb.thisdcos.directory".to_owned());
        assert_eq!(authority("reviews", &domain), "reviews.marathon.l4lb.thisdcos.directory:9080");
        assert_eq!(authority("reviews", &|_: &str| None), "reviews:9080");
    }

    #[test]
    fn a_single_service_may_be_elsewhere() {
        let env = |name: &str| match name {
            "DETAILS_HOSTNAME" => Some("127.0.0.1".to_owned()),
            "DETAILS_SERVICE_PORT" => Some("9081".to_owned()),
            _ => None,
        };
        assert_eq!(authority("details", &env), "127.0.0.1:9081");
        assert_eq!(authority("ratings", &env), "ratings:9080");
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_with_its_cause() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let env = |name: &str| match name {
            "DETAILS_HOSTNAME" => Some("127.0.0.1".to_owned()),
            "DETAILS_SERVICE_PORT" => Some(port.to_string()),
            _ => None,
        };
        let failure = Backends::from_env(env).details(0, HeaderMap::new()).await.unwrap_err();
        assert!(failure.reason.contains("refused"), "{}", failure.reason);
        assert_eq!(failure.status, None);
    }
}
