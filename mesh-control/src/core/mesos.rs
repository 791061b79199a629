//! The agents that a Mesos master lists (`GET /slaves`): which nodes there are, whether or not anything runs there, and where they are.

use super::registry::Locality;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Attributes of an agent that say where it is, for clusters without fault domains.
const REGION: &str = "region";
const ZONE: &str = "zone";

/// One agent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Agent {
    /// Mesos' id of it.
    pub(crate) id: String,
    /// As Marathon names the node.
    pub(crate) host: String,
    /// The node's; `None` if neither its name nor its process says so.
    pub(crate) address: Option<IpAddr>,
    /// False while the master waits for it to come back.
    pub(crate) active: bool,
    pub(crate) place: Locality,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Slaves {
    slaves: Vec<Slave>,
}

#[derive(Debug, Deserialize)]
struct Slave {
    id: String,
    hostname: String,
    #[serde(default)]
    pid: String,
    #[serde(default)]
    active: bool,
    #[serde(default)]
    attributes: BTreeMap<String, Value>,
    #[serde(default)]
    domain: Value,
}

impl Slaves {
    /// In the order of their names.
    pub(crate) fn agents(self) -> Vec<Agent> {
        let mut agents: Vec<_> = self.slaves.into_iter().map(Slave::agent).collect();
        agents.sort_by(|one, other| (&one.host, &one.id).cmp(&(&other.host, &other.id)));
        agents
    }
}

impl Slave {
    fn agent(self) -> Agent {
        // libprocess writes `slave(1)@192.0.2.11:5051`.
        let process = || self.pid.rsplit('@').next()?.parse::<SocketAddr>().ok();
        let address = self.hostname.parse().ok().or_else(|| process().map(|process| process.ip()));
        let domain = |part: &str| self.domain["fault_domain"][part]["name"].as_str().unwrap_or_default().to_owned();
        let attribute = |name: &str| self.attributes.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut place = Locality::new(&domain("region"), &domain("zone"));
        if place.is_unknown() {
            place = Locality::new(&attribute(REGION), &attribute(ZONE));
        }
        Agent { address, place, id: self.id, host: self.hostname, active: self.active }
    }
}

/// Where the agents are, of those that say so.
pub(crate) fn places(agents: &[Agent]) -> BTreeMap<IpAddr, Arc<Locality>> {
    let known = agents.iter().filter(|agent| !agent.place.is_unknown());
    known.filter_map(|agent| Some((agent.address?, Arc::new(agent.place.clone())))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn agents_are_nodes_at_places() {
        let slaves: Slaves = serde_json::from_value(json!({"recovered_slaves": [], "slaves": [
            {"id": "S1", "hostname": "worker.example", "port": 5051, "pid": "slave(1)@192.0.2.12:5051", "active": false,
             "attributes": {"region": "r", "zone": "a", "rack": 7.0}},
            {"id": "S0", "hostname": "192.0.2.11", "pid": "slave(1)@[fd01::1]:5051", "active": true, "attributes": {"zone": "a", "region": "x"},
             "domain": {"fault_domain": {"region": {"name": "aws/us-west-2"}, "zone": {"name": "aws/us-west-2b"}}}},
            {"id": "S2", "hostname": "x.example", "pid": "?"}]}))
        .expect("valid");
        let agents = slaves.agents();
        let at: Vec<_> = agents.iter().map(|agent| (agent.id.as_str(), agent.address, agent.active)).collect();
        let address = |text: &str| text.parse::<IpAddr>().ok();
        assert_eq!(at, [("S0", address("192.0.2.11"), true), ("S1", address("192.0.2.12"), false), ("S2", None, false)]);
        let place = |region: &str, zone: &str| Locality { region: region.to_owned(), zone: zone.to_owned() };
        assert_eq!(agents[0].place, place("us-west-2", "us-west-2b"), "a fault domain counts more than attributes");
        assert_eq!(agents[1].place, place("r", "a"));
        assert_eq!(places(&agents).len(), 2);
    }
}
