//! Where everything of a run lies: the state directory, the run's cgroup subtree, its directories on bpffs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// cgroups and bpffs directories of a run begin with this; see `sweep`.
pub(crate) const PREFIX: &str = "marathon-sim-";
const BPFFS: &str = "/sys/fs/bpf";
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) state: PathBuf,
    /// `marathon-sim-PID-STARTTIME`: tells whether the run still lives.
    pub(crate) run: String,
    cgroup2: PathBuf,
}

impl Layout {
    pub(crate) fn new(state: &Path) -> Result<Self> {
        std::fs::create_dir_all(state).with_context(|| format!("create {}", state.display()))?;
        let state = state.canonicalize()?;
        let pid = std::process::id();
        let start = start_time(pid).context("read the start time of this process")?;
        Ok(Self { state, run: format!("{PREFIX}{pid}-{start}"), cgroup2: cgroup2_root()? })
    }

    pub(crate) fn cgroup_run(&self) -> PathBuf {
        self.cgroup2.join(&self.run)
    }

    pub(crate) fn cgroup_node(&self, node: &str) -> PathBuf {
        self.cgroup_run().join(node)
    }

    /// As Mesos names them: `mesos/<id>`, nested `mesos/<parent>/mesos/<id>`; processes are in `leaf` below.
    pub(crate) fn cgroup(&self, node: &str, parent: Option<&str>, uuid: &str) -> PathBuf {
        let base = self.cgroup_node(node);
        let base = parent.map_or_else(|| base.clone(), |parent| base.join("mesos").join(parent));
        base.join("mesos").join(uuid)
    }

    /// The node's own file system, as far as volumes reach it.
    pub(crate) fn node_root(&self, node: &str) -> PathBuf {
        self.state.join(node).join("root")
    }

    pub(crate) fn mesos_run(&self, node: &str) -> PathBuf {
        self.node_root(node).join("run/mesos")
    }

    pub(crate) fn bpffs(&self, node: &str) -> PathBuf {
        Path::new(BPFFS).join(format!("{}-{node}", self.run))
    }

    pub(crate) fn container(&self, uuid: &str) -> PathBuf {
        self.state.join("containers").join(uuid)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.state)
    }

    /// Directories of a node that must exist before its first task. `var/run` points to `run`, as everywhere.
    pub(crate) fn prepare(&self, nodes: &[String]) -> Result<()> {
        ensure_bpffs()?;
        for node in nodes {
            let root = self.node_root(node);
            std::fs::create_dir_all(root.join("run/mesos"))?;
            std::fs::create_dir_all(root.join("var"))?;
            let link = root.join("var/run");
            if !link.is_symlink() {
                std::os::unix::fs::symlink("../run", &link)?;
            }
            std::fs::create_dir_all(self.cgroup_node(node))?;
            std::fs::create_dir_all(self.bpffs(node))?;
        }
        Ok(())
    }
}

pub(crate) fn socket(state: &Path) -> PathBuf {
    state.join("sim.sock")
}

/// Unified hosts have it at /sys/fs/cgroup, hybrid ones below.
pub(crate) fn cgroup2_root() -> Result<PathBuf> {
    let is_cgroup2 = |path: &&str| statfs(*path).is_ok_and(|s| s.filesystem_type() == CGROUP2_SUPER_MAGIC);
    match ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter().find(|p| is_cgroup2(p)) {
        Some(path) => Ok(PathBuf::from(path)),
        None => bail!(
            "no cgroup2 at /sys/fs/cgroup or /sys/fs/cgroup/unified; mount it: mount -t cgroup2 none /sys/fs/cgroup/unified"
        ),
    }
}

fn ensure_bpffs() -> Result<()> {
    let mounted = statfs(BPFFS).is_ok_and(|s| u32::try_from(s.filesystem_type().0).is_ok_and(|m| m == BPF_FS_MAGIC));
    if mounted {
        return Ok(());
    }
    let none: Option<&str> = None;
    nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), nix::mount::MsFlags::empty(), none)
        .context("mount bpffs on /sys/fs/bpf (it stays mounted, as systemd would have done)")
}

pub(crate) fn bpffs_root() -> &'static Path {
    Path::new(BPFFS)
}

/// Field 22 of /proc/PID/stat: with the pid it names a process for good.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
