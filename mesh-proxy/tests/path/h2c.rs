//! HTTP/2 without TLS after an upgrade from HTTP/1.1, as RFC 7540, 3.2 has it and curl does it.

use super::V1;
use super::raw::Raw;
use super::world::{Backend, World, action, to};

const OFFER: &str = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

async fn frame(client: &mut Raw) -> Frame {
    let head = client.bytes(9).await;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Frame { kind: head[3], flags: head[4], stream, payload: client.bytes(length).await }
}

/// The body that is answered on a stream; its head must begin with `:status: 200`, which is one byte.
async fn answer(client: &mut Raw, stream: u32) -> String {
    let mut body = Vec::new();
    loop {
        let next = frame(client).await;
        assert_ne!(next.kind, GOAWAY, "{:?}", next.payload);
        if next.stream != stream {
            continue;
        }
        match next.kind {
            HEADERS => assert_eq!(next.payload[0], 0x88, "status 200"),
            DATA => body.extend(next.payload),
            _ => continue,
        }
        if next.flags & END_STREAM != 0 {
            return String::from_utf8(body).expect("text");
        }
    }
}

/// A GET without Huffman: method and scheme from the static table, path and authority as they are.
fn get(stream: u8, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).expect("short")];
    block.extend(path.bytes());
    block.extend([0x01, 7]);
    block.extend(b"reviews");
    let mut frame = vec![0, 0, u8::try_from(block.len()).expect("short"), HEADERS, 0x5, 0, 0, 0, stream];
    frame.extend(block);
    frame
}

#[tokio::test]
async fn the_request_that_offers_it_is_the_first_stream_and_others_follow() {
    let backend = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[backend.address]);
    world.routes(vec![to("/", action(V1))]);
    let mut client = Raw::to(world.port).await;
    client.say(format!("GET /first?a=b HTTP/1.1\r\nhost: reviews:9080\r\nx: 1\r\n{OFFER}\r\n")).await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 101 ") && head.contains("\r\nupgrade: h2c\r\n"), "{head}");
    client.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    client.say([0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await;
    assert_eq!(frame(&mut client).await.kind, SETTINGS, "the server's preface comes first");
    assert_eq!(answer(&mut client, 1).await, "v1 GET /first?a=b host=reviews:9080 x=1 body=0");
    for stream in [3, 5] {
        client.say(get(stream, "/next")).await;
        assert_eq!(answer(&mut client, stream.into()).await, "v1 GET /next host=reviews x=- body=0");
    }
    // In a stop it is told to go, as any HTTP/2 connection.
    world.shared.drain.begin(super::raw::LONG);
    loop {
        let next = frame(&mut client).await;
        // Between its two words of farewell the proxy makes sure that the first was heard.
        if next.kind == PING {
            client.say([0, 0, 8, PING, 1, 0, 0, 0, 0]).await;
            client.say(next.payload).await;
            break;
        }
    }
    while frame(&mut client).await.kind != GOAWAY {}
    client.rest().await;
    world.ended().await;
}

#[tokio::test]
async fn an_offer_that_cannot_be_taken_is_served_as_it_is() {
    let backend = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[backend.address]);
    world.routes(vec![to("/", action(V1))]);
    let with_body = format!("POST / HTTP/1.1\r\nhost: reviews\r\n{OFFER}content-length: 5\r\n\r\nhello");
    let no_settings = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n".to_owned();
    let old = format!("GET / HTTP/1.1\r\nhost: reviews\r\n{}\r\n", OFFER.replace("Upgrade, ", ""));
    for request in [with_body, no_settings, old] {
        let mut client = Raw::to(world.port).await;
        client.say(&request).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.1 200 ") && body.starts_with("v1 "), "{request}: {head}");
    }
    // Who offers it and then says something else is cut, and does no harm.
    let mut client = Raw::to(world.port).await;
    client.say(format!("GET / HTTP/1.1\r\nhost: reviews\r\n{OFFER}\r\n")).await;
    assert!(client.head().await.starts_with("http/1.1 101 "));
    client.say("GET /smuggled HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert_eq!(client.rest().await, "");
}
