//! cgroup2 directories: make, kill, remove.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The container's cgroup and the `leaf` in it that holds its processes.
pub(crate) fn create(cgroup: &Path) -> Result<()> {
    std::fs::create_dir_all(cgroup.join("leaf")).with_context(|| format!("create cgroup {}", cgroup.display()))
}

/// SIGKILL to everything below. Missing is fine.
pub(crate) fn kill(cgroup: &Path) {
    let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
}

pub(crate) fn is_populated(cgroup: &Path) -> bool {
    std::fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// Kills what is inside and removes the whole tree; waits for the kernel.
pub(crate) fn remove(cgroup: &Path, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    while cgroup.exists() {
        kill(cgroup);
        if !is_populated(cgroup) {
            remove_tree(cgroup);
        }
        if Instant::now() > until {
            bail!("cgroup {} cannot be removed", cgroup.display());
        }
        if cgroup.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

fn remove_tree(cgroup: &Path) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(cgroup);
}

/// All processes below, of a container or of a whole node.
pub(crate) fn pids(cgroup: &Path) -> Vec<i32> {
    let own = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = own.lines().filter_map(|l| l.parse().ok()).collect();
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            pids.extend(self::pids(&entry.path()));
        }
    }
    pids
}
