//! Wanted against enrolled: what Marathon's labels ask for, beside what the agents say of their kernels, node by node. Pure; this is the
//! answer of `mesh-control status`.

#[cfg(test)]
mod tests;

use super::mesos::Agent;
use super::registry::Registry;
use mesh_xds::node::Role;
use mesh_xds::report::Report;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A connected client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) role: Role,
    pub(crate) address: IpAddr,
    pub(crate) name: String,
    /// The configuration's version that it holds whole.
    pub(crate) holds: Option<u64>,
    /// What it refused last and has not taken since, in its words.
    pub(crate) refusal: Option<String>,
    /// What an agent says.
    pub(crate) report: Option<Arc<Report>>,
}

/// The whole mesh.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Enrolment {
    /// Of the configuration that is in force.
    pub(crate) version: u64,
    /// Is the Mesos master asked for its agents? If not, a node is where something runs or a client is.
    pub(crate) agents_known: bool,
    pub(crate) nodes: Vec<Node>,
}

/// One node.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Node {
    /// Its address; its host name if that does not resolve.
    pub(crate) node: String,
    /// What Mesos runs there, if its master was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mesos_agent: Option<MesosAgent>,
    /// The mesh's own processes that are connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<Held>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proxy: Option<Held>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dns: Option<Held>,
    /// Instances that run.
    pub(crate) workloads: usize,
    /// Those that should be in the mesh.
    pub(crate) wanted: usize,
    /// Those of them that are.
    pub(crate) enrolled: usize,
    /// Those of them that are not.
    pub(crate) missing: Vec<Missing>,
    /// In the mesh, although nobody asks for it.
    pub(crate) unwanted: Vec<String>,
}

/// An agent in its master's words.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct MesosAgent {
    pub(crate) id: String,
    /// False while it is away, or taken out for maintenance.
    pub(crate) active: bool,
}

/// What a connected process holds.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Held {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refusal: Option<String>,
}

/// A workload that should be in the mesh.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Missing {
    pub(crate) workload: String,
    pub(crate) app: String,
    pub(crate) reason: String,
}

/// By address, or by name where there is none.
type Key = (Option<IpAddr>, String);

fn key(node: &str) -> Key {
    node.parse().map_or_else(|_no_address| (None, node.to_owned()), |address| (Some(address), String::new()))
}

/// What one node is made of.
#[derive(Default)]
struct Draft<'a> {
    mesos: Option<&'a Agent>,
    clients: Vec<&'a Client>,
    workloads: BTreeSet<&'a str>,
}

impl Enrolment {
    /// Compares. `agents` is what the Mesos master lists, if one is asked.
    pub(crate) fn new(registry: &Registry, clients: &[Client], agents: Option<&[Agent]>, version: u64) -> Self {
        let mut drafts = BTreeMap::<Key, Draft<'_>>::new();
        for workload in registry.workloads.values() {
            drafts.entry(key(&workload.node)).or_default().workloads.insert(&workload.id);
        }
        for agent in agents.unwrap_or_default() {
            let key = agent.address.map_or_else(|| key(&agent.host), |address| (Some(address), String::new()));
            drafts.entry(key).or_default().mesos = Some(agent);
        }
        for client in clients.iter().filter(|client| matches!(client.role, Role::Agent | Role::Node | Role::Dns)) {
            let by_name = (None, client.name.clone());
            let key = if drafts.contains_key(&by_name) { by_name } else { (Some(client.address), String::new()) };
            drafts.entry(key).or_default().clients.push(client);
        }
        let nodes = drafts.into_iter().map(|(key, draft)| draft.node(&key, registry)).collect();
        Self { version, agents_known: agents.is_some(), nodes }
    }

    /// All nodes' workloads that should be in the mesh, and those that are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.nodes.iter().map(|node| node.wanted).sum(), self.nodes.iter().map(|node| node.enrolled).sum())
    }

    /// All that is not as it should be, a sentence each. Empty: every wanted workload is in the mesh, and every node holds what it should.
    pub(crate) fn differences(&self) -> Vec<String> {
        let mut all = Vec::new();
        for node in &self.nodes {
            let name = &node.node;
            if node.lacks_mesh() {
                all.push(format!("{name}: no mesh-agent is connected"));
            }
            for (process, held) in node.processes() {
                match held {
                    None if process != "mesh-agent" && node.wanted > 0 => all.push(format!("{name}: no {process} is connected")),
                    Some(Held { refusal: Some(words), .. }) => all.push(format!("{name}: {process} refused {words}")),
                    Some(Held { version, .. }) if *version != Some(self.version) => {
                        let version = version.map_or_else(|| "nothing yet".to_owned(), |version| format!("version {version}"));
                        all.push(format!("{name}: {process} holds {version}, the configuration is version {}", self.version));
                    }
                    _ => {}
                }
            }
            let missing = node.missing.iter();
            all.extend(missing.map(|m| format!("{name}: {} ({}) is not in the mesh: {}", m.workload, m.app, m.reason)));
            all.extend(node.unwanted.iter().map(|id| format!("{name}: {id} is in the mesh, and nobody asks for it")));
        }
        all
    }
}

impl Node {
    /// Nobody balances and judges there. A machine that is away needs nobody.
    pub(crate) fn lacks_mesh(&self) -> bool {
        let is_away = self.workloads == 0 && self.mesos_agent.as_ref().is_some_and(|agent| !agent.active);
        self.agent.is_none() && !is_away
    }

    pub(crate) fn processes(&self) -> [(&'static str, Option<&Held>); 3] {
        [("mesh-agent", self.agent.as_ref()), ("mesh-proxy", self.proxy.as_ref()), ("mesh-dns", self.dns.as_ref())]
    }
}

impl Draft<'_> {
    fn node(self, (address, host): &Key, registry: &Registry) -> Node {
        let held = |role: Role| held(self.clients.iter().filter(|client| client.role == role));
        let agent = held(Role::Agent);
        let reports: Vec<_> = self.clients.iter().filter_map(|client| client.report.as_deref()).collect();
        let workloads = self.workloads.iter().filter_map(|id| registry.workloads.get(*id));
        let (mut enrolled, mut missing, mut unwanted) = (0, Vec::new(), Vec::new());
        for workload in workloads {
            let is_in = reports.iter().any(|report| report.enrolled.contains(&workload.id));
            match (workload.enrol, is_in) {
                (true, true) => enrolled += 1,
                (true, false) => {
                    let reason = reason(&workload.id, agent.is_some(), &reports);
                    missing.push(Missing { workload: workload.id.clone(), app: workload.app.clone(), reason });
                }
                (false, true) => unwanted.push(workload.id.clone()),
                (false, false) => {}
            }
        }
        Node {
            node: address.map_or_else(|| host.clone(), |address| address.to_string()),
            mesos_agent: self.mesos.map(|agent| MesosAgent { id: agent.id.clone(), active: agent.active }),
            agent,
            proxy: held(Role::Node),
            dns: held(Role::Dns),
            workloads: self.workloads.len(),
            wanted: enrolled + missing.len(),
            enrolled,
            missing,
            unwanted,
        }
    }
}

/// Of several processes of a kind, which meet while one takes the place of another, what both hold.
fn held<'a>(clients: impl Iterator<Item = &'a &'a Client>) -> Option<Held> {
    clients.fold(None, |held: Option<Held>, client| {
        let Some(held) = held else { return Some(Held { version: client.holds, refusal: client.refusal.clone() }) };
        Some(Held { version: held.version.min(client.holds), refusal: held.refusal.or_else(|| client.refusal.clone()) })
    })
}

fn reason(id: &str, has_agent: bool, reports: &[&Report]) -> String {
    if !has_agent {
        return "no mesh-agent is connected".to_owned();
    }
    if reports.iter().any(|report| report.bypassed.contains(id)) {
        return "taken out by `mesh-agent bypass`".to_owned();
    }
    let told = reports.iter().find_map(|report| report.missing.get(id));
    told.cloned().unwrap_or_else(|| "mesh-agent has not spoken of it yet".to_owned())
}
