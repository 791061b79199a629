//! A Mesos agent's answers about containers that are about to start.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

/// Container, executor (empty: a standalone container), labels.
type Containers = Arc<Mutex<Vec<(String, String, BTreeMap<String, String>)>>>;

/// A Mesos agent that knows these containers, all of them about to start.
pub struct Mesos {
    pub url: String,
    containers: Containers,
}

impl Mesos {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let (url, containers) = (format!("http://{}", listener.local_addr().expect("bound")), Containers::default());
        let known = Arc::clone(&containers);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = Vec::new();
                let mut buffer = [0; 4096];
                // The question is the whole body, and ends the request.
                while !request.ends_with(b"}") {
                    match stream.read(&mut buffer) {
                        Ok(n @ 1..) => request.extend_from_slice(&buffer[..n]),
                        _ => break,
                    }
                }
                let body = answer(&String::from_utf8_lossy(&request), &known.lock().expect("not poisoned")).to_string();
                let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            }
        });
        Self { url, containers }
    }

    pub fn knows(&self, container: &str, executor: &str, inject: Option<&str>) {
        let labels = inject.map(|inject| ("sidecar.istio.io/inject".to_owned(), inject.to_owned())).into_iter().collect();
        self.containers.lock().expect("not poisoned").push((container.to_owned(), executor.to_owned(), labels));
    }

    /// Nothing runs any more.
    pub fn forgets_all(&self) {
        self.containers.lock().expect("not poisoned").clear();
    }
}

fn answer(request: &str, known: &[(String, String, BTreeMap<String, String>)]) -> Value {
    if request.contains("GET_CONTAINERS") {
        let item = |(container, executor, _): &(String, String, _)| {
            let mut item = json!({"container_id": {"value": container}, "container_status": {}});
            if !executor.is_empty() {
                item["executor_id"] = json!({"value": executor});
            }
            item
        };
        return json!({"get_containers": {"containers": known.iter().map(item).collect::<Vec<_>>()}});
    }
    let task = |(_, executor, labels): &(String, String, BTreeMap<String, String>)| {
        let labels: Vec<Value> = labels.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        json!({"task_id": {"value": executor}, "labels": {"labels": labels}})
    };
    json!({"get_state": {"get_tasks": {"queued_tasks": known.iter().map(task).collect::<Vec<_>>()}}})
}
