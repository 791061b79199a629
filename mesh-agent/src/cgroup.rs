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
