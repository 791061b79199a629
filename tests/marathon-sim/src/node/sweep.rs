//! Leftovers of runs that were killed: their cgroups (with the processes inside) and bpffs directories. The name of each says whose it
//! is; namespaces and mounts end with the processes.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::cgroup;
use super::layout::{self, PREFIX};

/// Returns what was removed.
pub(crate) fn dead_runs() -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for name in leftovers(&layout::cgroup2_root()?) {
        cgroup::remove(&layout::cgroup2_root()?.join(&name), Duration::from_secs(10))?;
        swept.push(format!("cgroup {name}"));
    }
    for name in leftovers(layout::bpffs_root()) {
        remove_bpffs(&layout::bpffs_root().join(&name));
        swept.push(format!("bpffs {name}"));
    }
    Ok(swept)
}

fn leftovers(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    names.filter(|name| name.starts_with(PREFIX) && !is_alive(name)).collect()
}

/// `marathon-sim-PID-STARTTIME[-node]`.
fn is_alive(name: &str) -> bool {
    let mut parts = name[PREFIX.len()..].split('-');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (Some(pid), Some(start)) = (number(), number()) else { return true };
    u32::try_from(pid).ok().and_then(layout::start_time) == Some(start)
}

/// Pins are unlinked; what nothing else refers to is freed by the kernel.
pub(crate) fn remove_bpffs(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_bpffs(&entry.path());
        } else {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    let _ = std::fs::remove_dir(directory);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_whether_its_run_lives() {
        let pid = std::process::id();
        let start = layout::start_time(pid).unwrap();
        assert!(is_alive(&format!("{PREFIX}{pid}-{start}")));
        assert!(is_alive(&format!("{PREFIX}{pid}-{start}-node1")));
        assert!(!is_alive(&format!("{PREFIX}{pid}-{}", start + 1)));
        assert!(is_alive(&format!("{PREFIX}not-ours")), "an unknown form is left alone");
    }
}
