//! TCP: each direction ends by itself, and much goes one way without the other.

use super::raw::{LONG, Raw, Stage};
use super::world::World;
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
                assert!(buffer.iter().all(|byte| usize::from(*byte) == block % 251), "block {block}");
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
        socket.set_linger(Some(std::time::Duration::ZERO)).expect("linger");
        drop(socket);
        assert_eq!(left.rest().await, "", "it ends too");
    }
}
