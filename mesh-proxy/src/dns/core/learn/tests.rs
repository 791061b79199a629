//! Which names, what is fresh, and what is left without the agent.

use super::*;
use crate::dns::core::query::{Parsed, Transport, parse};
use crate::dns::core::samples;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;

fn key_of(text: &str) -> Key {
    Key::parse(text).expect("valid")
}

fn question(name: &str) -> Question {
    match parse(&samples::query_bytes(1, name, RecordType::A), Transport::Udp) {
        Parsed::Ask(question) => *question,
        other => panic!("{other:?}"),
    }
}

fn learning(name: &str, count: u8, ttl: u32) -> Learning {
    let stored = Arc::new(Stored::new(samples::addresses(1, name, count, ttl)).expect("valid"));
    Learning::new(&question(name), stored, 0, Answered::Forwarded).expect("addresses")
}

fn ttl(answer: &[u8]) -> (usize, u32) {
    let answer = Message::from_vec(answer).expect("valid");
    (answer.answers.len(), answer.answers[0].ttl)
}

#[test]
fn hosts_count_exactly_and_wildcards_below_them_only() {
    let mut rules = Rules::default();
    assert!(!rules.names(&key_of("httpbin.org")));
    rules.set("default/a", vec![key_of("httpbin.org"), key_of("*.example.com")]);
    rules.set("default/b", vec![key_of("httpbin.org")]);
    for (name, expected) in [
        ("httpbin.org", true),
        ("HTTPBIN.org.", true),
        ("www.httpbin.org", false),
        ("example.com", false),
        ("a.example.com", true),
        ("a.b.example.com", true),
        ("aexample.com", false),
        ("org", false),
    ] {
        assert_eq!(rules.names(&key_of(name)), expected, "{name}");
    }
    rules.remove("default/a");
    assert!(rules.names(&key_of("httpbin.org")) && !rules.names(&key_of("a.example.com")));
    rules.set("default/b", Vec::new());
    assert_eq!((rules.names(&key_of("httpbin.org")), rules.len()), (false, 0));
}

#[test]
fn addresses_that_are_never_outside_are_not_learned() {
    for (address, expected) in [
        ("203.0.113.1", true),
        ("10.1.2.3", true),
        ("2001:db8::1", true),
        ("127.0.0.1", false),
        ("169.254.169.254", false),
        ("0.0.0.0", false),
        ("224.0.0.1", false),
        ("::1", false),
        ("::ffff:127.0.0.1", false),
        ("fe80::1", false),
    ] {
        assert_eq!(is_learnable(&address.parse().expect("literal")), expected, "{address}");
    }
}

#[test]
fn the_pod_gets_a_short_ttl_and_the_agent_the_true_one() {
    let learning = learning("a.example.", 2, 300);
    assert_eq!((learning.name.as_str(), learning.addresses.len(), learning.agent_ttl()), ("a.example", 2, 301));
    assert_eq!(ttl(&learning.render()), (2, POD_TTL));
}

#[test]
fn fresh_is_the_same_set_for_a_second_and_long_enough() {
    let (mut memory, now) = (Memory::default(), Instant::now());
    let first = learning("a.example.", 2, 10);
    assert!(!memory.is_fresh(&first, now));
    memory.acknowledged(&first, now);
    assert!(memory.is_fresh(&first, now + FRESH / 2));
    assert!(!memory.is_fresh(&first, now + FRESH));
    assert!(!memory.is_fresh(&learning("a.example.", 1, 10), now), "another set");
    assert!(!memory.is_fresh(&learning("a.example.", 2, 60), now), "the agent would forget it before the pod");
    memory.agent_lost(now);
    assert!(!memory.is_fresh(&first, now), "the next agent may know nothing");
}

#[test]
fn without_the_agent_only_what_is_in_force_is_answered() {
    let (mut memory, now) = (Memory::default(), Instant::now());
    assert_eq!(memory.without_agent(&learning("a.example.", 1, 10)), None);
    memory.acknowledged(&learning("a.example.", 2, 10), now);
    memory.acknowledged(&learning("b.example.", 2, 60), now);
    assert_eq!(memory.without_agent(&learning("a.example.", 1, 60)).map(|a| ttl(&a)), Some((1, UNSURE_TTL)), "a part of it");
    assert_eq!(memory.without_agent(&learning("a.example.", 3, 60)).map(|a| ttl(&a)), Some((2, UNSURE_TTL)), "the former one");
    memory.agent_lost(now + Duration::from_secs(30));
    assert_eq!(memory.without_agent(&learning("a.example.", 2, 10)), None, "forgotten before the agent went");
    assert!(memory.without_agent(&learning("b.example.", 2, 10)).is_some());
}

#[test]
fn after_a_change_of_the_rules_everything_is_learned_again() {
    let (mut memory, mut rules, now) = (Memory::default(), Rules::default(), Instant::now());
    rules.set("default/a", vec![key_of("a.example")]);
    let (kept, dropped) = (learning("a.example.", 1, 60), learning("b.example.", 1, 60));
    memory.acknowledged(&kept, now);
    memory.acknowledged(&dropped, now);
    memory.rules_changed(&rules);
    assert!(!memory.is_fresh(&kept, now) && memory.without_agent(&kept).is_some());
    assert!(memory.without_agent(&dropped).is_none());
}

#[test]
fn the_memory_is_bounded() {
    let now = Instant::now();
    let mut memory = Memory { entries_max: 2, ..Memory::default() };
    for (name, ttl) in [("a.example.", 60), ("b.example.", 10), ("c.example.", 30)] {
        memory.acknowledged(&learning(name, 1, ttl), now);
    }
    assert_eq!(memory.len(), 2);
    assert!(!memory.is_fresh(&learning("b.example.", 1, 1), now) && memory.is_fresh(&learning("c.example.", 1, 1), now));
}
