//! Brings the instances to what the definitions want; `upgrade` says whom to stop and how many to start, here they are stopped, made and
//! placed. Pure.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;

use super::health::Health;
use super::instance::{Instance, Phase, State, Task};
use super::spec::{Kind, Network, Spec};
use super::{Core, Effect, Launch, env, events, ids, place};

impl Core {
    pub(crate) fn reconcile(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let ids: Vec<String> = self.specs.keys().cloned().collect();
        for id in ids {
            for instance in self.doomed(&id) {
                self.stop(&instance, now, effects);
            }
            self.start_missing(&id, now, effects);
        }
        let waiting = |i: &&Instance| matches!(i.phase, Phase::Scheduled { not_before } if not_before <= now) && !i.stopping;
        let waiting: Vec<String> = self.instances.values().filter(waiting).map(|i| i.id.clone()).collect();
        for id in waiting {
            self.launch(&id, now, effects);
        }
        self.finish_deployments(now, effects);
        self.specs.retain(|id, entry| !entry.deleted || self.instances.values().any(|i| i.spec.id == *id));
    }

    /// Ends an instance for good.
    pub(crate) fn stop(&mut self, id: &str, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        instance.stopping = true;
        if instance.is_scheduled() {
            self.instances.remove(id);
        } else {
            self.kill(id, now, effects);
        }
    }

    fn start_missing(&mut self, id: &str, now: Timestamp, effects: &mut Vec<Effect>) {
        for _ in 0..self.missing(id) {
            let uuid = self.uuid();
            let spec = Arc::clone(self.specs[id].current());
            let instance = Instance::scheduled(spec, uuid, now);
            effects.push(Effect::Publish(events::instance_changed(&instance, now)));
            self.instances.insert(instance.id.clone(), instance);
        }
    }

    fn place(&self, spec: &Spec, pinned: Option<usize>) -> Option<usize> {
        let candidate = |(index, node): (usize, &super::Node)| {
            let here = |i: &&Instance| !i.is_scheduled() && i.node == index;
            place::Candidate {
                hostname: node.hostname.clone(),
                same: self.instances_of(&spec.id).filter(here).count(),
                total: self.instances.values().filter(here).count(),
            }
        };
        let candidates: Vec<_> = self.nodes.iter().enumerate().map(candidate).collect();
        match pinned {
            Some(node) => place::choose(&spec.constraints, &candidates[node..=node]).map(|_| node),
            None => place::choose(&spec.constraints, &candidates),
        }
    }

    fn launch(&mut self, id: &str, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(waiting) = self.instances.get(id) else { return };
        let Some(node) = self.place(&waiting.spec, waiting.pinned) else { return };
        let mut instance = waiting.clone();
        let Some(ports) = self.host_ports(&instance.spec, node) else { return };
        instance.host_ports = ports;
        instance.phase = Phase::Live;
        instance.incarnation += 1;
        instance.node = node;
        instance.hostname.clone_from(&self.nodes[node].hostname);
        instance.agent_id.clone_from(&self.nodes[node].agent_id);
        instance.pinned = instance.spec.resident.then_some(node);
        (instance.v4, instance.v6) = self.addresses(&instance.spec.network, node);
        instance.executor_uuid = (instance.spec.kind == Kind::Pod).then(|| self.uuid());
        (instance.staged, instance.started, instance.changed) = (now, None, now);
        instance.condition = "Provisioned";
        effects.push(Effect::Publish(events::instance_changed(&instance, now)));
        let spec = Arc::clone(&instance.spec);
        instance.tasks = spec.containers.iter().map(|c| self.task(&instance, c.name.clone(), c.checks.len(), now)).collect();
        let of = |(task, container): (&Task, &super::Container)| {
            (task.clone(), container.clone(), env::environment(&instance, container, task))
        };
        let tasks = instance.tasks.iter().zip(&instance.spec.containers).map(of).collect();
        for task in &instance.tasks {
            effects.push(Effect::Publish(events::status_update(&instance, task, now)));
        }
        instance.condition = "Staging";
        effects.push(Effect::Publish(events::instance_changed(&instance, now)));
        effects.push(Effect::Launch(Box::new(Launch { instance: instance.clone(), tasks })));
        self.instances.insert(instance.id.clone(), instance);
    }

    fn task(&mut self, instance: &Instance, container: String, checks: usize, now: Timestamp) -> Task {
        Task {
            id: ids::task(&instance.id, &container, instance.incarnation),
            uuid: self.uuid(),
            state: State::Staging,
            since: now,
            message: String::new(),
            pid: None,
            kill_at: None,
            health: vec![Health::default(); checks],
            container,
        }
    }

    /// `None` when a fixed port is taken: the instance waits.
    fn host_ports(&mut self, spec: &Spec, node: usize) -> Option<std::collections::BTreeMap<(String, usize), u16>> {
        let here = self.instances.values().filter(|i| !i.is_scheduled() && i.node == node);
        let mut used: BTreeSet<u16> = here.flat_map(|i| i.host_ports.values().copied()).collect();
        let mut out = std::collections::BTreeMap::new();
        for container in &spec.containers {
            for (index, endpoint) in container.endpoints.iter().enumerate() {
                let port = match endpoint.host_port {
                    None => continue,
                    Some(0) => self.free_port(node, &used),
                    Some(fixed) if used.contains(&fixed) => return None,
                    Some(fixed) => fixed,
                };
                used.insert(port);
                out.insert((container.name.clone(), index), port);
            }
        }
        Some(out)
    }

    /// From the range that agents of DC/OS offer, below the holes.
    fn free_port(&mut self, node: usize, used: &BTreeSet<u16>) -> u16 {
        let node = &mut self.nodes[node];
        loop {
            let port = node.next_port;
            node.next_port = if port >= 31999 { 31000 } else { port + 1 };
            if !used.contains(&port) {
                return port;
            }
        }
    }

    fn addresses(&mut self, network: &Network, node: usize) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        if *network == Network::Host {
            return (None, None);
        }
        let here = self.instances.values().filter(|i| !i.is_scheduled() && i.node == node);
        let used: BTreeSet<u8> = here.filter_map(|i| i.v4.map(|ip| ip.octets()[3])).collect();
        let number = u8::try_from(node + 1).unwrap_or(u8::MAX);
        let node = &mut self.nodes[node];
        while used.contains(&node.next_ip) {
            node.next_ip = if node.next_ip >= 254 { 2 } else { node.next_ip + 1 };
        }
        let last = node.next_ip;
        node.next_ip = if last >= 254 { 2 } else { last + 1 };
        if *network == Network::Bridge {
            return (Some(Ipv4Addr::new(172, 31, 254, last)), None);
        }
        let v6 = Ipv6Addr::new(0xfd01, 0xd, 0, u16::from(number), 0, 0, 0, u16::from(last));
        (Some(Ipv4Addr::new(9, 0, number, last)), Some(v6))
    }
}
