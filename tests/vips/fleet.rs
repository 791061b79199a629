//! Servers on every network that Mesos offers, as app and as pod, one instance on each node, and clients to dial them from.

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::{World, pid_of};
use serde_json::{Value, json};
use std::time::Duration;

/// Twenty instances start at once, on a machine that may do other things too.
const STARTED: Duration = Duration::from_secs(60);
/// Where servers listen in containers of their own.
const PORT: u16 = 8080;

/// What a container is connected to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Network {
    Host,
    Bridge,
    /// DC/OS' overlay of IPv4.
    Overlay,
    /// DC/OS' overlay of IPv6.
    Overlay6,
}

impl Network {
    pub(crate) const ALL: [Self; 4] = [Self::Host, Self::Bridge, Self::Overlay, Self::Overlay6];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Bridge => "bridge",
            Self::Overlay => "overlay",
            Self::Overlay6 => "overlay6",
        }
    }

    /// The spellings of apps and pods.
    fn json(self, is_pod: bool) -> Value {
        match self {
            Self::Host => json!([{"mode": "host"}]),
            Self::Bridge if is_pod => json!([{"mode": "container", "name": "mesos-bridge"}]),
            Self::Bridge => json!([{"mode": "container/bridge"}]),
            Self::Overlay => json!([{"mode": "container", "name": "dcos"}]),
            Self::Overlay6 => json!([{"mode": "container", "name": "dcos6"}]),
        }
    }

    /// `mesos-bridge` has a host port by itself in apps; pods ask for one. On overlays nobody needs any.
    fn has_host_port(self) -> bool {
        matches!(self, Self::Host | Self::Bridge)
    }
}

/// A server: two instances, one on each node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Server {
    pub(crate) network: Network,
    pub(crate) is_pod: bool,
}

impl Server {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Network::ALL.into_iter().flat_map(|network| [false, true].map(|is_pod| Self { network, is_pod }))
    }

    pub(crate) const fn kind(self) -> &'static str {
        if self.is_pod { "pod" } else { "app" }
    }

    fn short(self) -> String {
        format!("to-{}-{}", self.network.name(), self.kind())
    }

    pub(crate) fn id(self) -> String {
        format!("/{}", self.short())
    }

    /// The named VIP, which has two ports.
    pub(crate) fn name(self) -> String {
        format!("{}.marathon.l4lb.thisdcos.directory", self.short())
    }

    /// A VIP that is an address, of which there are two.
    pub(crate) fn address(self, second: bool) -> String {
        let number = self.network as u16 * 2 + u16::from(self.is_pod) + 1;
        let which = u16::from(second);
        if self.network == Network::Overlay6 { format!("fd01:c::77:{which}:{number}") } else { format!("11.77.{which}.{number}") }
    }

    fn labels(self) -> Value {
        let (name, first, second) = (self.id(), self.address(false), self.address(true));
        json!({"VIP_0": format!("{name}:80"), "VIP_1": format!("{name}:81"), "VIP_2": format!("{first}:80"), "VIP_3": format!("{second}:5000")})
    }

    fn post(self, world: &World) -> Result<()> {
        let tell = format!("exec {} tell", world.echo_program());
        let networks = self.network.json(self.is_pod);
        // Marathon's names differ: of a pod's ports by endpoint, of an app's by number.
        let command = match (self.network, self.is_pod) {
            (Network::Host, true) => format!("{tell} --port $ENDPOINT_TCP_TELL --address $HOST"),
            (Network::Host, false) => format!("{tell} --port $PORT0 --address $HOST"),
            _ => format!("{tell} --port {PORT}"),
        };
        let mut port = json!({"name": "tcp-tell", "labels": self.labels()});
        if self.network.has_host_port() {
            port["hostPort"] = json!(0);
        }
        if self.network != Network::Host {
            port["containerPort"] = json!(PORT);
        }
        if self.is_pod {
            port["protocol"] = json!(["tcp", "udp"]);
            let pod = json!({
                "id": self.id(), "networks": networks, "scaling": {"kind": "fixed", "instances": 2},
                "containers": [{"name": "main", "resources": {"cpus": 0.1, "mem": 32}, "exec": {"command": {"shell": command}}, "endpoints": [port]}],
                "scheduling": {"placement": {"constraints": [{"fieldName": "hostname", "operator": "UNIQUE"}]}},
            });
            return world.marathon("POST", "/v2/pods", &pod.to_string()).map(drop);
        }
        port["protocol"] = json!("tcp,udp");
        let mut app = json!({
            "id": self.id(), "networks": networks, "instances": 2, "cmd": command, "cpus": 0.1, "mem": 32, "constraints": [["hostname", "UNIQUE"]],
        });
        if self.network == Network::Host {
            port["port"] = json!(0);
            app["portDefinitions"] = json!([port]);
        } else {
            app["container"] = json!({"type": "MESOS", "portMappings": [port]});
        }
        world.marathon("POST", "/v2/apps", &app.to_string()).map(drop)
    }
}

/// Who dials, on node1.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) network: Network,
    pub(crate) is_enrolled: bool,
}

impl Client {
    pub(crate) const ALL: [Self; 5] = [
        Self { network: Network::Overlay, is_enrolled: true },
        Self { network: Network::Bridge, is_enrolled: true },
        Self { network: Network::Host, is_enrolled: true },
        Self { network: Network::Overlay, is_enrolled: false },
        Self { network: Network::Host, is_enrolled: false },
    ];

    pub(crate) fn id(self) -> String {
        format!("/from-{}-{}", self.network.name(), if self.is_enrolled { "in" } else { "out" })
    }

    /// mesos-bridge has no IPv6.
    pub(crate) fn has_v6(self) -> bool {
        self.network != Network::Bridge
    }

    fn post(self, world: &World) -> Result<()> {
        let app = json!({
            "id": self.id(), "networks": self.network.json(false), "cmd": "exec sleep 3600", "cpus": 0.1, "mem": 32,
            "labels": {"sidecar.istio.io/inject": self.is_enrolled.to_string()}, "constraints": [["hostname", "CLUSTER", "198.18.0.11"]],
        });
        world.marathon("POST", "/v2/apps", &app.to_string()).map(drop)
    }
}

/// Servers and clients run, and who asks for the mesh is in it.
pub(crate) fn started(world: &World) -> Result<()> {
    if world.instances_of(&Client::ALL[0].id()).is_ok() {
        return Ok(());
    }
    Server::all().try_for_each(|server| server.post(world))?;
    Client::ALL.iter().try_for_each(|client| client.post(world))?;
    for (id, wanted) in Server::all().map(|s| (s.id(), 2)).chain(Client::ALL.iter().map(|c| (c.id(), 1))) {
        running(world, &id, wanted)?;
    }
    eventually("clients are enrolled", STARTED, || {
        let status: Value = serde_json::from_str(&world.admin("node1", "agent", "/status")?)?;
        let pods = status["pods"].as_array().context("no pods")?;
        for client in Client::ALL.iter().filter(|client| client.is_enrolled) {
            let id = client.id();
            ensure!(pods.iter().any(|pod| pod["app"] == id.as_str() && pod["enrolled"] == true), "{id}: {status}");
        }
        Ok(())
    })
}

/// So many instances run.
pub(crate) fn running(world: &World, id: &str, wanted: usize) -> Result<()> {
    eventually(&format!("{id} runs"), STARTED, || {
        let all = world.instances_of(id)?;
        let running = all.iter().filter(|i| i["running"] == true && pid_of(i).is_ok()).count();
        ensure!(running == wanted && all.len() == wanted, "{running} of {wanted}: {all:?}");
        Ok(())
    })
}
