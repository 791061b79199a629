//! HTTP/2 towards endpoints: shared connections, streams that do not fit, endpoints that go away; trailers and streaming.

use super::V1;
use super::world::{World, action, any, to};
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options as options;
use envoy_types::pb::google::protobuf::UInt32Value;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{HeaderMap, HeaderValue, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

type Item = Result<Frame<Bytes>, Infallible>;
type Channel = StreamBody<futures::channel::mpsc::UnboundedReceiver<Item>>;

/// A body that is written as the test goes on.
fn channel() -> (UnboundedSender<Item>, Channel) {
    let (sender, receiver) = unbounded();
    (sender, StreamBody::new(receiver))
}

fn data(text: &'static str) -> Item {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), HeaderValue::from_static("7"))])
}

pub fn upstream_protocol(cluster: &mut cds::Cluster, protocol: options::UpstreamProtocolOptions) {
    let message = HttpProtocolOptions { upstream_protocol_options: Some(protocol), ..Default::default() };
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster.typed_extension_protocol_options.insert(name.to_owned(), any(&message));
}

pub fn http2(cluster: &mut cds::Cluster, max_streams: Option<u32>) {
    let max_concurrent_streams = max_streams.map(|value| UInt32Value { value });
    let http2 = core::Http2ProtocolOptions { max_concurrent_streams, ..Default::default() };
    let protocol_config = Some(options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(http2));
    let explicit = options::ExplicitHttpConfig { protocol_config };
    upstream_protocol(cluster, options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit));
}

/// Speaks HTTP/2 only. Echoes bodies with their trailers at `/echo`; else answers when it is let.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    here: Arc<AtomicUsize>,
    tickets: Arc<Semaphore>,
    /// Ends all connections in good order.
    go_away: Arc<Notify>,
}

impl Server {
    async fn new(max_streams: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let server = Self {
            address: listener.local_addr().expect("address"),
            connections: Arc::default(),
            here: Arc::default(),
            tickets: Arc::new(Semaphore::new(0)),
            go_away: Arc::default(),
        };
        let (connections, here) = (Arc::clone(&server.connections), Arc::clone(&server.here));
        let (tickets, go_away) = (Arc::clone(&server.tickets), Arc::clone(&server.go_away));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                connections.fetch_add(1, Ordering::SeqCst);
                let (here, tickets) = (Arc::clone(&here), Arc::clone(&tickets));
                let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&here), Arc::clone(&tickets)));
                let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                builder.max_concurrent_streams(max_streams);
                let go_away = Arc::clone(&go_away);
                tokio::spawn(async move {
                    let serving = builder.serve_connection(TokioIo::new(stream), service);
                    tokio::pin!(serving);
                    tokio::select! {
                        _ = &mut serving => {}
                        () = go_away.notified() => {
                            serving.as_mut().graceful_shutdown();
                            let _ = serving.await;
                        }
                    }
                });
            }
        });
        server
    }

    async fn until(&self, here: usize) {
        let wait = async {
            while self.here.load(Ordering::SeqCst) != here {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time");
    }
}

/// An endpoint that speaks HTTP/2 only and echoes bodies at `/echo`.
pub async fn echo() -> SocketAddr {
    Server::new(None).await.address
}

type Echo = http_body_util::Either<Incoming, Full<Bytes>>;

async fn answer(
    request: Request<Incoming>,
    here: Arc<AtomicUsize>,
    tickets: Arc<Semaphore>,
) -> Result<Response<Echo>, Infallible> {
    let (parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let said = format!("{:?} {} {authority}", parts.version, parts.uri.path());
    let te = parts.headers.get("te").cloned();
    let echo = if parts.uri.path().ends_with("echo") {
        Echo::Left(body)
    } else {
        here.fetch_add(1, Ordering::SeqCst);
        tickets.acquire().await.expect("open").forget();
        here.fetch_sub(1, Ordering::SeqCst);
        Echo::Right(Full::from("let"))
    };
    let mut response = Response::builder().header("x-said", said).header("trailer", "x-end").body(echo).expect("valid");
    if let Some(te) = te {
        response.headers_mut().insert("x-te", te);
    }
    Ok(response)
}

async fn http2_client<B>(world: &World) -> http2::SendRequest<B>
where
    B: http_body::Body<Data = Bytes> + Send + 'static + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://reviews:9080{path}")).body(Full::default()).expect("valid")
}

/// So many requests at once, all of which come to the endpoint; so many connections they take.
async fn connections(ours: Option<u32>, theirs: Option<u32>, requests: usize) -> usize {
    let server = Server::new(theirs).await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[server.address], |cluster| http2(cluster, ours));
    world.routes(vec![to("/", action(V1))]);
    let sender = http2_client(&world).await;
    // One that tells the proxy what the endpoint allows.
    server.tickets.add_permits(1);
    let response = sender.clone().send_request(get("/")).await.expect("response");
    assert_eq!(response.headers()["x-said"], "HTTP/2.0 / reviews:9080");
    let asked: Vec<_> = (0..requests).map(|_| tokio::spawn(sender.clone().send_request(get("/")))).collect();
    server.until(requests).await;
    server.tickets.add_permits(requests);
    for asked in asked {
        assert_eq!(asked.await.expect("no panic").expect("response").status(), 200);
    }
    server.connections.load(Ordering::SeqCst)
}

#[tokio::test]
async fn requests_share_a_connection_as_long_as_they_fit() {
    assert_eq!(connections(None, None, 30).await, 1);
    assert_eq!(connections(Some(2), None, 5).await, 3);
    assert_eq!(connections(None, Some(3), 5).await, 2, "the endpoint's own limit");
}

#[tokio::test]
async fn a_burst_waits_for_one_connection() {
    let server = Server::new(None).await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[server.address], |cluster| http2(cluster, None));
    world.routes(vec![to("/", action(V1))]);
    let sender = http2_client(&world).await;
    let asked: Vec<_> = (0..20).map(|_| tokio::spawn(sender.clone().send_request(get("/")))).collect();
    server.until(20).await;
    server.tickets.add_permits(20);
    for asked in asked {
        assert_eq!(asked.await.expect("no panic").expect("response").status(), 200);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn streams_go_on_in_both_directions_and_end_with_trailers() {
    let server = Server::new(None).await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[server.address], |cluster| http2(cluster, None));
    world.routes(vec![to("/", action(V1))]);
    let mut sender = http2_client(&world).await;
    let (write, body) = channel();
    let request = Request::post("http://reviews:9080/echo").header("te", "trailers").header("content-type", "application/grpc");
    let response = sender.send_request(request.body(body).expect("valid"));
    write.unbounded_send(data("one")).expect("open");
    let response = response.await.expect("its head comes before the request has ended");
    assert_eq!((response.status().as_u16(), &response.headers()["x-te"]), (200, &HeaderValue::from_static("trailers")));
    let mut answer = response.into_body();
    for text in ["two", "three"] {
        let frame = answer.frame().await.expect("more").expect("frame");
        assert!(frame.is_data());
        write.unbounded_send(data(text)).expect("open");
    }
    assert_eq!(answer.frame().await.expect("more").expect("frame").into_data().expect("data"), "three");
    write.unbounded_send(Ok(Frame::trailers(trailers()))).expect("open");
    drop(write);
    let last = answer.frame().await.expect("more").expect("frame");
    assert_eq!(last.into_trailers().expect("trailers"), trailers());
    assert!(answer.frame().await.is_none());
}

#[tokio::test]
async fn an_endpoint_that_goes_away_is_asked_on_a_new_connection() {
    let server = Server::new(None).await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[server.address], |cluster| http2(cluster, None));
    world.routes(vec![to("/", action(V1))]);
    let mut sender = http2_client(&world).await;
    let first = tokio::spawn(sender.send_request(get("/")));
    server.until(1).await;
    for expected in 2..5 {
        server.go_away.notify_waiters();
        let next = tokio::spawn(sender.send_request(get("/")));
        server.until(expected).await;
        let open = server.connections.load(Ordering::SeqCst);
        assert!(open <= expected, "{open}");
        assert!(!next.is_finished());
    }
    assert!(server.connections.load(Ordering::SeqCst) > 1, "the old one takes nothing new");
    server.tickets.add_permits(10);
    assert_eq!(first.await.expect("no panic").expect("finished on the old connection").status(), 200);
}

#[tokio::test]
async fn the_clients_protocol_may_be_the_endpoints() {
    let server = Server::new(None).await;
    let mut world = World::new("0.0.0.0:0");
    let downstream = options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(Default::default());
    world.cluster_with(V1, &[server.address], |cluster| upstream_protocol(cluster, downstream));
    world.routes(vec![to("/", action(V1))]);
    server.tickets.add_permits(10);
    let response = http2_client(&world).await.send_request(get("/")).await.expect("response");
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
    // It speaks HTTP/2 only: what comes back is no HTTP/1.
    assert_eq!(world.client().await.get("/", &[]).await.status, 502);
}

#[tokio::test]
async fn trailers_pass_over_http1_where_they_are_announced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            let service = hyper::service::service_fn(|request| answer(request, Arc::default(), Arc::new(Semaphore::new(0))));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[address]);
    world.routes(vec![to("/", action(V1))]);
    let stream = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
    tokio::spawn(connection);
    let (write, body) = channel();
    write.unbounded_send(data("one")).expect("open");
    write.unbounded_send(Ok(Frame::trailers(trailers()))).expect("open");
    drop(write);
    let request = Request::post("/echo").header("host", "reviews").header("te", "trailers").header("trailer", "x-end");
    let response = sender.send_request(request.body(body).expect("valid")).await.expect("response");
    let whole = response.into_body().collect().await.expect("whole");
    assert_eq!(whole.trailers(), Some(&trailers()));
    assert_eq!(whole.to_bytes(), "one");
}
