//! Resolvers that misbehave, on loopback.

use super::*;
use crate::dns::core::query::{Parsed, Transport, parse};
use crate::dns::core::{answer, samples, wire};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::net::TcpListener;

const NAME: &str = "www.example.com.";

fn question() -> Question {
    match parse(&samples::query_bytes(1, NAME, RecordType::A), Transport::Udp) {
        Parsed::Ask(question) => *question,
        other => panic!("{other:?}"),
    }
}

/// Both at once; a resolver that is not asked again is a failure, not a hang.
async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    timeout(Duration::from_secs(20), async { tokio::join!(a, b) }).await.expect("in time")
}

async fn resolver() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let address = socket.local_addr().expect("bound");
    (socket, address)
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).await.expect("a question");
    buffer.truncate(length);
    (buffer, from)
}

fn id(message: &[u8]) -> u16 {
    wire::u16_at(message, 0).expect("a header")
}

fn count(metrics: &Metrics, outcome: &str) -> u64 {
    let text = metrics.text(&[]);
    let lines = text.lines().filter(|l| l.contains(&format!("outcome=\"{outcome}\"")));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn addresses(bytes: &[u8]) -> usize {
    Message::from_vec(bytes).expect("valid").answers.len()
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let (socket, address) = resolver().await;
    let (stranger, _) = resolver().await;
    let (metrics, upstreams, question) = (Metrics::default(), Upstreams::new(&[address]), question());
    let resolve = async {
        let (asked, client) = receive(&socket).await;
        let edns = Message::from_vec(&asked).expect("valid").edns.expect("our EDNS");
        assert_eq!(edns.max_payload(), 1232);
        let forged = samples::addresses(id(&asked), NAME, 9, 60);
        stranger.send_to(&forged, client).await.expect("sent");
        for wrong in [
            samples::addresses(id(&asked).wrapping_add(1), NAME, 9, 60),
            samples::addresses(id(&asked), "other.example.com.", 9, 60),
            b"garbage".to_vec(),
            asked.clone(),
            samples::addresses(id(&asked), NAME, 2, 60),
        ] {
            socket.send_to(&wrong, client).await.expect("sent");
        }
    };
    let (said, ()) = both(upstreams.ask(&question, &metrics), resolve).await;
    assert_eq!(addresses(&said.expect("an answer")), 2);
    assert_eq!((count(&metrics, "foreign"), count(&metrics, "answered")), (4, 1));
}

#[tokio::test]
async fn who_sends_only_forgeries_is_not_listened_to_for_ever() {
    let (socket, address) = resolver().await;
    let (metrics, upstreams, question) = (Metrics::default(), Upstreams::new(&[address]), question());
    let resolve = async {
        for _ in 0..2 {
            let (asked, client) = receive(&socket).await;
            for guess in 1..=FOREIGN_MAX {
                let guess = u16::try_from(guess).expect("small");
                let wrong = samples::addresses(id(&asked).wrapping_add(guess), NAME, 1, 60);
                socket.send_to(&wrong, client).await.expect("sent");
            }
        }
    };
    let (said, ()) = both(upstreams.ask(&question, &metrics), resolve).await;
    assert_eq!(said, Err(Unanswered::Timeout));
    assert_eq!(count(&metrics, "foreign_limit"), 2);
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
    let (socket, address) = resolver().await;
    let listener = TcpListener::bind(address).await.expect("the same port over TCP");
    let (metrics, upstreams, question) = (Metrics::default(), Upstreams::new(&[address]), question());
    let resolve = async {
        let (asked, client) = receive(&socket).await;
        let mut cut = samples::addresses(id(&asked), NAME, 1, 60);
        let flags = wire::flags(&cut) | wire::flag::TC;
        wire::put(&mut cut, 2, &flags.to_be_bytes());
        socket.send_to(&cut, client).await.expect("sent");
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let again = tcp::read_message(&mut stream, 4096).await.expect("read").expect("a question");
        tcp::write_message(&mut stream, &samples::addresses(id(&again), NAME, 100, 60)).await.expect("sent");
    };
    let (said, ()) = both(upstreams.ask(&question, &metrics), resolve).await;
    assert_eq!(addresses(&said.expect("an answer")), 100);
    assert_eq!(count(&metrics, "truncated"), 1);
}

#[tokio::test]
async fn a_late_answer_goes_to_a_closed_socket_and_the_second_try_has_a_new_port() {
    let (socket, address) = resolver().await;
    let upstreams = Upstreams::with_times(&[address], Duration::from_secs(8), Duration::from_millis(50));
    let (metrics, question) = (Metrics::default(), question());
    let resolve = async {
        let (first, first_client) = receive(&socket).await;
        let (second, second_client) = receive(&socket).await;
        assert_ne!(first_client, second_client);
        socket.send_to(&samples::addresses(id(&first), NAME, 9, 60), first_client).await.expect("sent");
        socket.send_to(&samples::addresses(id(&second), NAME, 2, 60), second_client).await.expect("sent");
    };
    let (said, ()) = both(upstreams.ask(&question, &metrics), resolve).await;
    assert_eq!(addresses(&said.expect("an answer")), 2);
    assert_eq!((count(&metrics, "timeout"), count(&metrics, "answered")), (1, 1));
}

#[test]
fn ids_are_drawn_anew() {
    let ids: std::collections::BTreeSet<u16> = (0..16).map(|_| id(&encoded(&question(), true).expect("encodes"))).collect();
    assert!(ids.len() > 8, "{ids:?}");
}

#[tokio::test]
async fn a_dead_resolver_costs_one_wait_and_then_comes_last() {
    let ((dead, dead_at), (alive, alive_at)) = (resolver().await, resolver().await);
    let upstreams = Upstreams::with_times(&[dead_at, alive_at], Duration::from_secs(8), Duration::from_millis(50));
    let (metrics, question) = (Metrics::default(), question());
    for _ in 0..2 {
        let resolve = async {
            let (asked, client) = receive(&alive).await;
            alive.send_to(&samples::addresses(id(&asked), NAME, 1, 60), client).await.expect("sent");
        };
        let (said, ()) = both(upstreams.ask(&question, &metrics), resolve).await;
        assert!(said.is_ok());
    }
    assert_eq!((count(&metrics, "timeout"), count(&metrics, "answered")), (1, 2));
    assert_eq!(upstreams.status(), [(dead_at.to_string(), true), (alive_at.to_string(), false)]);
    drop(dead);
}

#[tokio::test]
async fn when_all_fail_it_is_told_within_the_budget() {
    let ((a, a_at), (b, b_at)) = (resolver().await, resolver().await);
    let budget = Duration::from_millis(200);
    let upstreams = Upstreams::with_times(&[a_at, b_at], budget, Duration::from_secs(2));
    let (metrics, question) = (Metrics::default(), question());
    let since = Instant::now();
    assert_eq!(upstreams.ask(&question, &metrics).await, Err(Unanswered::Timeout));
    assert!(since.elapsed() >= budget && since.elapsed() < budget * 20);
    // A closed port is known at once (ICMP), without waiting.
    drop((a, b));
    assert_eq!(Upstreams::new(&[a_at, b_at]).ask(&question, &metrics).await, Err(Unanswered::Timeout));
    assert_eq!((count(&metrics, "timeout"), count(&metrics, "io")), (2, 2));
}

#[tokio::test]
async fn another_resolver_is_asked_when_one_fails_and_an_old_one_without_edns() {
    let ((failing, failing_at), (old, old_at)) = (resolver().await, resolver().await);
    let (metrics, upstreams, question) = (Metrics::default(), Upstreams::new(&[failing_at, old_at]), question());
    let resolve = async {
        let (asked, client) = receive(&failing).await;
        failing.send_to(&answer::header_only(&asked, ResponseCode::ServFail), client).await.expect("sent");
        let (asked, client) = receive(&old).await;
        old.send_to(&answer::header_only(&asked, ResponseCode::FormErr), client).await.expect("sent");
        let (asked, client) = receive(&old).await;
        assert!(Message::from_vec(&asked).expect("valid").edns.is_none());
        old.send_to(&samples::addresses(id(&asked), NAME, 3, 60), client).await.expect("sent");
    };
    let (said, ()) = both(upstreams.ask(&question, &metrics), resolve).await;
    assert_eq!(addresses(&said.expect("an answer")), 3);
    assert_eq!((count(&metrics, "failed"), count(&metrics, "answered")), (1, 1));
}
