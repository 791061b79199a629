//! The API over real sockets: answers, errors, and the event stream byte by byte.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::core::Core;
use crate::world::World;

struct Api {
    address: std::net::SocketAddr,
    world: Arc<World>,
}

async fn api() -> Api {
    let core = Core::new(2, Box::new(|| uuid::Uuid::new_v4().to_string()));
    let (effects, _) = tokio::sync::mpsc::unbounded_channel();
    let world = Arc::new(World::new(core, effects, std::collections::BTreeMap::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    super::serve::spawn(listener, super::router(Arc::clone(&world)));
    Api { address, world }
}

impl Api {
    /// Status, head, body.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, String, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let text = format!("{method} {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

fn pod() -> Value {
    json!({"id": "/g/p", "containers": [{"name": "c", "exec": {"command": {"shell": "sleep 1"}}}]})
}

#[tokio::test]
async fn errors() {
    let api = api().await;
    let (status, _, body) = api.call("GET", "/v2/apps/no/such", Value::Null).await;
    assert_eq!((status, body), (404, json!({"message": "App '/no/such' does not exist"})));
    for path in ["/v2/pods/nope", "/v2/pods/nope::status", "/v2/pods/nope::versions/x"] {
        let (status, _, body) = api.call("GET", path, Value::Null).await;
        assert_eq!((status, body), (404, json!({"message": "Pod '/nope' does not exist"})), "{path}");
    }
    let (status, _, body) = api.call("POST", "/v2/apps", json!({"id": "/UPPER", "constraints": [["hostname"]]})).await;
    assert_eq!((status, &body["message"]), (422, &json!("Object is not valid")));
    assert_eq!(body["details"][0]["path"], "/id");
    assert!(body["details"][0]["errors"][0].as_str().unwrap().contains("UPPER"));
    assert_eq!(body["details"].as_array().unwrap().len(), 3, "{body:#}");
    let (status, _, body) = api.call("POST", "/v2/pods", json!({"id": "/p", "containers": [{"name": "a"}]})).await;
    assert_eq!((status, &body["details"][0]["path"]), (422, &json!("/containers(0)/exec")));
    let (status, _, _) = api.call("POST", "/v2/apps", json!([1])).await;
    assert_eq!(status, 422);
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(b"POST /v2/apps HTTP/1.1\r\nhost: m\r\nconnection: close\r\ncontent-length: 1\r\n\r\n{").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("Invalid JSON"), "{answer}");
    let (status, _, _) = api.call("GET", "/v2/nothing", Value::Null).await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn pods() {
    let api = api().await;
    assert_eq!(api.call("HEAD", "/v2/pods", Value::Null).await.0, 200);
    assert_eq!(api.call("GET", "/v2/pods", Value::Null).await.2, json!([]));
    let (status, head, body) = api.call("POST", "/v2/pods", pod()).await;
    assert_eq!((status, &body["id"]), (201, &json!("/g/p")));
    assert!(head.contains("marathon-deployment-id: ") && head.contains("location: /v2/pods/g/p"), "{head}");
    assert!(head.contains("x-marathon-leader: http://198.18.0.1:8080"));
    assert_eq!(api.call("POST", "/v2/pods", pod()).await.0, 409);
    let (_, _, status) = api.call("GET", "/v2/pods/::status", Value::Null).await;
    assert_eq!(status[0]["id"], "/g/p");
    let (_, _, one) = api.call("GET", "/v2/pods/g/p::status", Value::Null).await;
    assert_eq!(one, status[0]);
    let reference = one["instances"][0]["specReference"].as_str().unwrap();
    assert_eq!(api.call("GET", reference, Value::Null).await.2, body);
    assert_eq!(api.call("GET", "/v2/pods/g/p::versions", Value::Null).await.2, json!([body["version"]]));
    let (_, _, group) = api.call("GET", "/v2/groups", Value::Null).await;
    assert_eq!(group["groups"][0]["pods"][0]["status"], "DEGRADED", "groups hold statuses, not definitions");
    let (status, _, locked) = api.call("DELETE", "/v2/pods/g/p", Value::Null).await;
    assert_eq!((status, locked["deployments"].as_array().unwrap().len()), (409, 1));
    assert_eq!(api.call("DELETE", "/v2/pods/g/p?force=true", Value::Null).await.0, 202);
    assert_eq!(api.call("GET", "/v2/pods/g/p", Value::Null).await.0, 404);
}

#[tokio::test]
async fn apps() {
    let api = api().await;
    let app = json!({"id": "g/a", "cmd": "sleep 1", "constraints": [["hostname", "UNIQUE"]]});
    let (status, _, body) = api.call("POST", "/v2/apps", app).await;
    assert_eq!((status, &body["id"]), (201, &json!("/g/a")), "a relative id is below the root");
    assert_eq!(body["networks"], json!([{"mode": "host"}]));
    let (_, _, list) = api.call("GET", "/v2/apps", Value::Null).await;
    assert!(list["apps"][0].get("tasks").is_none() && list["apps"][0].get("tasksRunning").is_none());
    let (_, _, list) = api.call("GET", "/v2/apps?embed=apps.tasks&embed=apps.readiness", Value::Null).await;
    assert_eq!(list["apps"][0]["tasks"][0]["state"], "TASK_STAGING");
    assert_eq!((&list["apps"][0]["tasksStaged"], &list["apps"][0]["readinessCheckResults"]), (&json!(1), &json!([])));
    let (status, _, body) = api.call("PUT", "/v2/apps/g/a?force=true", json!({"instances": 2})).await;
    assert!(status == 200 && body["version"].is_string() && body["deploymentId"].is_string(), "{body}");
    let (_, _, tasks) = api.call("GET", "/v2/tasks?status[]=staging", Value::Null).await;
    assert_eq!(tasks["tasks"].as_array().unwrap().len(), 2);
    let (_, _, tasks) = api.call("GET", "/v2/apps/g/a/tasks", Value::Null).await;
    assert_ne!(tasks["tasks"][0]["host"], tasks["tasks"][1]["host"]);
    assert_eq!(api.call("POST", "/v2/apps/g/a/restart", Value::Null).await.0, 409, "locked by its deployment");
    let (status, _, _) = api.call("PUT", "/v2/apps/new", json!({"cmd": "true"})).await;
    assert_eq!(status, 201, "PUT creates");
    let (_, _, deployments) = api.call("GET", "/v2/deployments", Value::Null).await;
    assert_eq!(deployments.as_array().unwrap().len(), 2);
    assert_eq!(api.call("GET", "/v2/leader", Value::Null).await.2, json!({"leader": "198.18.0.1:8080"}));
    assert_eq!(api.call("GET", "/v2/info", Value::Null).await.2["marathon_config"]["default_network_name"], "dcos");
}

async fn events(api: &Api, query: &str, accept: &str) -> TcpStream {
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(format!("GET /v2/events{query} HTTP/1.1\r\nhost: m\r\naccept: {accept}\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

/// Reads one event, byte by byte; counts the heartbeats before it.
async fn next(stream: &mut TcpStream) -> (String, Value, usize) {
    let (mut text, mut beats) = (String::new(), 0);
    while !text.ends_with("\r\n\r\n") {
        text.push(char::from(stream.read_u8().await.unwrap()));
        if text == "\r\n" {
            text.clear();
            beats += 1;
        }
    }
    let (kind, data) = text.strip_prefix("event: ").unwrap().split_once("\r\ndata: ").unwrap();
    let data = serde_json::from_str(data.strip_suffix("\r\n\r\n").unwrap()).unwrap();
    (kind.to_owned(), data, beats)
}

async fn head(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        text.push(char::from(stream.read_u8().await.unwrap()));
    }
    text.to_ascii_lowercase()
}

#[tokio::test]
async fn the_event_stream() {
    let api = api().await;
    let mut stream = events(&api, "", "text/event-stream").await;
    let head = head(&mut stream).await;
    assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
    assert!(
        head.contains("content-type: text/event-stream;charset=utf-8\r\n") && head.contains("connection: close\r\n"),
        "{head}"
    );
    assert!(!head.contains("chunked") && !head.contains("content-length"), "{head}");
    let (kind, data, _) = next(&mut stream).await;
    assert_eq!((kind.as_str(), &data["remoteAddress"]), ("event_stream_attached", &json!("127.0.0.1")));
    let mut other = events(&api, "?event_type=pod_created_event&event_type=event_stream_detached", "text/event-stream").await;
    self::head(&mut other).await;
    assert_eq!(next(&mut stream).await.0, "event_stream_attached", "of the other");
    api.call("POST", "/v2/pods", pod()).await;
    let (kind, data, _) = next(&mut other).await;
    assert_eq!((kind.as_str(), &data["uri"], &data["clientIp"]), ("pod_created_event", &json!("/v2/pods"), &json!("127.0.0.1")));
    assert_eq!(next(&mut stream).await.0, "pod_created_event");
    drop(stream);
    assert_eq!(next(&mut other).await.0, "event_stream_detached");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut second = pod();
    second["id"] = json!("/second");
    api.call("POST", "/v2/pods", second).await;
    let (kind, _, beats) = next(&mut other).await;
    assert!(kind == "pod_created_event" && beats > 0, "{kind} after {beats} heartbeats");
}

#[tokio::test]
async fn a_heartbeat_is_two_segments() {
    let api = api().await;
    let mut stream = events(&api, "?event_type=none", "text/event-stream").await;
    head(&mut stream).await;
    let mut buffer = [0; 16];
    for expected in [&b"\r"[..], b"\n", b"\r"] {
        let n = stream.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], expected);
    }
}

#[tokio::test]
async fn only_event_streams_are_accepted() {
    let api = api().await;
    for accept in ["*/*", "text/event-stream, */*", "application/json"] {
        assert!(head(&mut events(&api, "", accept).await).await.starts_with("http/1.1 405"), "{accept}");
    }
}

#[tokio::test]
async fn who_lags_is_cut_off() {
    let api = api().await;
    let mut stream = events(&api, "", "text/event-stream").await;
    head(&mut stream).await;
    // More than the socket's buffers hold, and then more than may be outstanding.
    let long = "x".repeat(60_000);
    for _ in 0..3 * crate::world::OUTSTANDING {
        api.world.publish_stream("test_event", &long);
        tokio::task::yield_now().await;
    }
    let mut sink = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut sink)).await;
    assert!(end.is_ok(), "the stream must end");
}

#[tokio::test]
async fn faults() {
    use crate::faults::{Events, Faults};
    let api = api().await;
    let mut stream = events(&api, "?event_type=pod_created_event", "text/event-stream").await;
    head(&mut stream).await;
    let create = async |id: &str| {
        let mut raw = pod();
        raw["id"] = json!(id);
        assert_eq!(api.call("POST", "/v2/pods", raw).await.0, 201);
    };
    api.world.set_faults(Faults { events: Events::Drop, ..Faults::default() });
    create("/lost").await;
    api.world.set_faults(Faults { events: Events::Delay, delay_ms: 300, ..Faults::default() });
    let begun = std::time::Instant::now();
    create("/late").await;
    assert_eq!(next(&mut stream).await.0, "pod_created_event");
    assert!(begun.elapsed() >= Duration::from_millis(300), "only the second came, and late");
    api.world.set_faults(Faults { unavailable: true, ..Faults::default() });
    assert_eq!(api.call("GET", "/v2/pods", Value::Null).await.0, 503);
    api.world.set_faults(serde_json::from_value(json!({"closeStreams": true})).unwrap());
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(api.call("GET", "/v2/pods", Value::Null).await.0, 200);
    assert!(serde_json::from_value::<Faults>(json!({"event": "drop"})).is_err(), "a slip of the pen is no fault");
}
