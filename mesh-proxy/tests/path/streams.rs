//! HTTP/2 streams that last, are big, or are cut: flow control from end to end, and resets in both directions.

use super::V1;
use super::h2::http2;
use super::raw::{LONG, Stage};
use super::world::{World, action, to};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use envoy_types::pb::envoy::config::route::v3::RouteAction;
use envoy_types::pb::google::protobuf::UInt32Value;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt};
use h2::{Reason, client, server};
use http::{HeaderMap, Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// What is sent where nobody reads: far more than all windows and socket buffers on the way.
const BIG: usize = 24 * 1024 * 1024;
const BLOCK: usize = 16 * 1024;

type Asked = (Request<h2::RecvStream>, server::SendResponse<Bytes>);

/// An endpoint whose streams the test answers itself, one after another.
async fn endpoint() -> (SocketAddr, mpsc::Receiver<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (sender, streams) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("set");
            let mut sender = sender.clone();
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.expect("handshake");
                while let Some(Ok(asked)) = connection.accept().await {
                    sender.send(asked).await.expect("the test lives");
                }
            });
        }
    });
    (address, streams)
}

async fn world() -> (World, mpsc::Receiver<Asked>) {
    let (address, streams) = endpoint().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[address], |cluster| http2(cluster, None));
    world.routes(vec![to("/", action(V1))]);
    (world, streams)
}

async fn connect(world: &World) -> client::SendRequest<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    stream.set_nodelay(true).expect("set");
    let (sender, connection) = client::handshake(stream).await.expect("handshake");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender.ready().await.expect("ready")
}

fn call() -> Request<()> {
    let request = Request::post("http://reviews:9080/shop.Reviews/Talk");
    request.header("content-type", "application/grpc").header("te", "trailers").body(()).expect("valid")
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).expect("valid")
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("in time")
}

/// The next bytes, whose room is given back.
async fn read(body: &mut h2::RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let data = soon(body.data()).await?;
    if let Ok(data) = &data {
        body.flow_control().release_capacity(data.len()).expect("was taken");
    }
    Some(data)
}

fn status(code: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), code.parse().expect("a value"))])
}

#[tokio::test]
async fn sixty_messages_go_each_way_in_turn() {
    let (world, mut streams) = world().await;
    let mut sender = connect(&world).await;
    let (response, mut talk) = sender.send_request(call(), false).expect("sent");
    let (request, mut respond) = soon(streams.next()).await.expect("a stream");
    let mut heard = request.into_body();
    let mut answer = respond.send_response(head(), false).expect("answered");
    let mut read_back = soon(response).await.expect("a head, before the request has ended").into_body();
    for round in 0..60_usize {
        let question = Bytes::from(format!("question {round}"));
        talk.send_data(question.clone(), false).expect("sent");
        assert_eq!(read(&mut heard).await.expect("more").expect("data"), question);
        let said = Bytes::from(format!("answer {round}"));
        answer.send_data(said.clone(), false).expect("sent");
        assert_eq!(read(&mut read_back).await.expect("more").expect("data"), said);
    }
    talk.send_data(Bytes::new(), true).expect("ended");
    assert!(read(&mut heard).await.is_none_or(|data| data.is_ok_and(|data| data.is_empty())));
    answer.send_trailers(status("0")).expect("sent");
    assert!(read(&mut read_back).await.is_none());
    assert_eq!(soon(read_back.trailers()).await.expect("trailers"), Some(status("0")));
}

#[tokio::test]
async fn an_endpoint_streams_and_ends_with_its_status() {
    let (world, mut streams) = world().await;
    let mut sender = connect(&world).await;
    let (response, _end) = sender.send_request(call(), true).expect("sent");
    let (_request, mut respond) = soon(streams.next()).await.expect("a stream");
    let mut answer = respond.send_response(head(), false).expect("answered");
    let mut body = soon(response).await.expect("a head").into_body();
    for message in 0..200_u8 {
        answer.send_data(Bytes::from(vec![message; 100]), false).expect("sent");
    }
    answer.send_trailers(status("8")).expect("sent");
    let mut all = Vec::new();
    while let Some(data) = read(&mut body).await {
        all.extend(data.expect("data"));
    }
    assert_eq!(all.len(), 200 * 100);
    assert!((0..200_u8).all(|message| all[usize::from(message) * 100..][..100].iter().all(|byte| *byte == message)));
    assert_eq!(soon(body.trailers()).await.expect("trailers"), Some(status("8")));
}

/// Sends all of it as far as there is room; says how much could be sent when nothing moved for a while, and goes on to the end.
async fn send_all(mut stream: h2::SendStream<Bytes>, stalled: tokio::sync::oneshot::Sender<usize>) {
    let mut stalled = Some(stalled);
    let mut sent = 0;
    while sent < BIG {
        stream.reserve_capacity(BLOCK);
        let room = loop {
            let room = futures::future::poll_fn(|cx| stream.poll_capacity(cx));
            match tokio::time::timeout(Duration::from_millis(500), room).await {
                Ok(room) => break room.expect("open").expect("room"),
                Err(_elapsed) => stalled.take().into_iter().for_each(|stalled| stalled.send(sent).expect("the test waits")),
            }
        };
        let length = room.min(BIG - sent).min(BLOCK);
        stream.send_data(Bytes::from(vec![7; length]), false).expect("sent");
        sent += length;
    }
    stream.send_data(Bytes::new(), true).expect("ended");
}

async fn count(mut body: h2::RecvStream) -> usize {
    let mut length = 0;
    while let Some(data) = read(&mut body).await {
        length += data.expect("data").len();
    }
    length
}

#[tokio::test]
async fn what_nobody_reads_is_not_taken_and_all_of_it_arrives_when_somebody_does() {
    let (world, mut streams) = world().await;
    let mut sender = connect(&world).await;
    for up in [true, false] {
        let (response, request_body) = sender.send_request(call(), false).expect("sent");
        let (request, mut respond) = soon(streams.next()).await.expect("a stream");
        let answer = respond.send_response(head(), false).expect("answered");
        let answer_body = soon(response).await.expect("a head").into_body();
        let (mut idle, from, to) =
            if up { (answer, request_body, request.into_body()) } else { (request_body, answer, answer_body) };
        let (told, stalled) = tokio::sync::oneshot::channel();
        let sending = tokio::spawn(send_all(from, told));
        let taken = soon(stalled).await.expect("it stalls before all is sent");
        assert!(taken < BIG / 2, "{taken} bytes were taken for a reader that does not read");
        assert_eq!(soon(count(to)).await, BIG);
        soon(sending).await.expect("sent");
        idle.send_data(Bytes::new(), true).expect("ended");
    }
}

#[tokio::test]
async fn the_listener_says_how_many_streams_a_client_may_have() {
    let (address, mut streams) = endpoint().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[address], |cluster| http2(cluster, None));
    world.routes_with(vec![to("/", action(V1))], |manager| {
        let max_concurrent_streams = Some(UInt32Value { value: 2 });
        manager.http2_protocol_options = Some(Http2ProtocolOptions { max_concurrent_streams, ..Default::default() });
    });
    let mut sender = connect(&world).await;
    // The first answer comes after the proxy's settings.
    let (response, _end) = sender.send_request(call(), true).expect("sent");
    let (_request, mut respond) = soon(streams.next()).await.expect("a stream");
    respond.send_response(head(), true).expect("answered");
    soon(response).await.expect("a head");
    let _waiting: Vec<_> = (0..3).map(|_| sender.clone().send_request(call(), true).expect("queued")).collect();
    let (_request, mut first) = soon(streams.next()).await.expect("a stream");
    let _second = soon(streams.next()).await.expect("a stream");
    let third = tokio::time::timeout(Duration::from_millis(100), streams.next()).await;
    assert!(third.is_err(), "there is room for two");
    first.send_response(head(), true).expect("answered");
    soon(streams.next()).await.expect("room again");
}

#[tokio::test]
async fn a_client_that_gives_up_is_heard_at_the_endpoint() {
    let (world, mut streams) = world().await;
    let mut sender = connect(&world).await;
    for answered in [false, true] {
        let (response, mut talk) = sender.send_request(call(), false).expect("sent");
        let (request, mut respond) = soon(streams.next()).await.expect("a stream");
        if answered {
            let _answer = respond.send_response(head(), false).expect("answered");
            let _head = soon(response).await.expect("a head");
            talk.send_reset(Reason::CANCEL);
            assert!(read(&mut request.into_body()).await.expect("told").is_err());
        } else {
            talk.send_reset(Reason::CANCEL);
            let ended = futures::future::poll_fn(|cx| respond.poll_reset(cx));
            assert_eq!(soon(ended).await.expect("told"), Reason::CANCEL);
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_gives_up_is_heard_at_the_client() {
    let (world, mut streams) = world().await;
    let mut sender = connect(&world).await;
    let plain = || Request::get("http://reviews:9080/").body(()).expect("valid");
    let (response, _end) = sender.send_request(plain(), true).expect("sent");
    let (_request, mut respond) = soon(streams.next()).await.expect("a stream");
    respond.send_reset(Reason::INTERNAL_ERROR);
    let (head_before, body) = soon(response).await.expect("answered for it").into_parts();
    assert_eq!((head_before.status, count(body).await > 0), (http::StatusCode::SERVICE_UNAVAILABLE, true));
    // After the head there is nothing to say any more: the stream is cut, and must not look whole.
    let (response, _end) = sender.send_request(plain(), true).expect("sent");
    let (_request, mut respond) = soon(streams.next()).await.expect("a stream");
    let mut answer = respond.send_response(head(), false).expect("answered");
    answer.send_data(Bytes::from_static(b"half"), false).expect("sent");
    let mut body = soon(response).await.expect("a head").into_body();
    assert_eq!(read(&mut body).await.expect("more").expect("data"), "half");
    answer.send_reset(Reason::INTERNAL_ERROR);
    assert!(read(&mut body).await.expect("not the end").is_err());
    // The connection is none the worse.
    let (response, _end) = sender.send_request(plain(), true).expect("sent");
    let (_request, mut respond) = soon(streams.next()).await.expect("a stream");
    respond.send_response(head(), true).expect("answered");
    assert_eq!(soon(response).await.expect("a head").status(), 200);
}

#[tokio::test]
async fn what_an_endpoint_that_goes_away_has_not_begun_is_asked_elsewhere_with_its_whole_body_or_not_at_all() {
    for kept in [true, false] {
        gone(kept).await;
    }
}

async fn until_finished<T>(task: &tokio::task::JoinHandle<T>) {
    let wait = async {
        while !task.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    soon(wait).await;
}

/// `kept`: the route's policy keeps the body for another attempt.
async fn gone(kept: bool) {
    let (stage, leaving) = Stage::new().await;
    let (address, mut streams) = endpoint().await;
    let mut world = World::new("0.0.0.0:0");
    // The first turn may be either's: one request or the next meets the endpoint that leaves.
    world.cluster_with(V1, &[leaving, address], |cluster| http2(cluster, None));
    let retry_policy = if kept { super::retries("refused-stream") } else { None };
    world.routes(vec![to("/", RouteAction { retry_policy, ..action(V1) })]);
    let left = Arc::new(AtomicBool::new(false));
    let leaving = Arc::clone(&left);
    let leaves = tokio::spawn(async move {
        let mut connection = stage.next().await;
        // The proxy's preface, settings and more; then: no stream was begun, and none will be.
        connection.bytes(24).await;
        let mut seen = Vec::new();
        while !seen.ends_with(b"once") {
            seen.extend(connection.bytes(1).await);
        }
        connection.say([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        leaving.store(true, Ordering::SeqCst);
        connection.say([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await;
        connection.rest().await;
    });
    let mut sender = connect(&world).await;
    while !left.load(Ordering::SeqCst) {
        // With a body: what may have been begun could not be sent again.
        let (response, mut talk) = sender.send_request(call(), false).expect("sent");
        talk.send_data(Bytes::from_static(b"once"), true).expect("sent");
        let asked = tokio::spawn(response);
        tokio::select! {
            stream = streams.next() => {
                let (request, mut respond) = stream.expect("a stream");
                assert_eq!(count(request.into_body()).await, 4);
                respond.send_response(head(), true).expect("answered");
                assert!(!soon(asked).await.expect("no panic").expect("a head").headers().contains_key("grpc-status"));
            }
            () = until_finished(&asked) => {
                let answer = asked.await.expect("no panic").expect("a head");
                assert!(!kept, "answered without the endpoint that stays: {answer:?}");
                assert_eq!(answer.headers()["grpc-status"], "14");
            }
        }
    }
    leaves.await.expect("it was asked");
}
