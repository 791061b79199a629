//! `marathon-sim __task FILE`: the process that becomes a task. It waits for a byte on its stdin, so that the agent's pid file and the
//! descriptor table exist before the workload's first instruction; then cgroup, namespaces, root, privileges, exec.
//! The stdin socket is closed by the exec (success) or carries the error.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use super::caps::{self, Grant};
use super::rootfs::{self, Root};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TaskSpec {
    /// The node's subtree: becomes the root of the task's cgroup namespace.
    pub(crate) cgroup_node: PathBuf,
    /// The container's cgroup; processes go to `leaf` in it.
    pub(crate) cgroup: PathBuf,
    pub(crate) netns: String,
    /// `None` for the executor of a pod: no root of its own, no program, it only waits.
    pub(crate) program: Option<Program>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Program {
    pub(crate) root: Root,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) grant: Grant,
}

pub(crate) fn main(file: &Path) -> Result<()> {
    let spec: TaskSpec = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    // SAFETY: the descriptor was just made by fcntl and belongs to nobody else.
    let mut agent = unsafe {
        let fd = libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3);
        UnixStream::from(OwnedFd::from_raw_fd(nix::errno::Errno::result(fd)?))
    };
    agent.read_exact(&mut [0]).context("the stand-in went away")?;
    let error = match prepare_and_exec(&spec, &agent) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let _ = agent.write_all(format!("{error:#}").as_bytes());
    std::process::exit(127)
}

fn prepare_and_exec(spec: &TaskSpec, agent: &UnixStream) -> Result<std::convert::Infallible> {
    nix::unistd::setsid().context("setsid")?;
    join_cgroup(&spec.cgroup_node)?;
    unshare(CloneFlags::CLONE_NEWCGROUP).context("unshare the cgroup namespace")?;
    join_cgroup(&spec.cgroup.join("leaf"))?;
    let netns = std::fs::File::open(&spec.netns).with_context(|| format!("open {}", spec.netns))?;
    setns(netns, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
    let Some(program) = &spec.program else { return wait(agent) };
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC).context("unshare")?;
    rootfs::enter(&program.root)?;
    nix::unistd::sethostname(&program.root.hostname).context("sethostname")?;
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(null)?;
    exec(program, "/mnt/mesos/sandbox", &program.argv)
}

/// The executor of a pod: holds the namespace, as Mesos' default executor does, until the cgroup is killed.
fn wait(agent: &UnixStream) -> Result<std::convert::Infallible> {
    nix::sys::prctl::set_name(c"mesos-default-e")?;
    caps::assume(&Grant::default())?;
    agent.shutdown(std::net::Shutdown::Both)?;
    loop {
        nix::unistd::pause();
    }
}

fn exec(program: &Program, directory: &str, argv: &[String]) -> Result<std::convert::Infallible> {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let _ = std::env::set_current_dir(directory);
    caps::assume(&program.grant)?;
    let Some((name, arguments)) = argv.split_first() else { bail!("nothing to execute") };
    let error = Command::new(name).args(arguments).env_clear().envs(&program.env).exec();
    Err(error).with_context(|| format!("execute {name}"))
}

/// Moves the calling process.
pub(crate) fn join_cgroup(cgroup: &Path) -> Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("join cgroup {}", cgroup.display()))
}

/// `marathon-sim __enter FILE PID -- CMD…`: a command beside the task, for health checks.
pub(crate) fn enter(file: &Path, pid: i32, argv: &[String]) -> Result<()> {
    let spec = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    match enter_and_exec(&spec, pid, argv)? {}
}

/// `marathon-sim exec`: this process becomes `argv` beside the task of process `pid`, with all that the task has.
pub(crate) fn enter_and_exec(spec: &TaskSpec, pid: i32, argv: &[String]) -> Result<std::convert::Infallible> {
    let Some(program) = &spec.program else { bail!("an executor has no program") };
    let open = |kind: &str| std::fs::File::open(format!("/proc/{pid}/ns/{kind}")).context("the task has just ended");
    let kinds = [
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let namespaces = kinds.map(|(kind, flag)| open(kind).map(|file| (file, flag)));
    join_cgroup(&spec.cgroup.join("leaf"))?;
    for namespace in namespaces {
        let (file, flag) = namespace?;
        setns(file, flag).context("enter the task's namespaces")?;
    }
    exec(program, "/", argv)
}
