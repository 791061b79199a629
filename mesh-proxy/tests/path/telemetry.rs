//! Spans at a collector, context at the upstream, lines in the access log, metrics of both sides.

use crate::world::{Backend, Client, World, action, any, network_listener, to};
use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::config::trace::v3 as trace;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as file;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::BoolValue;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mesh_xds::names;
use prost::Message;
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Answers as told, and hands on what it was sent.
async fn server(status: u16) -> (SocketAddr, mpsc::UnboundedReceiver<(http::request::Parts, Bytes)>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.expect("body").to_bytes();
                    let _ = sender.send((parts, body));
                    let answer = Response::builder().status(status).body(Full::<Bytes>::default()).expect("valid");
                    Ok::<_, Infallible>(answer)
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, receiver)
}

fn manager(port: u16, sampling: f64, logged: Option<&str>) -> hcm::HttpConnectionManager {
    use hcm::http_connection_manager as parts;
    let zipkin = trace::ZipkinConfig {
        collector_cluster: "zipkin".to_owned(),
        collector_endpoint: "/api/v2/spans".to_owned(),
        collector_endpoint_version: trace::zipkin_config::CollectorEndpointVersion::HttpJson as i32,
        trace_context_option: trace::zipkin_config::TraceContextOption::UseB3WithW3cPropagation as i32,
        collector_hostname: "collector".to_owned(),
        ..Default::default()
    };
    let provider = trace::tracing::Http {
        name: "envoy.tracers.zipkin".to_owned(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(any(&zipkin))),
    };
    let log = logged.map(|format| {
        let format = core::substitution_format_string::Format::TextFormatSource(core::DataSource {
            specifier: Some(core::data_source::Specifier::InlineString(format.to_owned())),
            ..Default::default()
        });
        let format = core::SubstitutionFormatString { format: Some(format), ..Default::default() };
        let format = file::file_access_log::AccessLogFormat::LogFormat(format);
        let config = file::FileAccessLog { path: "/dev/stdout".to_owned(), access_log_format: Some(format) };
        accesslog::AccessLog {
            name: "envoy.access_loggers.file".to_owned(),
            config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any(&config))),
            ..Default::default()
        }
    });
    let router = hcm::HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    let rds = hcm::Rds { config_source: crate::world::ads(), route_config_name: port.to_string() };
    hcm::HttpConnectionManager {
        http_filters: vec![router],
        route_specifier: Some(parts::RouteSpecifier::Rds(rds)),
        tracing: Some(parts::Tracing {
            random_sampling: Some(Percent { value: sampling }),
            provider: Some(provider),
            ..Default::default()
        }),
        access_log: log.into_iter().collect(),
        ..Default::default()
    }
}

/// To the backend, twice more on 5xx.
fn retried() -> route::Route {
    let retry = route::RetryPolicy {
        retry_on: "5xx".to_owned(),
        num_retries: Some(envoy_types::pb::google::protobuf::UInt32Value { value: 2 }),
        ..Default::default()
    };
    to("/", route::RouteAction { retry_policy: Some(retry), ..action("outbound|9080||reviews.example") })
}

/// Routes to `backend`, retried twice on 5xx, on a listener that is traced.
async fn traced(sampling: f64, backend: SocketAddr, collector: SocketAddr, logged: Option<&str>) -> World {
    let mut world = World::new("0.0.0.0:0");
    world.cluster("outbound|9080||reviews.example", &[backend]);
    world.cluster("zipkin", &[collector]);
    world.routes(vec![retried()]);
    let filter = "envoy.filters.network.http_connection_manager";
    let listener = network_listener("0.0.0.0", world.port, filter, any(&manager(world.port, sampling, logged)));
    let name = format!("0.0.0.0_{}", world.port);
    assert_eq!(world.deliver(names::LISTENER, &[(&*name, listener)]), [""; 0]);
    tokio::spawn(mesh_proxy::telemetry::zipkin::run(Arc::clone(&world.shared)));
    world
}

async fn next<T>(receiver: &mut mpsc::UnboundedReceiver<T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), receiver.recv()).await.expect("in time").expect("open")
}

/// Returns when the page of metrics says so.
async fn counted(world: &World, line: &str) {
    let counted = async {
        while !world.shared.metrics.encode(&world.shared.telemetry).contains(line) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), counted).await.expect("counted");
}

#[tokio::test]
async fn a_failed_request_is_a_span_that_says_what_happened() {
    let ((backend, mut asked), (collector, mut posts)) = (server(503).await, server(202).await);
    let world = traced(100.0, backend, collector, None).await;
    let mut client = world.client().await;
    let parent = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=b")];
    assert_eq!(client.get("/reviews/0?a=b", &parent).await.status, 503);
    let (post, body) = next(&mut posts).await;
    assert_eq!(
        (post.method.as_str(), post.uri.path(), post.headers["host"].as_bytes()),
        ("POST", "/api/v2/spans", &b"collector"[..])
    );
    let spans: Value = serde_json::from_slice(&body).expect("JSON");
    let span = &spans[0];
    assert_eq!(spans.as_array().map(Vec::len), Some(1), "{spans}");
    assert_eq!((&span["traceId"], &span["parentId"]), (&"0af7651916cd43dd8448eb211c80319c".into(), &"b7ad6b7169203331".into()));
    assert_eq!((&span["name"], &span["kind"]), (&"reviews.example:9080/*".into(), &"CLIENT".into()));
    for (tag, value) in [
        ("http.status_code", "503"),
        ("retry.count", "2"),
        ("response_flags", "URX"),
        ("upstream_cluster", "outbound|9080||reviews.example"),
        ("istio.canonical_service", "productpage"),
        ("http.url", "http://reviews:9080/reviews/0?a=b"),
        ("error", "true"),
    ] {
        assert_eq!(span["tags"][tag], value, "{tag}: {span}");
    }
    let span_id = span["id"].as_str().expect("an id");
    for _ in 0..3 {
        let (sent, _) = next(&mut asked).await;
        let header = |name: &str| sent.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!((header("x-b3-spanid"), header("x-b3-sampled"), header("tracestate")), (span_id, "1", "a=b"));
        assert_eq!(header("traceparent"), format!("00-0af7651916cd43dd8448eb211c80319c-{span_id}-01"));
        assert_eq!(header("x-request-id"), span["tags"]["guid:x-request-id"].as_str().expect("an id"));
    }
    counted(&world, "mesh_proxy_spans_reported_total 1").await;
}

/// The manager of a port that is a hop of its own.
fn hop(port: u16) -> hcm::HttpConnectionManager {
    let mut manager = manager(port, 100.0, None);
    let tracing = manager.tracing.as_mut().expect("traced");
    tracing.spawn_upstream_span = Some(BoolValue { value: true });
    let Some(trace::tracing::http::ConfigType::TypedConfig(provider)) =
        tracing.provider.as_mut().and_then(|provider| provider.config_type.as_mut())
    else {
        panic!("a provider")
    };
    let zipkin = trace::ZipkinConfig::decode(&*provider.value).expect("Zipkin");
    *provider = any(&trace::ZipkinConfig { shared_span_context: Some(BoolValue { value: false }), ..zipkin });
    manager
}

#[tokio::test]
async fn a_gateway_tells_of_what_came_and_of_each_attempt_below_it() {
    let ((backend, mut asked), (collector, mut posts)) = (server(503).await, server(202).await);
    let mut world = World::new("0.0.0.0:0");
    world.cluster("outbound|9080||reviews.example", &[backend]);
    world.cluster("zipkin", &[collector]);
    let address = crate::gateway::free();
    let filter = "envoy.filters.network.http_connection_manager";
    let chains = network_listener("127.0.0.1", address.port(), filter, any(&hop(address.port()))).filter_chains;
    let (name, message) = crate::gateway::gateway(address, chains);
    assert_eq!(world.deliver(names::LISTENER, &[(&*name, message)]), [""; 0]);
    let all = route::VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![retried()],
        ..Default::default()
    };
    let name = address.port().to_string();
    let table = route::RouteConfiguration { name: name.clone(), virtual_hosts: vec![all], ..Default::default() };
    assert_eq!(world.deliver(names::ROUTE, &[(&*name, table)]), [""; 0]);
    tokio::spawn(mesh_proxy::telemetry::zipkin::run(Arc::clone(&world.shared)));
    drop(crate::gateway::dial(address).await);
    assert_eq!(
        Client::to(address.port()).await.get("/reviews/0", &[("b3", "0af7651916cd43dd-b7ad6b7169203331-1")]).await.status,
        503
    );
    let mut spans: Vec<Value> = Vec::new();
    while spans.len() < 4 {
        let batch: Vec<Value> = serde_json::from_slice(&next(&mut posts).await.1).expect("JSON");
        spans.extend(batch);
    }
    let of_kind = |kind: &str| spans.iter().filter(|span| span["kind"] == kind).collect::<Vec<_>>();
    let (servers, clients) = (of_kind("SERVER"), of_kind("CLIENT"));
    let [request] = servers.as_slice() else { panic!("{spans:?}") };
    assert_eq!(
        (&request["traceId"], &request["parentId"]),
        (&"0af7651916cd43dd".into(), &"b7ad6b7169203331".into()),
        "{request}"
    );
    assert_eq!(request["remoteEndpoint"], serde_json::json!({"serviceName": "", "ipv4": "127.0.0.1"}));
    assert_eq!((&request["tags"]["http.status_code"], &request["tags"]["response_flags"]), (&"503".into(), &"URX".into()));
    assert_eq!(clients.len(), 3, "{spans:?}");
    let mut turns = Vec::new();
    for span in clients {
        assert_eq!((&span["traceId"], &span["parentId"]), (&request["traceId"], &request["id"]), "{span}");
        assert_eq!(
            (&span["name"], &span["tags"]["error"]),
            (&"router outbound|9080||reviews.example egress".into(), &"true".into())
        );
        assert_eq!((&span["tags"]["http.status_code"], &span["tags"]["response_flags"]), (&"503".into(), &"-".into()), "{span}");
        assert_eq!(span["remoteEndpoint"]["port"], backend.port());
        turns.push(span["tags"]["retry.count"].as_str().unwrap_or("0").to_owned());
        // The endpoint was told of its own attempt.
        let (sent, _) = next(&mut asked).await;
        let header = |name: &str| sent.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let told = spans.iter().find(|span| span["id"] == header("x-b3-spanid").as_str()).expect("a span that is known");
        assert_eq!((&told["kind"], told["parentId"].as_str()), (&"CLIENT".into(), Some(&*header("x-b3-parentspanid"))));
        assert_eq!(
            header("b3"),
            format!("{}-{}-1-{}", header("x-b3-traceid"), header("x-b3-spanid"), header("x-b3-parentspanid"))
        );
    }
    turns.sort();
    assert_eq!(turns, ["0", "1", "2"]);
}

#[tokio::test]
async fn what_is_not_sampled_is_propagated_and_not_reported() {
    let ((backend, mut asked), (collector, mut posts)) = (server(200).await, server(202).await);
    let world = traced(0.0, backend, collector, None).await;
    let mut client = world.client().await;
    client.get("/unsampled", &[]).await;
    client.get("/refused", &[("x-b3-sampled", "0"), ("x-envoy-force-trace", "1")]).await;
    // From a stranger, as for Envoy: he may not force it by a proxy's header, but ask for it.
    client.get("/stranger", &[("x-envoy-force-trace", "1")]).await;
    client.get("/forced", &[("x-client-trace-id", "1")]).await;
    for (path, sampled) in [("/unsampled", "0"), ("/refused", "0"), ("/stranger", "0"), ("/forced", "1")] {
        let (sent, _) = next(&mut asked).await;
        assert_eq!((sent.uri.path(), sent.headers["x-b3-sampled"].as_bytes()), (path, sampled.as_bytes()));
    }
    let spans: Value = serde_json::from_slice(&next(&mut posts).await.1).expect("JSON");
    assert_eq!(spans.as_array().map(Vec::len), Some(1), "{spans}");
    assert!(spans[0]["tags"]["http.url"].as_str().is_some_and(|url| url.ends_with("/forced")), "{spans}");
}

#[tokio::test]
async fn an_absent_collector_costs_spans_and_nothing_else() {
    let backend = Backend::new("v1").await;
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    let world = traced(100.0, backend.address, gone, None).await;
    assert_eq!(world.client().await.get("/", &[]).await.status, 200);
    counted(&world, "spans_dropped_total{reason=\"unreachable\"} 1").await;
}

#[tokio::test]
async fn a_line_per_request_and_both_reporters() {
    let backend = Backend::new("v1").await;
    let format = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
                  %BYTES_RECEIVED% %UPSTREAM_HOST% %DYNAMIC_METADATA(mesh.source:workload)%\n";
    let world = traced(0.0, backend.address, backend.address, Some(format)).await;
    let (reader, writer) = std::io::pipe().expect("pipe");
    world.shared.telemetry.log.start(writer).expect("a thread");
    let mut client: Client = world.client().await;
    let request = Request::post("/a?b").header("host", "h").body(Full::from("12345")).expect("valid");
    assert_eq!(client.send(request).await.status, 200);
    assert_eq!(client.get("/busy", &[]).await.status, 503);
    let lines = tokio::task::spawn_blocking(move || {
        use std::io::BufRead;
        std::io::BufReader::new(reader).lines().take(2).map(|line| line.expect("a line")).collect::<Vec<_>>()
    });
    let lines = tokio::time::timeout(Duration::from_secs(20), lines).await.expect("in time").expect("read");
    let (to, pod) = (backend.address, "productpage.instance-1");
    assert_eq!(
        lines,
        [format!("POST /a?b 200 - via_upstream 5 {to} {pod}"), format!("GET /busy 503 URX via_upstream 0 {to} {pod}"),]
    );
    let page = world.shared.metrics.encode(&world.shared.telemetry);
    for (reporter, code) in [("source", 200), ("source", 503), ("destination", 200), ("destination", 503)] {
        let found = page.lines().any(|line| {
            line.starts_with("istio_requests_total")
                && line.contains(&format!("reporter=\"{reporter}\""))
                && line.contains(&format!("response_code=\"{code}\""))
                && line.contains("source_workload=\"productpage\"")
                && line.ends_with(" 1")
        });
        assert!(found, "{reporter} {code}: {page}");
    }
}
