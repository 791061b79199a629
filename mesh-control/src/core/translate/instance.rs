//! Tasks of apps and instances of pods in one form: the workload, and where each declared port of its spec is served.
//!
//! Whatever has no address or no port is no endpoint; inactive and unreachable tasks are listed by Marathon without them.

use super::node_address;
use super::spec::{Declared, Net, Spec};
use crate::core::registry::{Endpoint, Health, Locality, Workload};
use crate::marathon::types::{App, Condition, ContainerStatus, Instance, Pod, Task};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// An instance that runs (or is being killed).
pub(super) struct Running {
    pub(super) workload: Workload,
    /// Beside each of the spec's ports: who serves it.
    pub(super) serving: Vec<Option<Endpoint>>,
}

/// Addresses are right only in these states: while a task starts, Marathon shows its agent's.
fn is_active(state: &str) -> bool {
    matches!(state, "TASK_RUNNING" | "TASK_KILLING" | UNREACHABLE)
}

/// Mesos has lost the agent. While it may come back, Marathon goes on saying where the task was.
const UNREACHABLE: &str = "TASK_UNREACHABLE";

pub(super) fn of_task(app: &App, spec: &Spec, task: &Task, hosts: &BTreeMap<String, IpAddr>) -> Option<Running> {
    let nowhere = task.ports.is_empty() && task.ip_addresses.is_empty();
    if !is_active(&task.state) || (task.state == UNREACHABLE && nowhere) {
        return None;
    }
    let health = match (task.state.as_str(), task.health_check_results.as_slice()) {
        ("TASK_KILLING", _) => Health::Draining,
        (UNREACHABLE, _) => Health::Unreachable,
        _ if app.awaits(task) => Health::Unready,
        (_, []) if app.health_checks.is_empty() => Health::Healthy,
        (_, []) => Health::Unknown,
        (_, results) if results.iter().all(|result| result.alive) => Health::Healthy,
        _ => Health::Unhealthy,
    };
    // From Marathon 1.8 an instance outlives its tasks: `<instance>._app.<incarnation>`.
    let id = task.id.split_once("._app.").map_or(task.id.as_str(), |(instance, _)| instance);
    let addresses = task.ip_addresses.iter().map(|address| address.ip_address).collect();
    let domain = Locality::new(&task.region, &task.zone);
    let place = Place::new(spec, id, &app.id, (&task.host, hosts, domain), addresses);
    // `ports` has an element per declared port with a host port, in this order; the other ports have none.
    let mut host_ports = task.ports.iter().copied();
    let serving = spec.ports.iter().map(|declared| {
        let host_port = if declared.has_host_port { host_ports.next() } else { None };
        place.endpoint(spec, declared, host_port, health)
    });
    let serving = serving.collect();
    Some(Running { serving, workload: place.workload })
}

pub(super) fn of_pod(pod: &str, spec: &Spec, instance: &Instance, hosts: &BTreeMap<String, IpAddr>) -> Option<Running> {
    if !instance.containers.iter().any(|container| is_active(&container.status)) {
        return None;
    }
    let addresses = instance.networks.iter().flat_map(|network| network.addresses.iter().copied()).collect();
    let domain = Locality::new(&instance.agent_region, &instance.agent_zone);
    let place = Place::new(spec, &instance.id, pod, (&instance.agent_hostname, hosts, domain), addresses);
    let serving = spec.ports.iter().map(|declared| {
        let container = instance.containers.iter().find(|c| c.name == declared.container && is_active(&c.status))?;
        // Joined by name: Marathon lists the statuses in another order than the spec.
        let status = container.endpoints.iter().find(|endpoint| endpoint.name == declared.name)?;
        let health = pod_health(container, status.healthy);
        place.endpoint(spec, declared, status.allocated_host_port, health)
    });
    let serving = serving.collect();
    Some(Running { serving, workload: place.workload })
}

fn pod_health(container: &ContainerStatus, endpoint: Option<bool>) -> Health {
    let is_health = |condition: &&Condition| condition.name == "healthy";
    let condition = container.conditions.iter().find(is_health);
    let healthy = endpoint.or_else(|| condition.map(|condition| condition.value == "true"));
    match healthy {
        _ if container.status == "TASK_KILLING" => Health::Draining,
        _ if container.status == UNREACHABLE => Health::Unreachable,
        None | Some(true) => Health::Healthy,
        Some(false) if condition.is_some_and(|c| c.reason.contains("unreported")) => Health::Unknown,
        Some(false) => Health::Unhealthy,
    }
}

impl Instance {
    /// Does it run the newest version of its pod?
    pub(crate) fn is_newest(&self, newest: &Pod) -> bool {
        let version = self.spec_reference.rsplit_once("::versions/").map(|(_, version)| version);
        version.is_none_or(|version| version == newest.version)
    }
}

/// Where an instance is.
struct Place {
    workload: Workload,
    node: Option<IpAddr>,
    container: Option<IpAddr>,
}

impl Place {
    fn new(
        spec: &Spec,
        id: &str,
        app: &str,
        (host, hosts, domain): (&str, &BTreeMap<String, IpAddr>, Locality),
        addresses: Vec<IpAddr>,
    ) -> Self {
        let node = node_address(host, hosts);
        let host_network = spec.network == Net::Host;
        let addresses = if host_network { Vec::new() } else { addresses };
        // IPv4 first: it is what a service without further ado is expected to answer on.
        let container = addresses.iter().find(|a| a.is_ipv4()).or_else(|| addresses.first()).copied();
        let workload = Workload {
            id: id.to_owned(),
            app: app.to_owned(),
            namespace: spec.namespace.clone(),
            node: node.map_or_else(|| host.to_owned(), |node| node.to_string()),
            place: Arc::new(domain),
            addresses,
            labels: spec.labels.clone(),
            enrol: spec.enrol,
            host_network,
            inbound: spec.inbound.clone(),
            outbound: spec.outbound,
        };
        Self { workload, node, container }
    }

    fn endpoint(&self, spec: &Spec, declared: &Declared, host_port: Option<u16>, health: Health) -> Option<Endpoint> {
        let host_port = host_port.filter(|port| *port > 0);
        let on_node = self.node.zip(host_port).map(SocketAddr::from);
        let in_container = self.container.zip(declared.container_port.or(host_port)).map(SocketAddr::from);
        let (at_home, elsewhere) = match spec.network {
            Net::Host => (on_node?, on_node),
            Net::Bridge => (in_container.or(on_node)?, on_node),
            Net::Overlay => {
                let address = in_container.or(on_node)?;
                (address, Some(address))
            }
        };
        let workload = self.workload.id.clone();
        let place = self.workload.place.clone();
        let labels = spec.labels.clone();
        Some(Endpoint { at_home, elsewhere, published: on_node, node: self.node, place, workload, labels, health })
    }
}
