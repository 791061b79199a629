//! What endpoints answer by HTTP/1, as bytes: how a response ends, which connections carry another request, and what is no HTTP.

use super::V1;
use super::raw::{Raw, Stage};
use super::world::{World, action, to};

const OK: &str = "HTTP/1.1 200 OK\r\n";

async fn world() -> (World, Stage) {
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[address]);
    world.routes(vec![to("/", action(V1))]);
    (world, stage)
}

async fn ask(client: &mut Raw, method: &str) {
    client.say(format!("{method} / HTTP/1.1\r\nhost: reviews\r\n\r\n")).await;
}

#[tokio::test]
async fn a_connection_is_used_again_where_the_response_has_an_end_and_only_there() {
    // What is answered, the body that the client gets, and whether the connection stays.
    let cases: [(&str, String, &str, bool); 11] = [
        ("GET", format!("{OK}content-length: 5\r\n\r\nhello"), "hello", true),
        ("GET", format!("{OK}content-length: 5, 5\r\n\r\nhello"), "hello", true),
        (
            "GET",
            format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nx: y\r\n\r\n{OK}content-length: 2\r\n\r\nok"),
            "ok",
            true,
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "", true),
        ("HEAD", format!("{OK}content-length: 5\r\n\r\n"), "", true),
        ("GET", "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok".to_owned(), "ok", true),
        ("GET", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(), "ok", false),
        ("GET", format!("{OK}connection: x, Close\r\ncontent-length: 2\r\n\r\nok"), "ok", false),
        ("GET", format!("{OK}content-length: 2\r\n\r\nok and more"), "ok", false),
        ("GET", format!("{OK}connection: keep-alive\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"), "", false),
        ("GET", format!("{OK}content-length: 2\r\n\r\nok{OK}content-length: 0\r\n\r\n"), "ok", false),
    ];
    for (method, answer, body, stays) in cases {
        let (world, stage) = world().await;
        let mut client = Raw::to(world.port).await;
        ask(&mut client, method).await;
        let mut endpoint = stage.next().await;
        endpoint.head().await;
        endpoint.say(&answer).await;
        client.head().await;
        assert_eq!(client.bytes(body.len()).await, body.as_bytes(), "{answer:?}");
        ask(&mut client, "GET").await;
        if !stays {
            assert_eq!(endpoint.rest().await, "", "the proxy ends it: {answer:?}");
            endpoint = stage.next().await;
        }
        assert!(endpoint.head().await.starts_with("get / "), "{answer:?}");
        endpoint.say(format!("{OK}content-length: 4\r\n\r\nnext")).await;
        assert_eq!(client.answer().await.1, "next", "{answer:?}");
    }
}

#[tokio::test]
async fn chunks_and_trailers_pass_byte_by_byte() {
    let (world, stage) = world().await;
    let mut client = Raw::to(world.port).await;
    client.say("GET / HTTP/1.1\r\nhost: reviews\r\nte: trailers\r\n\r\n").await;
    let mut endpoint = stage.next().await;
    for round in 0..3 {
        endpoint.head().await;
        endpoint.0.set_nodelay(true).expect("nodelay");
        let answer = format!(
            "{OK}transfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nx-end: {round}\r\n\r\n"
        );
        for byte in answer.bytes() {
            endpoint.say([byte]).await;
            tokio::task::yield_now().await;
        }
        assert!(client.head().await.contains("transfer-encoding: chunked"));
        let (mut data, mut line) = (String::new(), String::new());
        // As chunks, however they are cut.
        while !line.ends_with("0\r\n") {
            line = chunk_line(&mut client).await;
            let size = usize::from_str_radix(line.trim(), 16).expect("a length");
            if size > 0 {
                data.push_str(&String::from_utf8(client.bytes(size + 2).await).expect("text"));
            }
        }
        assert_eq!(data.replace("\r\n", ""), "abcdefgh");
        assert_eq!(chunk_line(&mut client).await, format!("x-end: {round}\r\n"));
        assert_eq!(chunk_line(&mut client).await, "\r\n");
        client.say("GET / HTTP/1.1\r\nhost: reviews\r\nte: trailers\r\n\r\n").await;
    }
}

async fn chunk_line(client: &mut Raw) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        line.extend(client.bytes(1).await);
    }
    String::from_utf8(line).expect("text")
}

#[tokio::test]
async fn a_response_without_a_length_ends_with_its_connection() {
    let (world, stage) = world().await;
    let mut client = Raw::to(world.port).await;
    client.say("GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n").await;
    let mut endpoint = stage.next().await;
    endpoint.head().await;
    endpoint.say(format!("{OK}\r\nall of it")).await;
    drop(endpoint);
    let answer = client.rest().await;
    assert!(answer.contains("all of it") && answer.ends_with("\r\n0\r\n\r\n"), "{answer:?}");
}

#[tokio::test]
async fn what_is_no_http_is_answered_502_and_counted_by_its_name() {
    for (answer, name) in [
        ("SSH-2.0-OpenSSH_9\r\n".to_owned(), "response_head"),
        (format!("{OK}content-length: 5\r\ncontent-length: 6\r\n\r\nhello"), "response_length"),
        (format!("{OK}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), "response_length"),
        ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), "response_coding"),
        (format!("{OK}{}\r\n", "x: y\r\n".repeat(101)), "response_headers_too_many"),
        (format!("{OK}x: {}\r\n\r\n", "y".repeat(60 * 1024)), "response_head_too_large"),
    ] {
        let (world, stage) = world().await;
        let mut client = Raw::to(world.port).await;
        ask(&mut client, "GET").await;
        let mut endpoint = stage.next().await;
        endpoint.head().await;
        endpoint.say(&answer).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.1 502 ") && body.ends_with("reset reason: protocol error"), "{name}: {head}{body}");
        let metrics = world.shared.metrics.encode(&world.shared.telemetry);
        let counted = format!("mesh_proxy_responses_malformed_total{{reason=\"{name}\"}} 1");
        assert!(metrics.contains(&counted) && metrics.contains("response_flags=\"UPE\""), "{name}: {metrics}");
    }
}

#[tokio::test]
async fn a_chunk_that_is_none_ends_the_response_before_its_end() {
    let (world, stage) = world().await;
    let mut client = Raw::to(world.port).await;
    ask(&mut client, "GET").await;
    let mut endpoint = stage.next().await;
    endpoint.head().await;
    endpoint.say(format!("{OK}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")).await;
    client.head().await;
    assert_eq!(client.bytes(10).await, b"5\r\nhello\r\n");
    endpoint.say("xyz\r\n").await;
    assert_eq!(client.rest().await, "", "no end of chunks, which would make it a whole response");
    assert_eq!(endpoint.rest().await, "", "its connection ends too");
    let metrics = world.shared.metrics.encode(&world.shared.telemetry);
    assert!(metrics.contains("mesh_proxy_responses_malformed_total{reason=\"response_chunk\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_body_in_chunks_reaches_the_endpoint_whatever_the_method() {
    let (world, stage) = world().await;
    let mut client = Raw::to(world.port).await;
    let mut endpoint = None;
    for method in ["POST", "GET", "DELETE"] {
        client
            .say(format!("{method} / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
            .await;
        let endpoint = match &mut endpoint {
            Some(endpoint) => endpoint,
            none => none.insert(stage.next().await),
        };
        let head = endpoint.head().await;
        assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("content-length"), "{head}");
        assert_eq!(endpoint.bytes(15).await, b"5\r\nhello\r\n0\r\n\r\n", "{method}");
        endpoint.say(format!("{OK}content-length: 0\r\n\r\n")).await;
        assert!(client.head().await.starts_with("http/1.1 200 "));
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_and_reads_no_further_is_heard() {
    let (world, stage) = world().await;
    let mut client = Raw::to(world.port).await;
    client.say("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 1000000\r\n\r\nbegun").await;
    let mut endpoint = stage.next().await;
    endpoint.head().await;
    endpoint.say("HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 2\r\n\r\nno").await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 413 ") && body == "no", "{head}{body}");
    drop(client);
    endpoint.rest().await;
}
