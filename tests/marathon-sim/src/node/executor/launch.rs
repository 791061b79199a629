//! What a launch needs: the instance's network, and for each task its root, volumes, program and privileges.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};

use super::Executor;
use crate::core::instance::{Instance, Task};
use crate::core::spec::{Container, Network, Source, container_port};
use crate::node::cni::Wiring;
use crate::node::images::Images;
use crate::node::netns::NetNs;
use crate::node::rootfs::{Bind, Root};
use crate::node::task::{Program, TaskSpec};
use crate::node::{bridge, caps, forward, topology};

/// Host paths that are the machine's own even on a simulated node: they describe the kernel, which all nodes share.
const REAL: [&str; 6] = ["/proc", "/sys", "/dev", "/lib/modules", "/usr", "/boot"];

/// The node's namespace for the host network, otherwise a new one, and what will connect it to a bridge.
pub(crate) fn network(node: &NetNs, instance: &Instance, uuid: &str) -> Result<(NetNs, Option<Wiring>)> {
    let Some(v4) = instance.v4 else { return Ok((node.clone(), None)) };
    let container = NetNs::create()?;
    let bridge = if instance.spec.network == Network::Bridge { topology::BRIDGE } else { topology::OVERLAY };
    let veth = format!("v{}", uuid.replace('-', "").chars().take(12).collect::<String>());
    let (bridge, v6) = (bridge.to_owned(), instance.v6);
    let wiring = Wiring { node: node.path(), container: container.path(), veth, bridge, v4, v6 };
    Ok((container, Some(wiring)))
}

/// Host ports of an instance, open until dropped.
pub(crate) struct Ports {
    _copied: Vec<forward::Handle>,
    _mapped: Option<bridge::HostPorts>,
}

impl Ports {
    pub(crate) fn open(node: &NetNs, instance: &Instance) -> Result<Self> {
        let is_overlay = matches!(instance.spec.network, Network::Container(_));
        let copied = if is_overlay { copied(node, instance)? } else { Vec::new() };
        Ok(Self { _copied: copied, _mapped: bridge::HostPorts::open(node, instance)? })
    }
}

/// Of overlays, whose containers are also reached without: the stand-in listens on the node and copies. TCP only.
fn copied(node: &NetNs, instance: &Instance) -> Result<Vec<forward::Handle>> {
    let Some(v4) = instance.v4 else { return Ok(Vec::new()) };
    let agent = instance.hostname.parse()?;
    let mut out = Vec::new();
    for ((name, index), host_port) in &instance.host_ports {
        let container = instance.spec.containers.iter().find(|c| c.name == *name);
        let endpoint = container.and_then(|c| c.endpoints.get(*index));
        let Some(port) = endpoint.and_then(|e| container_port(e, *host_port)) else { continue };
        let listener = listen(node, SocketAddr::V4(SocketAddrV4::new(agent, *host_port)))?;
        let to = SocketAddr::V4(SocketAddrV4::new(v4, port));
        let node = node.clone();
        out.push(forward::serve(listener, move || Some((node.clone(), to))));
    }
    Ok(out)
}

/// The port's last user may be going away at this moment.
fn listen(node: &NetNs, address: SocketAddr) -> Result<tokio::net::TcpListener> {
    let mut attempts = 0;
    loop {
        match node.tcp_listener(address) {
            Err(_) if attempts < 20 => {
                attempts += 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

impl Executor {
    pub(crate) fn task_spec(
        &self,
        instance: &Instance,
        task: &Task,
        container: &Container,
        mut env: BTreeMap<String, String>,
    ) -> Result<TaskSpec> {
        let node = &self.node_names[instance.node];
        let argv = self.images.resolve(container).map_err(|why| anyhow!(why))?;
        if let (Some(directory), Some(path)) = (self.images.directory(container), env.get_mut("PATH")) {
            *path = format!("{path}:{directory}");
        }
        let hostname = if instance.v4.is_some() { task.uuid.clone() } else { node.clone() };
        let addresses = instance.dial_address().map(|ip| format!("{ip} {hostname}\n")).unwrap_or_default();
        let mut binds = self.program_binds();
        for mount in &container.mounts {
            let source = self.volume(instance, node, &mount.source, &mount.container_path)?;
            binds.push(Bind { source, target: mount.container_path.clone(), read_only: mount.read_only });
        }
        let grant = caps::grant(&container.privileges)?;
        let root = Root {
            scaffold: self.layout.container(&task.uuid).join("scaffold"),
            hosts: format!("127.0.0.1 localhost\n::1 localhost\n{addresses}"),
            hostname,
            resolver: topology::RESOLVER.to_string(),
            binds,
            privileged: grant.privileged,
        };
        Ok(TaskSpec {
            cgroup_node: self.layout.cgroup_node(node),
            cgroup: self.layout.cgroup(node, instance.executor_uuid.as_deref(), &task.uuid),
            netns: self.netns_path(&instance.id)?,
            program: Some(Program { root, argv, env, grant }),
        })
    }

    /// The overlay shows one file system only; programs on others are bound in.
    fn program_binds(&self) -> Vec<Bind> {
        let bind = |path: &PathBuf| Bind { source: path.clone(), target: path.display().to_string(), read_only: true };
        self.program_mounts.iter().map(bind).collect()
    }

    fn volume(&self, instance: &Instance, node: &str, source: &Source, path: &str) -> Result<PathBuf> {
        let flat = path.trim_matches('/').replace('/', "_");
        let directory = match source {
            Source::Host(host) => return self.host_path(node, host),
            Source::Ephemeral(name) => {
                let outer = instance.executor_uuid.as_deref().unwrap_or(&instance.uuid);
                self.layout.container(outer).join("volumes").join(name)
            }
            Source::Persistent => self.layout.state.join(node).join("volumes").join(format!("{}_{flat}", instance.id)),
        };
        std::fs::create_dir_all(&directory)?;
        // As Mesos does, volumes belong to whoever runs the task.
        std::fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
        Ok(directory)
    }

    /// The node's cgroups and bpffs are its part of the machine's; the rest is below the state directory.
    fn host_path(&self, node: &str, host: &str) -> Result<PathBuf> {
        let path = Path::new(host);
        let bpffs = crate::node::layout::bpffs_root();
        if let Ok(below) = path.strip_prefix("/sys/fs/cgroup") {
            return Ok(self.layout.cgroup_node(node).join(below));
        }
        if let Ok(below) = path.strip_prefix(bpffs) {
            let directory = self.layout.bpffs(node).join(below);
            std::fs::create_dir_all(&directory)?;
            return Ok(directory);
        }
        if REAL.iter().any(|real| path.starts_with(real)) {
            return Ok(path.to_owned());
        }
        let inside = super::super::rootfs::resolve_in(&self.layout.node_root(node), path)?;
        if !inside.exists() {
            std::fs::create_dir_all(&inside).with_context(|| format!("create {}", inside.display()))?;
        }
        Ok(inside)
    }
}

/// Mount points that hold an image's program, or usual places of programs; not the ones that each task gets anyway.
pub(crate) fn program_mounts(images: &Images) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points: Vec<PathBuf> = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect();
    let own = ["/", "/proc", "/sys", "/dev", "/run", "/tmp"].map(Path::new);
    let special = |p: &Path| own.contains(&p) || ["/proc", "/sys", "/dev", "/run"].iter().any(|s| p.starts_with(s));
    let usual = ["/usr", "/home", "/opt", "/nix", "/root", "/work"].map(Path::new);
    let holds = |p: &PathBuf| usual.contains(&p.as_path()) || images.programs().any(|program| program.starts_with(p));
    // A task's /run is its own: programs that lie there are shown by their directory.
    let in_run = images.programs().filter(|p| p.starts_with("/run")).filter_map(Path::parent).map(Path::to_owned);
    let mut out: Vec<PathBuf> = points.into_iter().filter(|p| !special(p) && holds(p)).chain(in_run).collect();
    out.sort();
    out.dedup();
    out
}
