//! A small Marathon that speaks HTTP as the real one does: event streams without length or chunks, heartbeats cut in two.

use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

#[derive(Default)]
pub(crate) struct State {
    /// Answers by path without query; what is absent is 404.
    pub(crate) documents: BTreeMap<String, Value>,
    /// Where the event stream is redirected to.
    pub(crate) redirect: Option<String>,
    /// Paths asked for, in order.
    pub(crate) asked: Vec<String>,
}

pub(crate) struct Fake {
    pub(crate) address: String,
    pub(crate) state: Arc<Mutex<State>>,
    /// Written to every open event stream; an empty chunk closes it.
    pub(crate) stream: broadcast::Sender<Vec<u8>>,
    /// Who accepts connections, to be aborted.
    pub(crate) server: tokio::task::JoinHandle<()>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let stream = broadcast::Sender::new(64);
        let (shared, chunks) = (state.clone(), stream.clone());
        let server = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, shared.clone(), chunks.clone()));
            }
        });
        let fake = Self { address, state, stream, server };
        fake.put("/v2/info", json!({"name": "marathon", "version": "1.11.24", "leader": fake.address, "marathon_config": {"mesos_bridge_name": "br"}}));
        fake.apps(&[]);
        fake.put("/v2/pods/::status", json!([]));
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn put(&self, path: &str, document: Value) {
        self.state.lock().documents.insert(path.to_owned(), document);
    }

    /// Apps by id and the port of their one task.
    pub(crate) fn apps(&self, apps: &[(&str, u16)]) {
        let app = |(id, port): &(&str, u16)| json!({"id": id, "tasks": [{"id": "t", "host": "10.0.0.1", "state": "TASK_RUNNING", "ports": [port]}]});
        for one in apps {
            self.put(&format!("/v2/apps{}", one.0), json!({"app": app(one)}));
        }
        self.put("/v2/apps", json!({"apps": apps.iter().map(app).collect::<Vec<_>>()}));
    }

    pub(crate) fn event(&self, kind: &str, data: &Value) {
        let _ = self.stream.send(format!("event: {kind}\r\ndata: {data}\r\n\r\n").into_bytes());
    }

    pub(crate) fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().asked)
    }
}

async fn serve(mut connection: TcpStream, state: Arc<Mutex<State>>, stream: broadcast::Sender<Vec<u8>>) {
    let mut head = Vec::new();
    loop {
        while !head.ends_with(b"\r\n\r\n") {
            match connection.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let text = String::from_utf8(std::mem::take(&mut head)).expect("text").to_ascii_lowercase();
        let target = text.split(' ').nth(1).expect("target").to_owned();
        let path = target.split('?').next().expect("path").to_owned();
        state.lock().asked.push(path.clone());
        if path == "/v2/events" {
            return events(connection, &text, &target, &state, stream.subscribe()).await;
        }
        let answer = match state.lock().documents.get(&path) {
            Some(document) => ("200 OK", document.to_string()),
            None => ("404 Not Found", r#"{"message":"not found"}"#.to_owned()),
        };
        let head =
            format!("HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.0, answer.1.len());
        if connection.write_all(format!("{head}{}", answer.1).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn events(
    mut connection: TcpStream,
    head: &str,
    target: &str,
    state: &Mutex<State>,
    mut chunks: broadcast::Receiver<Vec<u8>>,
) {
    let redirect = state.lock().redirect.clone();
    let is_stream = redirect.is_none();
    let answer = match redirect {
        Some(to) => {
            format!("HTTP/1.1 302 Found\r\nlocation: http://{to}{target}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        }
        None if !head.contains("\r\naccept: text/event-stream\r\n") => "HTTP/1.1 405 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
        None => "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream;charset=utf-8\r\nconnection: close\r\n\r\n\
            event: event_stream_attached\r\ndata: {\"remoteAddress\":\"x\"}\r\n\r\n"
            .to_owned(),
    };
    if connection.write_all(answer.as_bytes()).await.is_err() || !is_stream {
        return;
    }
    while let Ok(chunk) = chunks.recv().await {
        if chunk.is_empty() || connection.write_all(&chunk).await.is_err() {
            return;
        }
    }
}
