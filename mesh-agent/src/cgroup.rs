//! Finding the cgroup2 root.

use std::io;
use std::path::{Path, PathBuf};

/// `CGROUP2_SUPER_MAGIC`.
const MAGIC: i64 = 0x6367_7270;
/// Unified hosts mount it at the first, hybrid hosts at the second.
const PLACES: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The mounted cgroup2 root.
///
/// # Errors
/// If there is none at the usual places.
pub fn detect() -> io::Result<PathBuf> {
    let found = PLACES.iter().map(Path::new).find(|path| is_cgroup2(path));
    found.map(Path::to_owned).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("no cgroup2 file system at {}; name it with --cgroup-root", PLACES.join(" or ")),
        )
    })
}

fn is_cgroup2(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type().0 == MAGIC)
}

/// The kernel's number of a cgroup2 directory.
///
/// # Errors
/// If it is gone.
pub fn id(directory: &Path) -> io::Result<u64> {
    // Numbers of cgroups are those of their directories since Linux 5.5.
    Ok(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(directory)?))
}

/// The root of the cgroup2 file system in which this directory lies, as this process sees it: the paths of /proc/PID/cgroup begin there.
#[must_use]
pub fn mount_of(directory: &Path) -> PathBuf {
    let root = directory.ancestors().take_while(|path| is_cgroup2(path)).last();
    root.unwrap_or(directory).to_owned()
}

/// A process's path in the cgroup2 tree.
#[must_use]
pub fn path_of(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Does this kernel have a net_cls hierarchy of cgroup v1 (Mesos' isolator `cgroups/net_cls`)?
#[must_use]
pub fn has_classes() -> bool {
    std::fs::read_to_string("/proc/cgroups").is_ok_and(|table| lists_classes(&table))
}

/// Columns: name, hierarchy (0: not mounted), number of cgroups, enabled.
fn lists_classes(table: &str) -> bool {
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.into_iter().any(|f| matches!(f.as_slice(), ["net_cls", hierarchy, _, "1"] if *hierarchy != "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn net_cls_counts_where_it_is_mounted() {
        let table = |row: &str| format!("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t80\t1\n{row}\n");
        assert!(lists_classes(&table("net_cls\t7\t3\t1")));
        for row in ["net_cls\t0\t3\t1", "net_cls\t7\t3\t0", "net_prio\t7\t3\t1"] {
            assert!(!lists_classes(&table(row)), "{row}");
        }
    }
}
