//! Carries out the core's effects, one after the other on a thread of its own: launches instances, signals tasks, cleans up.
//! What the kernel answers goes back as events.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;

use super::netns::NetNs;
use super::task::TaskSpec;
use super::topology::{self, Topology};
use super::{agent_files, cgroup, cni, images::Images, layout::Layout, logs};
use crate::core::instance::Instance;
use crate::core::{Effect, Event, Launch, Outcome};

pub(crate) mod launch;
mod probe;

/// How many ended containers keep their logs.
const RETIRED: usize = 100;

/// All that the node side knows; shared with the admin and agent APIs.
pub(crate) struct Executor {
    pub(crate) layout: Layout,
    pub(crate) topology: Topology,
    pub(crate) images: Images,
    pub(crate) node_names: Vec<String>,
    /// Mount points of this machine, besides `/`, that hold programs.
    pub(crate) program_mounts: Vec<PathBuf>,
    pub(crate) instances: Mutex<HashMap<String, Live>>,
    tasks: Mutex<HashMap<String, Process>>,
    events: UnboundedSender<Event>,
    stopping: AtomicBool,
    /// Containers that ended, oldest first; their logs are kept for a while.
    retired: Mutex<VecDeque<String>>,
}

/// An instance on its node.
pub(crate) struct Live {
    pub(crate) node: String,
    pub(crate) netns: NetNs,
    /// The outermost container: the executor's for pods, the task's for apps.
    outer: String,
    cgroup: PathBuf,
    tasks: Vec<String>,
    ports: launch::Ports,
    /// Who has made its network, and must hear of its end.
    plugin: Option<cni::Plugin>,
    network: String,
}

struct Process {
    pid: i32,
    pidfd: OwnedFd,
    cgroup: PathBuf,
}

impl Executor {
    pub(crate) fn new(layout: Layout, topology: Topology, images: Images, events: UnboundedSender<Event>) -> Self {
        let node_names = (1..=topology.nodes.len()).map(|n| format!("node{n}")).collect();
        let program_mounts = launch::program_mounts(&images);
        let (instances, tasks, retired) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self {
            layout,
            topology,
            images,
            node_names,
            program_mounts,
            instances,
            tasks,
            events,
            stopping: AtomicBool::new(false),
            retired,
        }
    }

    /// Must be called inside the runtime: processes are watched by it.
    pub(crate) fn perform(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::Launch(_) if self.stopping.load(Ordering::Relaxed) => {}
            Effect::Launch(launch) => self.launch(&launch),
            Effect::Terminate { task } => self.terminate(&task),
            Effect::Kill { task } => {
                if let Some(process) = self.tasks.lock().get(&task) {
                    cgroup::kill(&process.cgroup);
                }
            }
            Effect::Cleanup { instance } => {
                let this = Arc::clone(self);
                tokio::task::spawn_blocking(move || this.cleanup(&instance));
            }
            Effect::Probe(attempt) => self.probe(*attempt),
            Effect::Publish(_) => {}
        }
    }

    fn launch(self: &Arc<Self>, launch: &Launch) {
        if let Err(error) = self.prepare(&launch.instance).and_then(|()| self.start_executor(&launch.instance)) {
            tracing::warn!(instance = launch.instance.id, "launch failed: {error:#}");
            for (task, _, _) in &launch.tasks {
                self.report(Event::Exited { task: task.id.clone(), outcome: Outcome::NotLaunched(format!("{error:#}")) });
            }
            return;
        }
        for (task, container, env) in &launch.tasks {
            let spec = self.task_spec(&launch.instance, task, container, env.clone());
            if let Err(error) = spec.and_then(|spec| self.start(&launch.instance, &task.id, &task.uuid, &spec)) {
                tracing::warn!(task = task.id, "launch failed: {error:#}");
                self.report(Event::Exited { task: task.id.clone(), outcome: Outcome::NotLaunched(format!("{error:#}")) });
            }
        }
    }

    fn report(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Network, cgroup and records of the instance.
    fn prepare(&self, instance: &Instance) -> Result<()> {
        let node = &self.node_names[instance.node];
        let outer = instance.executor_uuid.clone().unwrap_or_else(|| instance.tasks[0].uuid.clone());
        let cgroup = self.layout.cgroup(node, None, &outer);
        cgroup::create(&cgroup)?;
        let (netns, wiring) = launch::network(&self.topology.nodes[instance.node], instance, &outer)?;
        let container = netns.clone();
        let network = instance.network_name().unwrap_or_default().to_owned();
        if let Some(v4) = instance.v4 {
            agent_files::write_network(&self.layout.mesos_run(node), &outer, &network, &netns.path(), v4, instance.v6)?;
        }
        let ports = launch::Ports::open(&self.topology.nodes[instance.node], instance)?;
        let plugin = cni::Plugin::find(&self.layout.node_root(node), &network, &outer)?;
        let tasks = instance.tasks.iter().map(|t| t.uuid.clone()).collect();
        let live =
            Live { node: node.clone(), netns, outer, cgroup, tasks, ports, plugin: plugin.clone(), network: network.clone() };
        // From here on it is cleaned up, whatever comes.
        self.instances.lock().insert(instance.id.clone(), live);
        match (wiring, plugin) {
            (None, _) => Ok(()),
            (Some(wiring), Some(plugin)) => plugin.add(&network, &wiring),
            (Some(wiring), None) => topology::connect(&self.topology.nodes[instance.node], &container, &wiring),
        }
    }

    /// Pods have one, in the outer container.
    fn start_executor(self: &Arc<Self>, instance: &Instance) -> Result<()> {
        let Some(uuid) = &instance.executor_uuid else { return Ok(()) };
        let node = &self.node_names[instance.node];
        let spec = TaskSpec {
            cgroup_node: self.layout.cgroup_node(node),
            cgroup: self.layout.cgroup(node, None, uuid),
            netns: self.netns_path(&instance.id)?,
            program: None,
        };
        self.start(instance, &format!("{}.executor", instance.id), uuid, &spec)
    }

    pub(crate) fn netns_path(&self, instance: &str) -> Result<String> {
        Ok(self.instances.lock().get(instance).context("the instance is gone")?.netns.path())
    }

    fn start(self: &Arc<Self>, instance: &Instance, id: &str, uuid: &str, spec: &TaskSpec) -> Result<()> {
        let directory = self.layout.container(uuid);
        std::fs::create_dir_all(directory.join("scaffold"))?;
        let file = directory.join("task.json");
        std::fs::write(&file, serde_json::to_vec_pretty(spec)?)?;
        cgroup::create(&spec.cgroup)?;
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("__task").arg(&file).stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start the task's process")?;
        let pid = child.id().context("a pid")?;
        let raw = i32::try_from(pid)?;
        tokio::spawn(logs::pump(child.stdout.take().context("stdout")?, directory.join("stdout")));
        tokio::spawn(logs::pump(child.stderr.take().context("stderr")?, directory.join("stderr")));
        let parent = instance.executor_uuid.as_deref().filter(|p| *p != uuid);
        let mesos_run = self.layout.mesos_run(&self.node_names[instance.node]);
        agent_files::write_pid(&agent_files::container(&mesos_run, parent, uuid), pid)?;
        let process = Process { pid: raw, pidfd: pidfd(raw)?, cgroup: spec.cgroup.clone() };
        self.tasks.lock().insert(id.to_owned(), process);
        self.report(Event::Spawned { task: id.to_owned(), pid: raw });
        std::io::Write::write_all(&mut &ours, b"g")?;
        ours.set_nonblocking(true)?;
        tokio::spawn(Arc::clone(self).watch(id.to_owned(), child, tokio::net::UnixStream::from_std(ours)?));
        Ok(())
    }

    async fn watch(self: Arc<Self>, id: String, mut child: Child, mut status: tokio::net::UnixStream) {
        let mut error = String::new();
        let _ = status.read_to_string(&mut error).await;
        if error.is_empty() {
            self.report(Event::Running { task: id.clone() });
        }
        let status = child.wait().await;
        if let Some(process) = self.tasks.lock().remove(&id) {
            // What the program left behind ends with its container.
            cgroup::kill(&process.cgroup);
        }
        let outcome = match status {
            _ if !error.is_empty() => Outcome::NotLaunched(error),
            Ok(status) => match (status.code(), std::os::unix::process::ExitStatusExt::signal(&status)) {
                (Some(code), _) => Outcome::Code(code),
                (None, signal) => Outcome::Signal(signal.unwrap_or(0)),
            },
            Err(error) => Outcome::NotLaunched(error.to_string()),
        };
        match &outcome {
            Outcome::NotLaunched(why) => tracing::warn!(task = id, "not launched: {why}"),
            outcome => tracing::info!(task = id, "ended: {outcome:?}"),
        }
        self.report(Event::Exited { task: id, outcome });
    }

    /// SIGTERM to the task's process group. The pidfd tells that the pid was not given to another process.
    fn terminate(&self, task: &str) {
        let tasks = self.tasks.lock();
        let Some(process) = tasks.get(task) else { return };
        // SAFETY: a bare system call on a descriptor that `process` owns.
        let alive = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.pidfd.as_raw_fd(), 0, 0, 0) } == 0;
        if alive {
            let pid = nix::unistd::Pid::from_raw(process.pid);
            if nix::sys::signal::killpg(pid, nix::sys::signal::Signal::SIGTERM).is_err() {
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            }
        }
    }

    fn cleanup(&self, id: &str) {
        let live = self.instances.lock().remove(id);
        if let Some(live) = live {
            if let Err(error) = cgroup::remove(&live.cgroup, Duration::from_secs(10)) {
                tracing::warn!(instance = id, "{error:#}");
            }
            agent_files::remove(&self.layout.mesos_run(&live.node), &live.outer);
            for uuid in live.tasks.iter().filter(|uuid| **uuid != live.outer).chain([&live.outer]) {
                let _ = std::fs::remove_dir(self.layout.container(uuid).join("scaffold"));
                self.retire(uuid);
            }
            if let Some(Err(error)) = live.plugin.map(|plugin| plugin.del(&live.network)) {
                tracing::warn!(instance = id, "{error:#}");
            }
            drop(live.ports);
        }
        self.report(Event::Gone { instance: id.to_owned() });
    }

    fn retire(&self, uuid: &str) {
        let mut retired = self.retired.lock();
        retired.push_back(uuid.to_owned());
        if retired.len() > RETIRED
            && let Some(oldest) = retired.pop_front()
        {
            let _ = std::fs::remove_dir_all(self.layout.container(&oldest));
        }
    }

    /// Launches nothing any more; SIGTERM to all, and `grace` to obey it.
    pub(crate) async fn stop(&self, grace: Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        let tasks: Vec<String> = self.tasks.lock().keys().cloned().collect();
        tasks.iter().for_each(|task| self.terminate(task));
        let until = tokio::time::Instant::now() + grace;
        while !self.tasks.lock().is_empty() && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where a task's output is.
    pub(crate) fn log_paths(&self, uuid: &str) -> (PathBuf, PathBuf) {
        let directory = self.layout.container(uuid);
        (directory.join("stdout"), directory.join("stderr"))
    }
}

fn pidfd(pid: i32) -> Result<OwnedFd> {
    // SAFETY: pidfd_open returns a new descriptor that belongs to nobody else.
    unsafe {
        let fd = nix::errno::Errno::result(libc::syscall(libc::SYS_pidfd_open, pid, 0)).context("pidfd_open")?;
        Ok(std::os::fd::FromRawFd::from_raw_fd(i32::try_from(fd)?))
    }
}
