//! A task's own root: an overlay over the machine's, so that all programs resolve and nothing is written to the machine; with its own
//! /proc, /sys, /dev, /run, resolver and volumes. Runs in the process that becomes the task.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

/// A mount into the root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Root {
    /// An empty directory on which the overlay's tmpfs is mounted, privately.
    pub(crate) scaffold: PathBuf,
    pub(crate) hosts: String,
    pub(crate) hostname: String,
    pub(crate) resolver: String,
    pub(crate) binds: Vec<Bind>,
    pub(crate) privileged: bool,
}

const NONE: Option<&str> = None;
const SANDBOX: &str = "mnt/mesos/sandbox";

/// The mount namespace must be new already. Afterwards `/` is the task's root.
pub(crate) fn enter(root: &Root) -> Result<()> {
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("make mounts private")?;
    let scaffold = &root.scaffold;
    mount(Some("tmpfs"), scaffold, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).context("mount the overlay's tmpfs")?;
    std::env::set_current_dir(scaffold)?;
    for name in ["upper", "work", "root"] {
        std::fs::create_dir(name)?;
    }
    // Relative paths: colons and commas in the state directory's name would be read as separators.
    mount(Some("overlay"), "root", Some("overlay"), MsFlags::empty(), Some("lowerdir=/,upperdir=upper,workdir=work"))
        .context("mount the task's root (overlayfs is needed)")?;
    let at = scaffold.join("root");
    system(&at, root.privileged)?;
    files(&at, root)?;
    for bind in &root.binds {
        self::bind(&at, bind).with_context(|| format!("volume {} at {}", bind.source.display(), bind.target))?;
    }
    std::env::set_current_dir(&at)?;
    nix::unistd::pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("detach the machine's root")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn system(at: &Path, privileged: bool) -> Result<()> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), &at.join("proc"), Some("proc"), safe, NONE).context("mount /proc")?;
    let read_only = if privileged { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    mount(Some("sysfs"), &at.join("sys"), Some("sysfs"), safe | read_only, NONE).context("mount /sys")?;
    if !privileged {
        // Some kernels lack the second.
        for path in ["proc/sys", "proc/sysrq-trigger"].map(|path| at.join(path)).iter().filter(|path| path.exists()) {
            mount(Some(path), path, NONE, MsFlags::MS_BIND, NONE).context("bind a part of /proc")?;
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | safe;
            mount(NONE, path, NONE, read_only, NONE).context("protect a part of /proc")?;
        }
    }
    let dev = at.join("dev");
    mount(Some("tmpfs"), &dev, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755")).context("mount /dev")?;
    std::fs::create_dir(dev.join("net"))?;
    let devices = ["null", "zero", "full", "random", "urandom", "tty"].into_iter().chain(privileged.then_some("net/tun"));
    for device in devices.filter(|device| Path::new("/dev").join(device).exists()) {
        std::fs::write(dev.join(device), "")?;
        mount(Some(&Path::new("/dev").join(device)), &dev.join(device), NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("bind /dev/{device}"))?;
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        std::os::unix::fs::symlink(target, dev.join(name))?;
    }
    for name in ["shm", "pts"] {
        std::fs::create_dir(dev.join(name))?;
    }
    mount(
        Some("devpts"),
        &dev.join("pts"),
        Some("devpts"),
        safe & !MsFlags::MS_NODEV,
        Some("newinstance,ptmxmode=0666,mode=0620"),
    )
    .context("mount /dev/pts")?;
    mount(Some("tmpfs"), &dev.join("shm"), Some("tmpfs"), safe, Some("mode=1777")).context("mount /dev/shm")?;
    mount(Some("tmpfs"), &at.join("run"), Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755")).context("mount /run")?;
    mount(Some("/tmp"), &at.join("tmp"), NONE, MsFlags::MS_BIND, NONE).context("bind /tmp")
}

fn files(at: &Path, root: &Root) -> Result<()> {
    let etc = at.join("etc");
    let resolver = format!("nameserver {}\noptions timeout:2 attempts:2\n", root.resolver);
    for (name, content) in [("resolv.conf", &resolver), ("hosts", &root.hosts), ("hostname", &format!("{}\n", root.hostname))] {
        let path = etc.join(name);
        // Often a link to systemd-resolved's file.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, content).with_context(|| format!("write /etc/{name}"))?;
    }
    let sandbox = at.join(SANDBOX);
    std::fs::create_dir_all(&sandbox)?;
    std::fs::set_permissions(&sandbox, std::os::unix::fs::PermissionsExt::from_mode(0o1777))?;
    Ok(())
}

fn bind(at: &Path, bind: &Bind) -> Result<()> {
    let target = if bind.target.starts_with('/') { bind.target.clone() } else { format!("{SANDBOX}/{}", bind.target) };
    let target = resolve_in(at, Path::new(&target))?;
    if bind.source.is_dir() {
        std::fs::create_dir_all(&target)?;
    } else {
        std::fs::create_dir_all(target.parent().context("a parent")?)?;
        std::fs::OpenOptions::new().create(true).append(true).open(&target)?;
    }
    mount(Some(&bind.source), &target, NONE, MsFlags::MS_BIND, NONE)?;
    if bind.read_only {
        mount(NONE, &target, NONE, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE)?;
    }
    Ok(())
}

/// Follows symbolic links as they will look from inside: /var/run is usually one.
pub(crate) fn resolve_in(root: &Path, path: &Path) -> Result<PathBuf> {
    let mut todo: VecDeque<OsString> = parts(path);
    let mut inside = PathBuf::new();
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            inside.pop();
            continue;
        }
        let next = inside.join(&part);
        match std::fs::read_link(root.join(&next)) {
            Ok(link) => {
                links += 1;
                if links > 40 {
                    bail!("too many symbolic links in {}", path.display());
                }
                if link.is_absolute() {
                    inside = PathBuf::new();
                }
                for part in parts(&link).into_iter().rev() {
                    todo.push_front(part);
                }
            }
            Err(_) => inside = next,
        }
    }
    Ok(root.join(inside))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let keep = |c: Component<'_>| match c {
        Component::Normal(part) => Some(part.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        let root = std::env::temp_dir().join(format!("marathon-sim-rootfs-{}", std::process::id()));
        std::fs::create_dir_all(root.join("var")).unwrap();
        std::os::unix::fs::symlink("/run", root.join("var/run")).unwrap();
        std::os::unix::fs::symlink("../../../..", root.join("var/up")).unwrap();
        assert_eq!(resolve_in(&root, Path::new("/var/run/mesos")).unwrap(), root.join("run/mesos"));
        assert_eq!(resolve_in(&root, Path::new("/var/up/x")).unwrap(), root.join("x"));
        assert_eq!(resolve_in(&root, Path::new("/a/../../b")).unwrap(), root.join("b"));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
