//! One instance of an app or pod, and the tasks (containers) in it. Pure data.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use jiff::Timestamp;

use super::health::Health;
use super::spec::{Kind, Network, Spec};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Staging,
    Starting,
    Running,
    Killing,
    Killed,
    Failed,
    Finished,
}

impl State {
    pub(crate) fn task_status(self) -> &'static str {
        match self {
            Self::Staging => "TASK_STAGING",
            Self::Starting => "TASK_STARTING",
            Self::Running => "TASK_RUNNING",
            Self::Killing => "TASK_KILLING",
            Self::Killed => "TASK_KILLED",
            Self::Failed => "TASK_FAILED",
            Self::Finished => "TASK_FINISHED",
        }
    }

    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::Staging => "Staging",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Killing => "Killing",
            Self::Killed => "Killed",
            Self::Failed => "Failed",
            Self::Finished => "Finished",
        }
    }

    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Killed | Self::Failed | Self::Finished)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) container: String,
    /// The Mesos container's id: names its cgroup and its files on the agent.
    pub(crate) uuid: String,
    pub(crate) state: State,
    pub(crate) since: Timestamp,
    pub(crate) message: String,
    pub(crate) pid: Option<i32>,
    /// When SIGTERM becomes SIGKILL.
    pub(crate) kill_at: Option<Timestamp>,
    /// One for each of the container's checks.
    pub(crate) health: Vec<Health>,
}

impl Task {
    /// `None` without checks, and before all of them have a result.
    pub(crate) fn alive(&self) -> Option<bool> {
        if self.health.iter().any(|h| h.alive == Some(false)) {
            return Some(false);
        }
        (!self.health.is_empty() && self.health.iter().all(|h| h.alive.is_some())).then_some(true)
    }

    fn is_healthy(&self) -> bool {
        self.health.is_empty() || self.alive() == Some(true)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Waits for its back-off, then for a node.
    Scheduled { not_before: Timestamp },
    /// Its tasks exist on a node.
    Live,
    /// Every task is terminal; the node takes down namespace and cgroup.
    Cleaning,
}

#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) uuid: String,
    /// As of the launch; a newer version of the app or pod may exist.
    pub(crate) spec: Arc<Spec>,
    pub(crate) phase: Phase,
    pub(crate) stopping: bool,
    pub(crate) incarnation: u32,
    pub(crate) failures: u32,
    /// Its present incarnation failed: the next one has to wait for its back-off.
    pub(crate) failed: bool,
    /// Task and message, for people.
    pub(crate) last_failure: Option<String>,
    pub(crate) created: Timestamp,
    pub(crate) condition: &'static str,
    /// As it was last told.
    pub(crate) healthy: Option<bool>,
    /// A resident instance keeps its node.
    pub(crate) pinned: Option<usize>,
    pub(crate) node: usize,
    pub(crate) hostname: String,
    pub(crate) agent_id: String,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    /// (container, index of its endpoint) to the host port on the node.
    pub(crate) host_ports: BTreeMap<(String, usize), u16>,
    pub(crate) tasks: Vec<Task>,
    /// Those of the incarnation before, while none are there: whoever looks for the logs of a crash finds them.
    pub(crate) ended: Vec<Task>,
    pub(crate) executor_uuid: Option<String>,
    pub(crate) staged: Timestamp,
    pub(crate) started: Option<Timestamp>,
    pub(crate) changed: Timestamp,
}

/// All nodes are in this region.
pub(crate) const REGION: &str = "sim";

/// Every node is a zone of its own, `sim-a` first: what is said of a zone can be tried with two nodes.
pub(crate) fn zone(node: usize) -> String {
    let letter = u8::try_from(node).map_or('z', |node| char::from(b'a' + node.min(25)));
    format!("sim-{letter}")
}

impl Instance {
    pub(crate) fn zone(&self) -> String {
        zone(self.node)
    }

    pub(crate) fn scheduled(spec: Arc<Spec>, uuid: String, now: Timestamp) -> Self {
        Self {
            id: super::ids::instance(&spec.id, &uuid),
            uuid,
            spec,
            phase: Phase::Scheduled { not_before: now },
            stopping: false,
            incarnation: 0,
            failures: 0,
            failed: false,
            last_failure: None,
            created: now,
            condition: "Scheduled",
            healthy: None,
            pinned: None,
            node: 0,
            hostname: String::new(),
            agent_id: String::new(),
            v4: None,
            v6: None,
            host_ports: BTreeMap::new(),
            tasks: Vec::new(),
            ended: Vec::new(),
            executor_uuid: None,
            staged: now,
            started: None,
            changed: now,
        }
    }

    pub(crate) fn is_scheduled(&self) -> bool {
        matches!(self.phase, Phase::Scheduled { .. })
    }

    pub(crate) fn is_running(&self) -> bool {
        self.phase == Phase::Live && self.tasks.iter().all(|t| t.state == State::Running)
    }

    /// Counts for the capacity of its app or pod.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_running() && !self.stopping && self.tasks.iter().all(Task::is_healthy)
    }

    /// Marathon's rule: one unhealthy task makes it unhealthy; healthy needs all tasks to run and one to be reported healthy.
    pub(crate) fn current_health(&self) -> Option<bool> {
        let of = |alive: bool| self.tasks.iter().any(|t| t.alive() == Some(alive));
        let known = self.is_running() && self.tasks.iter().all(Task::is_healthy);
        if of(false) && !self.tasks.iter().any(|t| t.state.is_terminal()) {
            Some(false)
        } else {
            (known && of(true)).then_some(true)
        }
    }

    /// The worst state speaks for the instance.
    pub(crate) fn current_condition(&self) -> &'static str {
        let order =
            [State::Failed, State::Killing, State::Killed, State::Staging, State::Starting, State::Running, State::Finished];
        let worst = order.into_iter().find(|s| self.tasks.iter().any(|t| t.state == *s));
        if self.is_scheduled() { "Scheduled" } else { worst.map_or("Provisioned", State::condition) }
    }

    pub(crate) fn network_name(&self) -> Option<&str> {
        match &self.spec.network {
            Network::Host => None,
            Network::Container(name) => Some(name),
            Network::Bridge => Some("mesos-bridge"),
        }
    }

    /// What Mesos reports: the agent's address on the host network; the network's family otherwise (`dcos6` is IPv6).
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        match &self.spec.network {
            Network::Host => self.hostname.parse().ok().into_iter().collect(),
            Network::Container(name) if name == "dcos6" => self.v6.map(IpAddr::V6).into_iter().collect(),
            _ => self.v4.map(IpAddr::V4).into_iter().collect(),
        }
    }

    /// Where a client on the node reaches it.
    pub(crate) fn dial_address(&self) -> Option<IpAddr> {
        self.v4.map(IpAddr::V4).or_else(|| self.hostname.parse().ok())
    }

    /// Host ports of the tasks' endpoints in definition order: only of those that have one.
    pub(crate) fn ports_of(&self, container: &str) -> Vec<u16> {
        self.host_ports.iter().filter(|((name, _), _)| name == container).map(|(_, port)| *port).collect()
    }

    pub(crate) fn is_app(&self) -> bool {
        self.spec.kind == Kind::App
    }
}
