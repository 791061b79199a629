//! Secrets as old and new kubectl write them, and the old DestinationPolicy.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::*;
use crate::secret::tests::pem;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// One length-delimited protobuf field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    [bytes, content.to_vec()].concat()
}

/// What `kubectl create secret tls` sends since 1.32.
fn protobuf(name: &str, certificate: &str, key: &str) -> Vec<u8> {
    let entry = |name: &str, value: &str| field(2, &[field(1, name.as_bytes()), field(2, value.as_bytes())].concat());
    let meta = field(1, &field(1, name.as_bytes()));
    let kind = field(3, b"kubernetes.io/tls");
    let raw = [meta, entry("tls.crt", certificate), entry("tls.key", key), kind].concat();
    let types = field(1, &[field(1, b"v1"), field(2, b"Secret")].concat());
    [b"k8s\0".to_vec(), types, field(2, &raw)].concat()
}

async fn post_protobuf(world: &World, body: Vec<u8>) -> Answer {
    let bearer = format!("Bearer {}", world.admin());
    let request = Request::builder().method(Method::POST).uri(format!("{SECRETS}?fieldManager=kubectl-create"));
    let request = request.header("authorization", bearer).header("content-type", "application/vnd.kubernetes.protobuf");
    world.send(request.header("accept", "application/vnd.kubernetes.protobuf,application/json"), body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_kept_replaced_and_deleted() {
    let world = World::new().await;
    let ((certificate, key), (second, second_key)) = (pem("a.example.com"), pem("a.example.com"));
    let created = post_protobuf(&world, protobuf("edge", &certificate, &key)).await;
    assert_eq!(created.code, StatusCode::CREATED, "{}", created.json());
    assert_eq!(created.json()["data"]["tls.crt"], BASE64_STANDARD.encode(&certificate));
    assert_eq!(created.json()["metadata"].get("generation"), None);
    let in_force = || {
        let config = world.store.config().borrow().clone();
        let secret = config.secrets.get(&("default".to_owned(), "edge".to_owned())).cloned();
        secret.and_then(|secret| secret.credential().expect("usable").pair).map(|(certificate, _)| certificate)
    };
    assert_eq!(in_force(), Some(certificate.clone().into_bytes()));

    // What kubectl apply sends for a kind that it has compiled in.
    let data = json!({ "data": { "tls.crt": BASE64_STANDARD.encode(&second), "tls.key": BASE64_STANDARD.encode(&second_key) } });
    let one = format!("{SECRETS}/edge");
    let strategic = "application/strategic-merge-patch+json";
    let patched = world.ask(Method::PATCH, &one, strategic, &data).await;
    assert_eq!(patched.code, StatusCode::OK, "{}", patched.json());
    assert_eq!(in_force(), Some(second.into_bytes()));
    let directive = world.ask(Method::PATCH, &one, strategic, &json!({ "data": { "$patch": "replace" } })).await;
    assert_eq!(directive.code, StatusCode::BAD_REQUEST);

    let half = json!({ "data": { "tls.crt": BASE64_STANDARD.encode(&certificate) } });
    let refused = world.merge(&one, &half).await;
    assert_eq!(refused.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.message(), "Secret \"edge\" is invalid: data: Forbidden: tls.key is not the key of tls.crt");
    assert_eq!(world.merge(&one, &json!({ "type": "Opaque" })).await.code, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(world.ask(Method::DELETE, &one, "application/json", &Value::Null).await.code, StatusCode::OK);
    assert_eq!(in_force(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_secrets_are_listed_without_what_they_hold() {
    let world = World::new().await;
    let mut secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "stringData": { "a": "s3cret", "b": "" },
        "immutable": true });
    assert_eq!(world.post("/api/v1/namespaces/none/secrets", &secret).await.message(), "namespaces \"none\" not found");
    let created = world.post(SECRETS, &secret).await.json();
    assert_eq!(
        (&created["type"], &created["data"]["a"], created.get("stringData")),
        (&json!("Opaque"), &json!("czNjcmV0"), None)
    );
    let bearer = format!("Bearer {}", world.admin());
    let table = Request::builder().uri(SECRETS).header("authorization", bearer);
    let table = table.header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table = world.send(table, vec![]).await.json();
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("s"), json!("Opaque"), json!(2)]);
    assert!(!table.to_string().contains("czNjcmV0"));
    let changed = world.merge(&format!("{SECRETS}/s"), &json!({ "data": { "a": "eA==" } })).await;
    assert!(changed.message().contains("data: Forbidden: field is immutable when `immutable` is set"), "{}", changed.message());
    secret["spec"] = json!({});
    secret["metadata"]["name"] = json!("t");
    assert!(world.post(SECRETS, &secret).await.message().contains("unknown field \"spec\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_destination_policy_is_served_with_a_warning() {
    let world = World::new().await;
    let all = "/apis/config.istio.io/v1alpha2/namespaces/default/destinationpolicies";
    let breaker = json!({ "httpMaxRequests": 1, "httpMaxPendingRequests": 1, "sleepWindow": "5s" });
    let mut policy = json!({ "apiVersion": "config.istio.io/v1alpha2", "kind": "DestinationPolicy", "metadata": { "name": "p" },
        "spec": { "destination": { "name": "myweb-service" }, "circuitBreaker": { "simpleCb": breaker } } });
    let created = world.post(all, &policy).await;
    assert_eq!(created.code, StatusCode::CREATED, "{}", created.json());
    let warnings: Vec<_> = created.headers.get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect();
    let deprecated = "299 - \"config.istio.io DestinationPolicy is deprecated; use networking.istio.io/v1 DestinationRule\"";
    assert_eq!(warnings[0], deprecated);
    let config = world.store.config().borrow().clone();
    let [old] = config.destination_policies.as_slice() else { panic!("{config:?}") };
    let http = old.spec.policy.connection_pool.as_ref().and_then(|pool| pool.http.as_ref()).unwrap();
    assert_eq!((old.spec.host.as_str(), http.http2_max_requests, http.http1_max_pending_requests), ("myweb-service", 1, 1));
    let outliers = old.spec.policy.outlier_detection.as_ref().unwrap();
    assert_eq!(outliers.base_ejection_time, Some(std::time::Duration::from_secs(5)));
    policy["metadata"]["name"] = json!("q");
    policy["spec"]["loadBalancing"] = json!({ "name": "FASTEST" });
    assert!(world.post(all, &policy).await.message().contains("spec.loadBalancing.name: Unsupported value: \"FASTEST\""));
    let groups = world.get("/apis").await.json();
    assert_eq!(groups["groups"][1]["preferredVersion"]["groupVersion"], "config.istio.io/v1alpha2");
    let resources = world.get("/apis/config.istio.io/v1alpha2").await.json()["resources"].clone();
    assert_eq!((resources.as_array().unwrap().len(), &resources[0]["kind"]), (1, &json!("DestinationPolicy")));
    assert_eq!(world.get("/apis/config.istio.io/v1alpha2/namespaces/default/gateways").await.code, StatusCode::NOT_FOUND);
}
