//! Bytes in bulk: each direction of TCP ends by itself, much goes one way without the other, and nothing is kept for who does not read.

use super::V1;
use super::raw::{LONG, Raw, Stage};
use super::world::{World, action, to};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BLOCK: usize = 64 * 1024;
const BLOCKS: usize = 512;

#[tokio::test]
async fn either_end_may_stop_sending_and_still_listen() {
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    super::tcp_service(&mut world, address);
    for client_first in [true, false] {
        let mut client = Raw::to(world.port).await;
        client.say("client").await;
        let mut server = stage.next().await;
        assert_eq!(server.bytes(6).await, b"client");
        server.say("server").await;
        assert_eq!(client.bytes(6).await, b"server");
        let (first, second) = if client_first { (&mut client, &mut server) } else { (&mut server, &mut client) };
        first.0.shutdown().await.expect("half close");
        assert_eq!(second.rest().await, "", "the end is passed on");
        for _ in 0..3 {
            second.say("more").await;
            assert_eq!(first.bytes(4).await, b"more", "the other direction goes on");
        }
        second.0.shutdown().await.expect("close");
        assert_eq!(first.rest().await, "");
    }
}

#[tokio::test]
async fn much_goes_one_way_and_all_of_it_arrives() {
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    super::tcp_service(&mut world, address);
    for up in [true, false] {
        let mut client = Raw::to(world.port).await;
        client.say("x").await;
        let mut server = stage.next().await;
        server.bytes(1).await;
        let (Raw(mut from), Raw(mut to)) = if up { (client, server) } else { (server, client) };
        let write = async move {
            for block in 0..BLOCKS {
                from.write_all(&[u8::try_from(block % 251).expect("small"); BLOCK]).await.expect("write");
            }
            from.shutdown().await.expect("shutdown");
            from
        };
        let read = async move {
            let mut buffer = vec![0; BLOCK];
            for block in 0..BLOCKS {
                to.read_exact(&mut buffer).await.expect("read");
                assert!(buffer == [u8::try_from(block % 251).expect("small"); BLOCK], "block {block}");
            }
            assert_eq!(to.read(&mut buffer).await.expect("the end"), 0);
        };
        tokio::time::timeout(LONG, async { tokio::join!(write, read) }).await.expect("in time");
    }
}

#[tokio::test]
async fn a_reset_reaches_the_other_end() {
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    super::tcp_service(&mut world, address);
    for of_client in [true, false] {
        let mut client = Raw::to(world.port).await;
        client.say("x").await;
        let mut server = stage.next().await;
        server.bytes(1).await;
        let (dying, mut left) = if of_client { (client, server) } else { (server, client) };
        let socket = socket2::Socket::from(dying.0.into_std().expect("std"));
        socket.set_linger(Some(Duration::ZERO)).expect("linger");
        drop(socket);
        assert_eq!(left.rest().await, "", "it ends too");
    }
}

/// More than all socket buffers on the way can hold, however far the kernel lets them grow.
const BIG: usize = 64 * 1024 * 1024;

/// Writes all of it; says how much was taken when nothing moved for a while, and goes on to the end.
async fn write_all(to: &mut tokio::net::TcpStream, stalled: tokio::sync::oneshot::Sender<usize>) {
    let block = vec![7; BLOCK];
    let (mut sent, mut stalled) = (0, Some(stalled));
    while sent < BIG {
        let length = BLOCK.min(BIG - sent);
        sent += loop {
            match tokio::time::timeout(Duration::from_millis(500), to.write(&block[..length])).await {
                Ok(written) => break written.expect("open"),
                Err(_elapsed) => stalled.take().into_iter().for_each(|stalled| stalled.send(sent).expect("the test waits")),
            }
        };
    }
}

#[tokio::test]
async fn a_body_of_http1_is_not_taken_for_a_reader_that_does_not_read() {
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[address]);
    world.routes(vec![to("/", action(V1))]);
    for up in [true, false] {
        let mut client = Raw::to(world.port).await;
        let (asked, length) = if up { ("POST", BIG) } else { ("GET", 0) };
        client.say(format!("{asked} / HTTP/1.1\r\nhost: reviews\r\ncontent-length: {length}\r\n\r\n")).await;
        let mut server = stage.next().await;
        server.head().await;
        if !up {
            server.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {BIG}\r\n\r\n")).await;
            client.head().await;
        }
        let (told, stalled) = tokio::sync::oneshot::channel();
        let (Raw(mut from), Raw(mut to)) = if up { (client, server) } else { (server, client) };
        let writing = tokio::spawn(async move {
            write_all(&mut from, told).await;
            from
        });
        let taken = tokio::time::timeout(LONG, stalled).await.expect("in time").expect("it stalls before all is sent");
        assert!(taken < BIG * 3 / 4, "{taken} bytes were taken for a reader that does not read");
        let read = async {
            let (mut buffer, expected, mut length) = (vec![0; BLOCK], vec![7; BLOCK], 0);
            while length < BIG {
                let read = to.read(&mut buffer).await.expect("read");
                assert!(read > 0 && buffer[..read] == expected[..read], "at {length}");
                length += read;
            }
            length
        };
        assert_eq!(tokio::time::timeout(LONG, read).await.expect("in time"), BIG);
        drop(writing.await.expect("written"));
    }
}
