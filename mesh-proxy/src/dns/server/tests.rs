//! Answers that wait for the agent: a real broker socket with a fake agent, a resolver on loopback that answers everything.

use super::*;
use crate::broker::Packets;
use crate::broker::fake::FakeAgent;
use crate::dns::core::handler::tests::sample_core;
use crate::dns::core::name::Key;
use crate::dns::core::{samples, wire};
use crate::dns::pods::{self, Pods};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use mesh_common::broker::{Role, ToAgent, ToProxy};
use std::sync::atomic::{AtomicU8, Ordering};

const NAME: &str = "www.example.com.";

struct World {
    server: Arc<Server>,
    pod: Pod,
    agent: FakeAgent,
    /// Addresses that the resolver gives.
    count: Arc<AtomicU8>,
}

/// `*.example.com` is learned. The agent listens; nobody has accepted yet.
async fn world(wait: Duration) -> World {
    let resolver = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let mut server = Server::new(Upstreams::new(&[resolver.local_addr().expect("bound")]));
    server.learner.wait = wait;
    let mut core = sample_core();
    core.rules.set("default/out", vec![Key::parse("*.example.com").expect("valid")]);
    *server.core.lock() = core;
    let count = Arc::new(AtomicU8::new(1));
    let addresses = Arc::clone(&count);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, client)) = resolver.recv_from(&mut buffer).await {
            let asked = Message::from_vec(&buffer[..length]).expect("a question");
            let id = wire::u16_at(&buffer, 0).expect("a header");
            let answer = samples::addresses(id, &asked.queries[0].name().to_string(), addresses.load(Ordering::SeqCst), 60);
            resolver.send_to(&answer, client).await.expect("sent");
        }
    });
    let (agent, server) = (FakeAgent::new(), Arc::new(server));
    let (client, events) = crate::broker::start(agent.path.clone(), Role::Dns);
    server.learner.set_client(client);
    tokio::spawn(pods::follow(Arc::clone(&server), Arc::new(Pods::default()), events));
    World { server, pod: Pod::new("pod".to_owned()), agent, count }
}

impl World {
    async fn ask(&self) -> Message {
        let mut asked = samples::query_bytes(1, NAME, RecordType::A);
        // Without RD nothing is cached: each question goes to the resolver.
        asked[2] &= 0xfe;
        let answer = self.server.answer(&asked, Transport::Udp, &self.pod);
        let answer = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("in time");
        Message::from_vec(&answer.expect("an answer")).expect("valid")
    }

    async fn agent(&self) -> Packets {
        let wire = self.agent.accept_role(Role::Dns).await;
        wire.send(&ToProxy::Ready, &[]).await.expect("send");
        wire
    }

    fn counted(&self, result: &str) -> u64 {
        self.server.metrics.count(Transport::Udp, result)
    }

    async fn until(&self, there: bool) {
        while self.server.learner.is_there() != there {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The next question to the agent.
async fn learned(wire: &Packets) -> (u64, usize) {
    match wire.receive::<ToAgent>().await.expect("a message").0 {
        ToAgent::Learned { id, name, addresses, .. } if name == "www.example.com" => (id, addresses.len()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_held_until_the_agent_has_it_in_force_and_not_asked_twice_a_second() {
    let world = world(Duration::from_secs(10)).await;
    let wire = world.agent().await;
    let held = world.ask();
    tokio::pin!(held);
    let (id, count) = tokio::select! {
        learned = learned(&wire) => learned,
        _ = &mut held => panic!("answered before the agent knew"),
    };
    assert_eq!(count, 1);
    tokio::select! {
        biased;
        _ = &mut held => panic!("answered before the agent said so"),
        () = tokio::time::sleep(Duration::from_millis(50)) => {}
    }
    wire.send(&ToProxy::Learned { id: id + 1000 }, &[]).await.expect("an answer to nobody");
    wire.send(&ToProxy::Learned { id }, &[]).await.expect("send");
    let answer = held.await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1));
    // Just acknowledged: no agent is needed. Another set is learned again.
    assert_eq!(world.ask().await.answers.len(), 1);
    world.count.store(2, Ordering::SeqCst);
    let again = async {
        let (id, count) = learned(&wire).await;
        wire.send(&ToProxy::Learned { id }, &[]).await.expect("send");
        count
    };
    let (answer, count) = tokio::join!(world.ask(), again);
    assert_eq!((answer.answers.len(), count), (2, 2));
    assert_eq!(world.counted("forwarded"), 3);
}

#[tokio::test]
async fn an_agent_that_does_not_answer_costs_the_answer() {
    let world = world(Duration::from_millis(100)).await;
    let _wire = world.agent().await;
    world.until(true).await;
    let answer = world.ask().await;
    assert_eq!((answer.metadata.response_code, world.counted("learn_timeout")), (ResponseCode::ServFail, 1));
}

#[tokio::test]
async fn without_an_agent_only_what_was_acknowledged_is_answered() {
    let world = world(Duration::from_millis(100)).await;
    // The first listener's backlog holds the connection, but nobody says Ready.
    assert_eq!(world.ask().await.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(world.counted("learn_away"), 1);

    let wire = world.agent().await;
    world.until(true).await;
    let (answer, ()) = tokio::join!(world.ask(), async {
        let (id, _) = learned(&wire).await;
        wire.send(&ToProxy::Learned { id }, &[]).await.expect("send");
    });
    assert_eq!(answer.answers.len(), 1);
    drop(wire);
    world.until(false).await;
    world.count.store(3, Ordering::SeqCst);
    let answer = world.ask().await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 1), "the one that is in force");
}

#[tokio::test]
async fn an_answer_waits_for_an_agent_that_comes_back() {
    let world = world(Duration::from_secs(10)).await;
    let wire = world.agent().await;
    let serve = async {
        learned(&wire).await;
        drop(wire);
        let wire = world.agent().await;
        let (id, _) = learned(&wire).await;
        wire.send(&ToProxy::Learned { id }, &[]).await.expect("send");
        wire
    };
    let (answer, _wire) = tokio::join!(world.ask(), serve);
    assert_eq!(answer.answers.len(), 1);
}

#[tokio::test]
async fn a_planned_stop_waits_for_questions_under_way_and_no_longer() {
    let world = world(Duration::from_secs(10)).await;
    let wire = world.agent().await;
    let (pods, limit) = (Pods::default(), Duration::from_secs(20));
    let stop = async {
        let (id, _) = learned(&wire).await;
        world.server.drain.begin(limit);
        let drained = pods::drained(&world.server, &pods);
        tokio::pin!(drained);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut drained).await;
        assert!(early.is_err(), "a question is under way");
        wire.send(&ToProxy::Learned { id }, &[]).await.expect("send");
        let began = Instant::now();
        drained.await;
        assert!(began.elapsed() < limit / 2);
    };
    let (answer, ()) = tokio::join!(world.ask(), stop);
    assert_eq!(answer.answers.len(), 1);
}
