//! The whole path, with hickory as the client.

use super::*;
use crate::dns::core::config::{MeshSettings, ServiceNames};
use crate::dns::core::name::Key;
use crate::dns::core::samples;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use std::net::IpAddr;
use std::time::Duration;

fn key(text: &str) -> Key {
    Key::parse(text).expect("valid")
}

/// A mesh with reviews (IPv4 only), ratings (both) and many (200 addresses), zone `l4lb.thisdcos.directory`.
pub(in crate::dns) fn sample_core() -> Core {
    let mut core = Core::default();
    core.table.set_mesh(MeshSettings { zones: vec![key("l4lb.thisdcos.directory")] });
    let v6: IpAddr = "fd01:c::1".parse().expect("literal");
    let many = (0..200).map(|last| IpAddr::from([11, 0, 1, last])).collect();
    for (name, addresses) in
        [("reviews", vec![[11, 15, 94, 83].into()]), ("ratings", vec![[11, 0, 0, 2].into(), v6]), ("many", many)]
    {
        let names = vec![key(&format!("{name}.marathon.l4lb.thisdcos.directory")), key(&format!("{name}.default.svc"))];
        core.table.set_service(name, ServiceNames { names, addresses });
    }
    core.table.set_services_told();
    core.rules.set_told();
    core
}

fn ask(core: &mut Core, bytes: &[u8]) -> (Message, Answered) {
    match core.handle(bytes, Transport::Udp, Instant::now()) {
        Outcome::Reply(bytes, answered) => (Message::from_vec(&bytes).expect("valid"), answered),
        other => panic!("no reply: {other:?}"),
    }
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    samples::query_bytes(4711, name, kind)
}

#[test]
fn a_mesh_name_is_answered_in_the_clients_case() {
    let mut core = sample_core();
    let asked = "ReViews.marathon.L4LB.thisdcos.directory.";
    let (answer, answered) = ask(&mut core, &query(asked, RecordType::A));
    assert_eq!((answer.metadata.id, answered), (4711, Answered::Mesh));
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available && answer.edns.is_none());
    assert_eq!(answer.queries[0].name().to_string(), asked);
    assert_eq!(answer.answers.len(), 1);
    let record = &answer.answers[0];
    assert_eq!((record.name.to_string(), record.ttl, record.data.to_string()), (asked.to_owned(), 5, "11.15.94.83".to_owned()));
}

#[test]
fn missing_kinds_are_empty_and_missing_names_are_denied_with_the_zones_soa() {
    let mut core = sample_core();
    for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::SRV] {
        let (answer, answered) = ask(&mut core, &query("reviews.marathon.l4lb.thisdcos.directory.", kind));
        assert_eq!((answer.metadata.response_code, answered), (ResponseCode::NoError, Answered::MeshNoData), "{kind}");
        assert!(answer.answers.is_empty());
    }
    let (answer, answered) = ask(&mut core, &query("nobody.marathon.l4lb.thisdcos.directory.", RecordType::A));
    assert_eq!((answer.metadata.response_code, answered), (ResponseCode::NXDomain, Answered::MeshNoName));
    let soa = &answer.authorities[0];
    assert_eq!((soa.name.to_string(), soa.ttl), ("l4lb.thisdcos.directory.".to_owned(), 5));
    assert!(soa.data.to_string().ends_with(" 5"), "negative TTL: {}", soa.data);
}

#[test]
fn any_is_answered_with_one_record_set() {
    let mut core = sample_core();
    let (answer, _) = ask(&mut core, &query("ratings.marathon.l4lb.thisdcos.directory.", RecordType::ANY));
    assert_eq!(answer.answers.iter().map(|r| r.record_type()).collect::<Vec<_>>(), [RecordType::A]);
    let (answer, _) = ask(&mut core, &query("ratings.marathon.l4lb.thisdcos.directory.", RecordType::AAAA));
    assert_eq!(answer.answers[0].data.to_string(), "fd01:c::1");
}

#[test]
fn a_long_answer_is_cut_to_the_clients_size_and_whole_over_tcp() {
    let mut core = sample_core();
    let name = "many.marathon.l4lb.thisdcos.directory.";
    for (bytes, limit) in [(query(name, RecordType::A), 512), (samples::query_edns(1, name, RecordType::A, 1000), 1000)] {
        let Outcome::Reply(answer, _) = core.handle(&bytes, Transport::Udp, Instant::now()) else { panic!("a reply") };
        assert!(answer.len() <= limit && answer.len() > limit - 16, "{}", answer.len());
        let message = Message::from_vec(&answer).expect("valid");
        assert_eq!((message.metadata.truncation, message.edns.is_some()), (true, limit == 1000));
    }
    let Outcome::Reply(answer, _) = core.handle(&query(name, RecordType::A), Transport::Tcp, Instant::now()) else {
        panic!("a reply")
    };
    let message = Message::from_vec(&answer).expect("valid");
    assert_eq!((message.metadata.truncation, message.answers.len()), (false, 200));
}

#[test]
fn other_names_are_forwarded_once_and_then_cached_until_they_expire() {
    let mut core = sample_core();
    let start = Instant::now();
    let asked = query("www.example.com.", RecordType::A);
    let Outcome::Forward(question) = core.handle(&asked, Transport::Udp, start) else { panic!("forwarded") };
    let said = core.complete(&question, Ok(samples::addresses(1, "www.example.com.", 2, 30)), start);
    assert!(matches!(said, Outcome::Reply(_, Answered::Forwarded)), "{said:?}");
    let later = start + Duration::from_secs(10);
    let Outcome::Reply(bytes, Answered::Cached) = core.handle(&asked, Transport::Udp, later) else { panic!("cached") };
    let answer = Message::from_vec(&bytes).expect("valid");
    assert!(answer.metadata.id == 4711 && answer.answers.iter().all(|r| r.ttl == 20));
    let over = start + Duration::from_secs(30);
    assert!(matches!(core.handle(&asked, Transport::Udp, over), Outcome::Forward(_)));
}

#[test]
fn failures_are_told_and_never_remembered() {
    let mut core = sample_core();
    let now = Instant::now();
    let asked = query("www.example.com.", RecordType::A);
    for (why, code, answered) in [
        (Unanswered::PodLimit, ResponseCode::ServFail, Answered::PodLimit),
        (Unanswered::NodeLimit, ResponseCode::ServFail, Answered::NodeLimit),
        (Unanswered::Timeout, ResponseCode::ServFail, Answered::UpstreamTimeout),
        (Unanswered::Failed(5), ResponseCode::Refused, Answered::UpstreamFailed),
        (Unanswered::Failed(2), ResponseCode::ServFail, Answered::UpstreamFailed),
    ] {
        let Outcome::Forward(question) = core.handle(&asked, Transport::Udp, now) else { panic!("forwarded") };
        let Outcome::Reply(bytes, got) = core.complete(&question, Err(why), now) else { panic!("a reply") };
        let message = Message::from_vec(&bytes).expect("valid");
        assert_eq!((message.metadata.response_code, got, message.metadata.id), (code, answered, 4711));
    }
}

#[test]
fn what_a_rule_names_is_learned_first_whether_forwarded_or_cached() {
    let (mut core, now) = (sample_core(), Instant::now());
    core.rules.set("default/external", vec![key("*.example.com")]);
    let asked = query("www.example.com.", RecordType::A);
    let Outcome::Forward(question) = core.handle(&asked, Transport::Udp, now) else { panic!("forwarded") };
    let Outcome::Learn(first) = core.complete(&question, Ok(samples::addresses(1, "www.example.com.", 2, 300)), now) else {
        panic!("learned")
    };
    assert_eq!((first.name.as_str(), first.addresses.len(), first.ttl), ("www.example.com", 2, 300));
    let later = now + Duration::from_secs(10);
    let Outcome::Learn(again) = core.handle(&asked, Transport::Udp, later) else { panic!("learned again") };
    assert_eq!((again.ttl, again.answered), (290, Answered::Cached));
    core.memory.acknowledged(&again, later);
    assert!(matches!(core.handle(&asked, Transport::Udp, later), Outcome::Reply(_, Answered::Cached)), "just acknowledged");
    core.rules.remove("default/external");
    assert!(matches!(core.handle(&asked, Transport::Udp, later + Duration::from_secs(2)), Outcome::Reply(..)));
}

#[test]
fn answers_without_addresses_and_before_the_rules_are_known() {
    let (mut core, now) = (sample_core(), Instant::now());
    core.rules.set("default/external", vec![key("*.example.com")]);
    let Outcome::Forward(question) = core.handle(&query("no.example.com.", RecordType::A), Transport::Udp, now) else {
        panic!("forwarded")
    };
    let said = core.complete(&question, Ok(samples::no_such_name(1, "no.example.com.", 60, 7)), now);
    assert!(matches!(said, Outcome::Reply(_, Answered::Forwarded)), "there is nothing to learn");

    let mut core = Core::default();
    let Outcome::Forward(question) = core.handle(&query("www.example.com.", RecordType::A), Transport::Udp, now) else {
        panic!("forwarded")
    };
    let Outcome::Reply(bytes, _) = core.complete(&question, Ok(samples::addresses(1, "www.example.com.", 1, 300)), now) else {
        panic!("a reply")
    };
    assert_eq!(Message::from_vec(&bytes).expect("valid").answers[0].ttl, UNSURE_TTL);
}

#[test]
fn names_outside_the_registry_are_refused_where_that_is_asked_for() {
    let now = Instant::now();
    let mut core = Core { registry_only: true, ..sample_core() };
    core.rules.set("default/external", vec![key("*.example.com"), key("a.org")]);
    for (name, kind, refused) in [
        ("secret-data.attacker.test.", RecordType::TXT, true),
        ("1.2.0.192.in-addr.arpa.", RecordType::PTR, true),
        ("example.com.", RecordType::A, true),
        ("www.example.com.", RecordType::A, false),
        ("a.org.", RecordType::AAAA, false),
    ] {
        let outcome = core.handle(&query(name, kind), Transport::Udp, now);
        match outcome {
            Outcome::Forward(_) => assert!(!refused, "{name} is asked for outside"),
            Outcome::Reply(bytes, Answered::NotInRegistry) => {
                let code = Message::from_vec(&bytes).expect("valid").metadata.response_code;
                assert!(refused && code == ResponseCode::Refused, "{name}: {code}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    let (_, answered) = ask(&mut core, &query("reviews.marathon.l4lb.thisdcos.directory.", RecordType::A));
    assert_eq!(answered, Answered::Mesh);
    // Before the entries are known nobody can say what is in the registry.
    let (answer, answered) = ask(&mut Core { registry_only: true, ..Core::default() }, &query("a.org.", RecordType::A));
    assert_eq!((answer.metadata.response_code, answered), (ResponseCode::ServFail, Answered::MeshNotYet));
}

#[test]
fn the_agent_hears_of_what_pods_are_answered_once_in_a_while() {
    let (mut core, now) = (sample_core(), Instant::now());
    let asked = query("www.example.com.", RecordType::A);
    let Outcome::Forward(question) = core.handle(&asked, Transport::Udp, now) else { panic!("forwarded") };
    assert_eq!(core.heard.take(), []);
    core.complete(&question, Ok(samples::addresses(1, "www.example.com.", 2, 300)), now);
    let heard = core.heard.take();
    assert_eq!((heard.len(), heard[0].0.as_str(), heard[0].1.len()), (1, "www.example.com", 2));
    let mut later = |seconds| {
        core.handle(&asked, Transport::Udp, now + Duration::from_secs(seconds));
        core.heard.take().len()
    };
    assert_eq!((later(9), later(10), later(11)), (0, 1, 0));
    core.heard.forget();
    core.handle(&asked, Transport::Udp, now + Duration::from_secs(12));
    assert_eq!(core.heard.take().len(), 1, "another agent");
}
