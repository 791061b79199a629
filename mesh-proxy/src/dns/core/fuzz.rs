//! Random and mutated messages through the pure path: nothing panics, and every reply is a reply to what was asked, within its size.

use super::handler::tests::sample_core;
use super::handler::{Answered, Core, Outcome};
use super::query::{Question, Transport, UDP_MAX};
use super::{reply, samples, wire};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};

const MESSAGES: usize = 200_000;

fn seeds() -> Vec<Vec<u8>> {
    let names =
        ["reviews.marathon.l4lb.thisdcos.directory.", "many.default.svc.", "nobody.l4lb.thisdcos.directory.", "www.example.com."];
    let kinds = [RecordType::A, RecordType::AAAA, RecordType::ANY, RecordType::HTTPS, RecordType::SOA];
    let plain = names.iter().flat_map(|name| kinds.map(|kind| samples::query_bytes(1, name, kind)));
    let edns = names.iter().map(|name| samples::query_edns(2, name, RecordType::A, 1400));
    plain.chain(edns).chain([samples::addresses(3, "www.example.com.", 4, 60)]).collect()
}

fn mutate(rng: &mut SmallRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.random()),
            2 => bytes.extend((0..rng.random_range(0..40)).map(|_| rng.random::<u8>())),
            3 => wire::put(bytes, at, &[0xc0, rng.random_range(0..40)]),
            _ => wire::put(bytes, at, &[rng.random()]),
        }
    }
}

/// What holds for every reply. The records of a resolver's answer are its own affair, those of the mesh are ours.
fn check(asked: &[u8], replied: &[u8], transport: Transport, answered: Answered) {
    assert_eq!(replied[..2], asked[..2], "the id");
    assert!(wire::flags(replied) & wire::flag::QR != 0, "a response");
    let limit = if transport == Transport::Udp { usize::from(UDP_MAX) } else { wire::TCP_MAX };
    assert!(replied.len() <= limit, "{} bytes", replied.len());
    if wire::u16_at(replied, 4) == Some(1) {
        let question = Message::from_vec(asked).expect("was understood");
        let mut echoed = replied.to_vec();
        if answered == Answered::Cached {
            let mut layout = wire::layout(&echoed).expect("whole records");
            wire::cut(&mut echoed, &mut layout, 0);
        }
        let message = Message::from_vec(&echoed).expect("a reply with a question is a valid message");
        assert_eq!(message.queries[0].name().to_string(), question.queries[0].name().to_string(), "the question with its case");
        assert_eq!(message.queries, question.queries);
        let size = question.edns.map_or(512, |edns| usize::from(edns.max_payload().clamp(512, UDP_MAX)));
        assert!(transport == Transport::Tcp || replied.len() <= size, "the client's own size");
    }
}

fn run(core: &mut Core, asked: &[u8], transport: Transport, now: Instant) -> Option<Box<Question>> {
    match core.handle(asked, transport, now) {
        Outcome::Ignore(_) => None,
        Outcome::Reply(bytes, answered) => {
            check(asked, &bytes, transport, answered);
            None
        }
        Outcome::Forward(question) => Some(question),
        Outcome::Learn(learning) => panic!("no rule names anything: {learning:?}"),
    }
}

#[test]
fn two_hundred_thousand_messages_break_nothing() {
    let mut rng = SmallRng::seed_from_u64(0x1d5);
    let (seeds, mut core, start) = (seeds(), sample_core(), Instant::now());
    let (mut forwarded, mut completed) = (0, 0);
    for round in 0..MESSAGES {
        let now = start + Duration::from_millis(u64::try_from(round).expect("fits"));
        let mut bytes = if round % 8 == 0 { Vec::new() } else { seeds[rng.random_range(0..seeds.len())].clone() };
        mutate(&mut rng, &mut bytes);
        let transport = if rng.random() { Transport::Udp } else { Transport::Tcp };
        let Some(question) = run(&mut core, &bytes, transport, now) else { continue };
        forwarded += 1;
        let said = hostile_answer(&mut rng, &question);
        let asked = super::query::outgoing(&question, wire::u16_at(&said, 0).unwrap_or(0), true).expect("encodes");
        if reply::judge(&asked, &said) == reply::Judged::Good {
            completed += 1;
            let Outcome::Reply(bytes, _) = core.complete(&question, Ok(said), now) else { panic!("a reply") };
            assert_eq!(bytes[..2], question.id.to_be_bytes());
            assert!(bytes.len() <= question.limit);
        }
    }
    assert!(forwarded > MESSAGES / 100 && completed > MESSAGES / 1000, "the test reaches the far end: {forwarded}, {completed}");
}

/// A resolver's answer to the question, broken a little.
fn hostile_answer(rng: &mut SmallRng, question: &Question) -> Vec<u8> {
    let mut message = Message::new(rng.random(), hickory_proto::op::MessageType::Response, hickory_proto::op::OpCode::Query);
    message.add_query(question.query.clone());
    let template = samples::addresses(1, "www.example.com.", rng.random_range(0..60), rng.random_range(0..90));
    message.add_answers(Message::from_vec(&template).expect("valid").answers);
    let mut bytes = message.to_vec().expect("encodes");
    mutate(rng, &mut bytes);
    bytes
}

proptest! {
    #[test]
    fn any_bytes_get_a_reply_to_themselves_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300), tcp in any::<bool>()) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        run(&mut sample_core(), &bytes, transport, Instant::now());
    }

    #[test]
    fn any_bytes_from_a_resolver_are_rendered_within_the_limit_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
        let Outcome::Forward(question) = sample_core().handle(&seeds()[15], Transport::Udp, Instant::now()) else { panic!("forwarded") };
        let mut bytes = bytes;
        if bytes.len() > 6 { wire::put(&mut bytes, 4, &[0, 1]); }
        let Outcome::Reply(reply, _) = sample_core().complete(&question, Ok(bytes), Instant::now()) else { panic!("a reply") };
        prop_assert_eq!(&reply[..2], &question.id.to_be_bytes());
    }
}
