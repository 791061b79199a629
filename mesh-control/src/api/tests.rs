//! The API over real TLS on loopback, with a store on disk.

use std::path::PathBuf;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::pki::{InitArgs, init};

mod running;
mod secrets;

const GROUP: &str = "/apis/networking.istio.io/v1alpha3/namespaces/default";

struct World {
    dir: tempfile::TempDir,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    store: Store,
}

/// reviews and ratings run, and one node is a gateway.
#[derive(Debug)]
struct Shop;

impl Runs for Shop {
    fn registry(&self) -> Option<Arc<crate::core::registry::Registry>> {
        Some(Arc::new(crate::core::compile::tests::reviews(&["v1", "v2"])))
    }

    fn gateways(&self) -> std::collections::BTreeSet<std::net::IpAddr> {
        [std::net::IpAddr::from([10, 0, 0, 1])].into()
    }
}

struct Answer {
    code: StatusCode,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("mesh");
        init(&InitArgs { out: out.clone(), api_server: "https://127.0.0.1:1".to_owned(), san: vec!["127.0.0.1".to_owned()] })
            .unwrap();
        let store = Store::open(&dir.path().join("rules.redb")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let control = out.join("control");
        tokio::spawn(serve(ApiArgs {
            listener,
            tls: load_tls(&control.join("server.crt"), &control.join("server.key")).unwrap(),
            store: store.clone(),
            tokens: Arc::new(Tokens::load(&control.join("tokens.csv")).unwrap()),
            metrics: ApiMetrics::default(),
            stop: stop.clone(),
            runs: Arc::new(Shop),
        }));
        Self { dir, address, stop, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("mesh").join(name)
    }

    fn admin(&self) -> String {
        let tokens = std::fs::read_to_string(self.path("control/tokens.csv")).unwrap();
        tokens.split(',').next().unwrap().to_owned()
    }

    async fn connect(&self) -> http1::SendRequest<Full<bytes::Bytes>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.crt")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn send(&self, request: http::request::Builder, body: Vec<u8>) -> Answer {
        let response = self.connect().await.send_request(request.body(Full::from(body)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        Answer { code: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes().to_vec() }
    }

    async fn ask(&self, method: Method, path: &str, media: &str, body: &Value) -> Answer {
        let bytes = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
        let bearer = format!("Bearer {}", self.admin());
        let request = Request::builder().method(method).uri(path).header("authorization", bearer);
        self.send(request.header("content-type", media), bytes).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, "application/json", &Value::Null).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, "application/json", body).await
    }

    async fn merge(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PATCH, path, "application/merge-patch+json", body).await
    }
}

fn vs(name: &str) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "VirtualService", "metadata": { "name": name },
        "spec": { "hosts": ["details"], "http": [{ "route": [{ "destination": { "host": "details" } }] }] },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_lives_from_create_to_delete() {
    let world = World::new().await;
    let all = format!("{GROUP}/virtualservices");
    let one = format!("{all}/details");
    let created = world.post(&all, &vs("details")).await;
    assert_eq!(created.code, StatusCode::CREATED);
    let meta = created.json()["metadata"].clone();
    assert_eq!((&meta["generation"], &meta["namespace"]), (&json!(1), &json!("default")));
    assert_eq!(
        world.post(&all, &vs("details")).await.message(),
        "virtualservices.networking.istio.io \"details\" already exists"
    );

    // Labels do not change the generation, the spec does; the version always grows; a patch that changes nothing changes nothing.
    let labelled = world.merge(&one, &json!({ "metadata": { "labels": { "a": "b" } } })).await.json();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let changed = world.merge(&one, &json!({ "spec": { "hosts": ["details", "other"] } })).await.json();
    assert_eq!(changed["metadata"]["generation"], 2);
    let same = world.merge(&one, &json!({ "spec": { "hosts": ["details", "other"] } })).await.json();
    assert_eq!(same["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);

    // A stale update loses, a current one wins.
    let mut body = labelled.clone();
    let stale = world.ask(Method::PUT, &one, "application/json", &body).await;
    assert_eq!(stale.code, StatusCode::CONFLICT);
    assert!(stale.message().ends_with("please apply your changes to the latest version and try again"));
    body["metadata"]["resourceVersion"] = changed["metadata"]["resourceVersion"].clone();
    assert_eq!(world.ask(Method::PUT, &one, "application/json", &body).await.json()["metadata"]["generation"], 3);

    // Stored once, served in all versions; the compiler has it too.
    let v1 = world.get("/apis/networking.istio.io/v1/namespaces/default/virtualservices/details").await.json();
    assert_eq!(v1["apiVersion"], "networking.istio.io/v1");
    let config = world.store.config().borrow().clone();
    assert_eq!(config.virtual_services[0].meta.generation, 3);

    let dry = format!("{one}?dryRun=All");
    assert_eq!(world.ask(Method::DELETE, &dry, "application/json", &Value::Null).await.code, StatusCode::OK);
    let gone = world.ask(Method::DELETE, &one, "application/json", &json!({ "propagationPolicy": "Background" })).await.json();
    assert_eq!((&gone["status"], &gone["details"]["uid"]), (&json!("Success"), &meta["uid"]));
    assert_eq!(world.get(&one).await.message(), "virtualservices.networking.istio.io \"details\" not found");
    assert!(world.store.config().borrow().virtual_services.is_empty());
    world.stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_say_what_and_where() {
    let world = World::new().await;
    let all = format!("{GROUP}/virtualservices");
    let mut bad = vs("x");
    bad["spec"]["http"][0]["fault"] = json!({ "abort": { "httpStatus": 999, "percent": 100 } });
    bad["spec"]["http"][0]["timeout"] = json!("1us");
    let answer = world.post(&all, &bad).await;
    assert_eq!(answer.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        answer.message(),
        "VirtualService.networking.istio.io \"x\" is invalid: [spec.http[0].fault.abort.httpStatus: Invalid value: 999: HTTP status 999 \
         is not in range 200-599, spec.http[0].timeout: Invalid value: \"1µs\": duration must be greater than 1ms]"
    );
    assert_eq!(answer.json()["details"]["causes"][0]["field"], "spec.http[0].fault.abort.httpStatus");

    let mut unknown = vs("x");
    unknown["spec"]["bogus"] = json!(1);
    unknown["metadata"]["lables"] = json!({});
    let answer = world.post(&format!("{all}?fieldValidation=Ignore"), &unknown).await;
    assert_eq!(answer.code, StatusCode::BAD_REQUEST);
    assert!(answer.message().ends_with("strict decoding error: unknown field \"metadata.lables\", unknown field \"spec.bogus\""));

    let edge = json!({ "apiVersion": "networking.istio.io/v1alpha3", "kind": "Gateway", "metadata": { "name": "e" }, "spec": { "servers": [] } });
    let answer = world.post(&format!("{GROUP}/gateways"), &edge).await;
    assert_eq!(answer.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(answer.message().ends_with("gateway must have at least one server"), "{}", answer.message());

    let answer = world.post("/apis/networking.istio.io/v1alpha3/namespaces/none/virtualservices", &vs("x")).await;
    assert_eq!(answer.message(), "namespaces \"none\" not found");
    let bearer = format!("Bearer {}", world.admin());
    let post = || Request::builder().method(Method::POST).uri(&all).header("authorization", &bearer);
    let answer = world.send(post(), b"{\"kind\": }".to_vec()).await;
    assert!(answer.message().contains("line 1 column 10"), "{}", answer.message());
    let answer = world.send(post(), vec![b' '; body::MAX_BODY_BYTES + 1]).await;
    assert_eq!(answer.code, StatusCode::PAYLOAD_TOO_LARGE);
    let mut large = vs("x");
    large["metadata"]["annotations"] = json!({ "a": "x".repeat(250_000) });
    large["spec"]["http"][0]["name"] = json!("y".repeat(50_000));
    assert_eq!(world.post(&all, &large).await.code, StatusCode::PAYLOAD_TOO_LARGE);
    let strategic = world.ask(Method::PATCH, &format!("{all}/x"), "application/strategic-merge-patch+json", &json!({})).await;
    assert_eq!(strategic.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_administrators_get_in() {
    let world = World::new().await;
    let all = format!("{GROUP}/virtualservices");
    let node = std::fs::read_to_string(world.path("node.token")).unwrap();
    for (token, code) in [(None, 401), (Some("wrong"), 401), (Some(node.trim()), 403)] {
        let mut request = Request::builder().uri(&all);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = world.send(request, vec![]).await;
        assert_eq!((answer.code.as_u16(), answer.json()["kind"].as_str()), (code, Some("Status")));
    }
    for path in ["/healthz", "/livez", "/readyz"] {
        let answer = world.send(Request::builder().uri(path), vec![]).await;
        assert_eq!((answer.code, answer.body.as_slice()), (StatusCode::OK, b"ok".as_slice()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_come_in_pages_and_tables() {
    let world = World::new().await;
    let all = format!("{GROUP}/virtualservices");
    for name in ["a", "b", "c"] {
        assert_eq!(world.post(&all, &vs(name)).await.code, StatusCode::CREATED);
    }
    let first = world.get(&format!("{all}?limit=2")).await.json();
    assert_eq!((first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]), (2, &json!(1)));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = world.get(&format!("{all}?limit=2&continue={token}")).await.json();
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert!(second["metadata"].get("continue").is_none());
    let named = world.get("/apis/networking.istio.io/v1/virtualservices?fieldSelector=metadata.name%3Db").await.json();
    assert_eq!(named["items"].as_array().unwrap().len(), 1);
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let bearer = format!("Bearer {}", world.admin());
    let table =
        world.send(Request::builder().uri(&all).header("authorization", bearer).header("accept", accept), vec![]).await.json();
    assert_eq!((&table["kind"], &table["columnDefinitions"][2]["name"]), (&json!("Table"), &json!("Hosts")));
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("a"), Value::Null, json!("[\"details\"]")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_sees_every_event_after_its_version() {
    let world = World::new().await;
    let all = format!("{GROUP}/virtualservices");
    let before = world.post(&all, &vs("a")).await.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {}", world.admin());
    let watch = |version: &str| {
        let uri = format!("{all}?watch=true&resourceVersion={version}&labelSelector=keep%21%3Dno");
        Request::builder().uri(uri).header("authorization", &bearer).body(Full::default()).unwrap()
    };
    world.post(&all, &vs("b")).await;
    let mut body = world.connect().await.send_request(watch(&before)).await.unwrap().into_body();
    world.merge(&format!("{all}/b"), &json!({ "spec": { "hosts": ["other"] } })).await;
    world.merge(&format!("{all}/b"), &json!({ "metadata": { "labels": { "keep": "no" } } })).await;
    world.ask(Method::DELETE, &format!("{all}/a"), "application/json", &Value::Null).await;
    let mut seen = vec![];
    while seen.len() < 4 {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(10), body.frame()).await.expect("an event");
        let frame = frame.unwrap().unwrap().into_data().unwrap();
        for line in frame.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let event: Value = serde_json::from_slice(line).unwrap();
            seen.push(format!("{} {}", event["type"].as_str().unwrap(), event["object"]["metadata"]["name"].as_str().unwrap()));
        }
    }
    assert_eq!(seen, ["ADDED b", "MODIFIED b", "DELETED b", "DELETED a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_effect_is_said() {
    let world = World::new().await;
    let mut object = vs("m");
    object["spec"]["http"][0]["match"] = json!([{ "statPrefix": "x" }]);
    let answer = world.post(&format!("{GROUP}/virtualservices"), &object).await;
    assert_eq!(answer.code, StatusCode::CREATED);
    assert_eq!(answer.headers["warning"], "299 - \"spec.http[0].match[0].statPrefix: is not enforced by this version\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_enough_for_the_walkthroughs() {
    let world = World::new().await;
    let list = world.get("/api/v1/namespaces").await.json();
    let names: Vec<&str> = list["items"].as_array().unwrap().iter().map(|n| n["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "istio-system", "kube-system"]);
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
    assert_eq!(world.post("/api/v1/namespaces", &body).await.code, StatusCode::CREATED);
    let labelled =
        world.merge("/api/v1/namespaces/shop", &json!({ "metadata": { "labels": { "istio-injection": "enabled" } } })).await;
    assert_eq!(labelled.json()["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
    let shop = "/apis/networking.istio.io/v1alpha3/namespaces/shop/virtualservices";
    world.post(shop, &vs("a")).await;
    assert_eq!(world.ask(Method::DELETE, "/api/v1/namespaces/shop", "application/json", &Value::Null).await.code, StatusCode::OK);
    assert_eq!(world.get(&format!("{shop}/a")).await.code, StatusCode::NOT_FOUND);
    let kept = world.ask(Method::DELETE, "/api/v1/namespaces/default", "application/json", &Value::Null).await;
    assert_eq!(kept.code, StatusCode::FORBIDDEN);
}
