//! One node against a model of its kernel and its proxy, which get and answer what they are told at any later time.

use super::*;
use proptest::prelude::*;

fn key(port: u16) -> PortKey {
    PortKey { service: "s".to_owned(), port }
}

fn modes(ports: &[(u16, Mode)]) -> Arc<Modes> {
    Arc::new(ports.iter().map(|(port, mode)| (key(*port), *mode)).collect())
}

/// Everything around the node: what was wanted, sent, received and acknowledged.
#[derive(Default)]
struct World {
    node: Node,
    offers: u64,
    wanted: Arc<Modes>,
    told: Arc<Modes>,
    carried: Arc<Carried>,
    to_agent: VecDeque<(u64, Arc<Modes>)>,
    kernel: Arc<Modes>,
    to_proxy: VecDeque<(u64, Arc<Carried>)>,
    proxy: Arc<Carried>,
    unanswered_agent: VecDeque<(u64, Told)>,
    unanswered_proxy: VecDeque<(u64, usize)>,
}

impl World {
    /// What the publisher does after every event.
    fn settle(&mut self) {
        let linger = lingering(std::iter::once(&self.node), &self.wanted);
        let proxied = self.wanted.iter().filter(|(_, mode)| **mode == Mode::Proxy).map(|(port, _)| port.clone());
        // Odd ports are HTTP.
        let how = |port: &PortKey| if port.port % 2 == 1 { Carriage::Http } else { Carriage::Tcp };
        let linger = linger.into_iter().map(|port| (port, Carriage::Standby));
        let carried: Carried = proxied.map(|port| (port.clone(), how(&port))).chain(linger).collect();
        if carried != *self.carried {
            self.offers += 1;
            self.carried = Arc::new(carried);
            self.node.offer_proxy(self.offers, &self.carried, [false; 3]);
            self.to_proxy.push_back((self.offers, self.carried.clone()));
        }
        let now = self.node.modes(&self.wanted);
        if now != self.told {
            self.offers += 1;
            let before = std::mem::replace(&mut self.told, now);
            // Ports from 2 on are told of as egress.
            let changed = |egress: bool| {
                let of = |modes: &Modes| {
                    modes.iter().filter(|(key, _)| (key.port > 1) == egress).map(|(k, m)| (k.clone(), *m)).collect()
                };
                let (before, now): (Modes, Modes) = (of(&before), of(&self.told));
                before != now
            };
            self.node.tell_agent(self.offers, &self.told, [!changed(false), !changed(true)]);
            self.to_agent.push_back((self.offers, self.told.clone()));
        }
    }

    fn start() -> Self {
        let mut world = Self::default();
        world.node.proxy_connected();
        world.node.tell_agent(0, &Arc::default(), [true; 2]);
        world.node.offer_proxy(0, &Arc::default(), [false; 3]);
        Part::ALL.into_iter().for_each(|part| world.node.proxy_holds(part, 0));
        world
    }

    fn step(&mut self, event: u8, wanted: &Arc<Modes>) {
        match event {
            0 => self.wanted = wanted.clone(),
            1 => {
                if let Some((id, modes)) = self.to_agent.pop_front() {
                    self.kernel = modes;
                    // Of a part that did not change an answer says nothing new, and does no harm.
                    self.unanswered_agent.extend(Told::ALL.map(|part| (id, part)));
                }
            }
            2 => {
                if let Some((id, part)) = self.unanswered_agent.pop_front() {
                    self.node.agent_acked(part, id);
                }
            }
            3 => {
                if let Some((id, ports)) = self.to_proxy.pop_front() {
                    self.proxy = ports;
                    self.unanswered_proxy.extend((0..3).map(|part| (id, part)));
                }
            }
            _ => {
                if let Some((id, part)) = self.unanswered_proxy.pop_front() {
                    self.node.proxy_holds(Part::ALL[part], id);
                }
            }
        }
        self.settle();
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for (port, _) in self.kernel.iter().filter(|(_, mode)| **mode == Mode::Proxy) {
            prop_assert!(self.proxy.contains_key(port), "the kernel hands {port:?} to a proxy that does not serve it");
            prop_assert!(self.to_proxy.iter().all(|(_, ports)| ports.contains_key(port)), "{port:?} is about to be dropped");
            if self.to_agent.is_empty() && self.wanted.get(port) == Some(&Mode::Proxy) {
                prop_assert_ne!(self.proxy.get(port), Some(&Carriage::Standby), "{:?} is handed over past its rules", port);
            }
        }
        Ok(())
    }
}

fn wishes() -> impl Strategy<Value = Arc<Modes>> {
    let mode = prop::sample::select(vec![Mode::Direct, Mode::Kernel, Mode::Proxy]);
    prop::collection::btree_map(0u16..4, mode, 0..4).prop_map(|ports| modes(&ports.into_iter().collect::<Vec<_>>()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    /// In any interleaving of changes, arrivals and answers no kernel holds PROXY for a port that its proxy does not serve or has been
    /// told to drop; and when all have answered, everything is as wanted.
    #[test]
    fn no_kernel_runs_ahead_of_its_proxy(events in prop::collection::vec((0u8..5, wishes()), 0..120)) {
        let mut world = World::start();
        for (event, wanted) in &events {
            world.step(*event, wanted);
            world.check()?;
        }
        for round in 0..200u8 {
            world.step(1 + round % 4, &Arc::default());
            world.check()?;
        }
        for _ in 0..40 {
            (1..5).for_each(|event| world.step(event, &Arc::default()));
            world.check()?;
        }
        prop_assert_eq!(&world.kernel, &world.wanted);
        let proxied = world.wanted.iter().filter(|(_, mode)| **mode == Mode::Proxy).map(|(port, _)| port);
        prop_assert_eq!(world.proxy.keys().collect::<Vec<_>>(), proxied.collect::<Vec<_>>());
    }
}

#[test]
fn without_a_proxy_rules_are_not_passed_over() {
    let mut node = Node::default();
    let (kernel, proxy) = (modes(&[(2, Mode::Kernel)]), modes(&[(2, Mode::Proxy), (4, Mode::Proxy)]));
    assert_eq!(node.modes(&proxy), proxy, "an agent of which nothing is known keeps what it has");
    node.tell_agent(1, &kernel, [false, true]);
    node.agent_acked(Told::Services, 1);
    assert_eq!(node.modes(&proxy), proxy, "no proxy was ever seen: connections wait");
    node.proxy_connected();
    assert_eq!(node.modes(&proxy), kernel, "one that is here is waited for, and a new port is not there yet");
    node.proxy_gone();
    assert_eq!(node.modes(&proxy), modes(&[(2, Mode::Kernel), (4, Mode::Proxy)]), "it comes again; a new port waits for it");
    node.tell_agent(2, &proxy, [false; 2]);
    node.proxy_connected();
    assert_eq!(node.modes(&proxy), proxy, "what the kernel may hold already is not taken back from a proxy that starts again");
}

#[test]
fn an_unchanged_part_needs_no_new_answer() {
    let mut node = World::start().node;
    let tcp = |ports: &[u16]| Arc::new(ports.iter().map(|port| (key(*port), Carriage::Tcp)).collect::<Carried>());
    let (one, two) = (tcp(&[2]), tcp(&[2, 4]));
    node.offer_proxy(1, &one, [false; 3]);
    node.proxy_holds(Part::Clusters, 1);
    assert!(!node.proxy.serves(&key(2)));
    node.proxy_holds(Part::Listeners, 1);
    assert!(node.proxy.serves(&key(2)));
    node.offer_proxy(2, &two, [true, false, true]);
    assert!(!node.proxy.serves(&key(4)));
    node.proxy_holds(Part::Listeners, 2);
    assert!(node.proxy.serves(&key(4)), "its cluster was there before");
}

#[test]
fn a_port_on_its_way_back_waits_for_its_rules_again() {
    let mut node = World::start().node;
    let carried = |how| Arc::new(Carried::from([(key(1), how)]));
    let (proxy, kernel) = (modes(&[(1, Mode::Proxy)]), modes(&[(1, Mode::Kernel)]));
    node.tell_agent(1, &proxy, [false; 2]);
    Told::ALL.into_iter().for_each(|part| node.agent_acked(part, 1));
    node.tell_agent(2, &kernel, [false; 2]);
    node.offer_proxy(3, &carried(Carriage::Standby), [false; 3]);
    Part::ALL.into_iter().for_each(|part| node.proxy_holds(part, 3));
    // The rule comes again before the agent has answered. What the proxy holds is the port without it.
    node.offer_proxy(4, &carried(Carriage::Http), [true, true, false]);
    assert_eq!(node.modes(&proxy), kernel, "the kernel may hold PROXY or not; it is not told so");
    node.proxy_holds(Part::Routes, 4);
    assert_eq!(node.modes(&proxy), proxy);
}

#[test]
fn a_kernel_holds_what_it_was_told_when_both_its_tables_do() {
    let mut node = World::start().node;
    let (proxy, kernel) = (modes(&[(1, Mode::Proxy), (2, Mode::Proxy)]), modes(&[(1, Mode::Kernel), (2, Mode::Kernel)]));
    let held = |node: &Node| node.may_hold().any(|modes| modes.values().any(|mode| *mode == Mode::Proxy));
    node.tell_agent(1, &proxy, [false; 2]);
    Told::ALL.into_iter().for_each(|part| node.agent_acked(part, 1));
    node.tell_agent(2, &kernel, [false; 2]);
    node.agent_acked(Told::Services, 2);
    assert!(held(&node), "the hosts outside may still be handed over");
    node.agent_acked(Told::Egress, 2);
    assert!(!held(&node));
}
