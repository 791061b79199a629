//! One HTTP/1 connection to a proxy, made again when it ends.

use super::generate::Ask;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::time::Duration;

/// Nothing that is asked takes a second; who has not answered by then never will.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
pub struct Client {
    port: u16,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 0: the connection ended.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Client {
    pub fn new(port: u16) -> Self {
        Self { port, sender: None }
    }

    /// Asks; `id` is what the backends file it under.
    pub async fn send(&mut self, ask: &Ask, id: &str) -> Answer {
        // Once more on a new connection if an answer before this one ended it.
        for _ in 0..2 {
            match tokio::time::timeout(PATIENCE, self.once(ask, id)).await {
                Ok(Some(answer)) => return answer,
                Ok(None) => {}
                Err(_late) => {
                    self.sender = None;
                    return Answer { body: format!("no answer in {PATIENCE:?}"), ..Answer::default() };
                }
            }
            self.sender = None;
        }
        Answer::default()
    }

    async fn once(&mut self, ask: &Ask, id: &str) -> Option<Answer> {
        if self.sender.is_none() {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut()?;
        sender.ready().await.ok()?;
        let mut request = Request::builder().method(ask.method).uri(&ask.target).header("host", &ask.host);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let request = request.header("x-case", id).header("x-script", &ask.script);
        let request = request.body(Full::from(ask.body)).expect("a valid request");
        let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Some(Answer { status: parts.status.as_u16(), headers, body: String::from_utf8_lossy(&body).into_owned() })
    }
}
