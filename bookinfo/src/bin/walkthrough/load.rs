//! The load client: so many connections, one request at a time on each, and at the end one line per status, as fortio prints them. Like fortio's,
//! every connection has its share of the requests: one that is refused again and again does not use up those of the others.

use super::server::line;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::LocalSet;

type Error = Box<dyn std::error::Error>;

/// What all connections share.
struct Run {
    uri: Uri,
    headers: Vec<(String, String)>,
    /// Between an answer and the next request.
    think: Duration,
    /// By status; 0: no answer.
    seen: RefCell<BTreeMap<u16, u32>>,
    /// The word whose values are counted, and the values.
    word: Option<String>,
    values: RefCell<BTreeMap<String, u32>>,
}

pub(crate) async fn run(
    url: &str,
    (connections, requests): (u32, u32),
    headers: &[String],
    think: Duration,
    word: Option<&str>,
) -> Result<(), Error> {
    let split = |header: &String| {
        let (name, value) = header.split_once(':').ok_or_else(|| format!("-H {header:?}: NAME: VALUE is wanted"))?;
        Ok::<_, Error>((name.trim().to_owned(), value.trim().to_owned()))
    };
    let headers = headers.iter().map(split).collect::<Result<_, _>>()?;
    let run = Rc::new(Run {
        uri: url.parse()?,
        headers,
        think,
        seen: RefCell::default(),
        word: word.map(|word| format!("{word}: ")),
        values: RefCell::default(),
    });
    let local = LocalSet::new();
    for nth in 0..connections {
        let run = Rc::clone(&run);
        let share = requests / connections + u32::from(nth < requests % connections);
        local.spawn_local(async move { run.connection(share).await });
    }
    local.await;
    for (status, count) in run.seen.borrow().iter() {
        let share = f64::from(*count) * 100.0 / f64::from(requests);
        line(&format!("Code {status:3} : {count} ({share:.1} %)"));
    }
    for (value, count) in run.values.borrow().iter() {
        line(&format!("{value} : {count}"));
    }
    Ok(())
}

impl Run {
    /// One connection, made again when the server closes it.
    async fn connection(&self, requests: u32) {
        let mut sender = None;
        for _ in 0..requests {
            let status = match self.one(&mut sender).await {
                Ok(status) => status,
                Err(error) => {
                    line(&error.to_string());
                    sender = None;
                    0
                }
            };
            *self.seen.borrow_mut().entry(status).or_default() += 1;
            tokio::time::sleep(self.think).await;
        }
    }

    async fn one(&self, sender: &mut Option<http1::SendRequest<Empty<Bytes>>>) -> Result<u16, Error> {
        let host = self.uri.host().ok_or("the URL names no host")?;
        let port = self.uri.port_u16().unwrap_or(80);
        if sender.as_ref().is_none_or(http1::SendRequest::is_closed) {
            let stream = TcpStream::connect((host, port)).await?;
            let (fresh, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::task::spawn_local(async move {
                // What goes wrong is seen by the request.
                let _ = connection.await;
            });
            *sender = Some(fresh);
        }
        let Some(sender) = sender else { return Err("no connection".into()) };
        sender.ready().await?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::get(path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", if port == 80 { host.to_owned() } else { format!("{host}:{port}") });
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = sender.send_request(request.body(Empty::new())?).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        if let Some(word) = &self.word {
            let body = String::from_utf8_lossy(&body);
            let value = body.split_once(word.as_str()).map(|(_, rest)| rest.split([',', '\n']).next().unwrap_or_default());
            *self.values.borrow_mut().entry(format!("{word}{}", value.unwrap_or("-"))).or_default() += 1;
        }
        Ok(status)
    }
}
