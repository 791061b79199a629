//! Privileges of a task: real drops, in the order that cannot be undone.
//!
//! A privileged container keeps everything. Any other gets `DEFAULT`: what Docker gives, minus what would reach this machine, whose kernel,
//! devices and process ids the stand-in shares with its tasks: no MKNOD, no SYS_CHROOT, no SETFCAP, no SETPCAP, no AUDIT_WRITE. KILL goes
//! too: without a process namespace it would reach beyond the container. As with Docker, another user than root has no effective capability.

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Group, Uid, User, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};

use crate::core::spec::Privileges;

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

const DEFAULT: [&str; 8] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID", "NET_BIND_SERVICE", "NET_RAW"];

/// As it is handed to the process that becomes the task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) user: Option<String>,
    /// Bit set of the capabilities that stay.
    pub(crate) capabilities: u64,
    pub(crate) no_new_privs: bool,
    pub(crate) privileged: bool,
}

pub(crate) fn grant(wanted: &Privileges) -> Result<Grant> {
    let mut capabilities = if wanted.privileged { (1 << NAMES.len()) - 1 } else { mask(&DEFAULT.map(str::to_owned))? };
    if wanted.cap_drop.iter().any(|c| c.eq_ignore_ascii_case("ALL")) {
        capabilities = 0;
    } else {
        capabilities &= !mask(&wanted.cap_drop)?;
    }
    capabilities |= mask(&wanted.cap_add)?;
    let Privileges { user, no_new_privs, privileged, .. } = wanted.clone();
    Ok(Grant { user, capabilities, no_new_privs, privileged })
}

fn mask(names: &[String]) -> Result<u64> {
    let mut mask = 0;
    for name in names {
        let name = name.to_ascii_uppercase();
        let name = name.trim_start_matches("CAP_");
        match NAMES.iter().position(|n| *n == name) {
            Some(bit) => mask |= 1 << bit,
            None if name == "ALL" => mask |= (1 << NAMES.len()) - 1,
            None => bail!("unknown capability {name}"),
        }
    }
    Ok(mask)
}

/// Irrevocable. Called in the single-threaded process that is about to execute the task, inside its root.
pub(crate) fn assume(grant: &Grant) -> Result<()> {
    for bit in 0..64 {
        if grant.capabilities & (1 << bit) == 0 {
            // SAFETY: a bare system call; EINVAL beyond the last capability of this kernel is no error.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0) };
        }
    }
    if let Some(user) = &grant.user {
        become_user(user)?;
    }
    let kept = if Uid::effective().is_root() { grant.capabilities } else { 0 };
    set_capabilities(kept)?;
    if grant.no_new_privs {
        nix::sys::prctl::set_no_new_privs().context("set no_new_privs")?;
    }
    Ok(())
}

/// `uid`, `uid:gid`, `name`, `name:group`, as Docker takes them.
fn become_user(user: &str) -> Result<()> {
    let (user, group) = user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)));
    let entry = match user.parse() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid))?,
        Err(_) => User::from_name(user)?,
    };
    let uid = match (&entry, user.parse::<u32>()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(uid)) => Uid::from_raw(uid),
        (None, Err(_)) => bail!("unknown user '{user}'"),
    };
    let gid = match group {
        None => entry.map_or(Gid::from_raw(0), |e| e.gid),
        Some(group) => match group.parse() {
            Ok(gid) => Gid::from_raw(gid),
            Err(_) => Group::from_name(group)?.with_context(|| format!("unknown group '{group}'"))?.gid,
        },
    };
    setgroups(&[gid]).context("setgroups")?;
    setgid(gid).context("setgid")?;
    setuid(uid).context("setuid")
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn set_capabilities(mask: u64) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let mask = mask & bounding();
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the set")]
    let halves = [mask as u32, (mask >> 32) as u32];
    let data = halves.map(|half| Data { effective: half, permitted: half, inheritable: 0 });
    let header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: the structures have the layout of capset(2), version 3: one header, two data elements.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    nix::errno::Errno::result(result).context("capset").map(drop)
}

/// What the bounding set of this process still has; older kernels know fewer capabilities.
fn bounding() -> u64 {
    // SAFETY: a bare system call.
    (0..64).filter(|bit| unsafe { libc::prctl(libc::PR_CAPBSET_READ, *bit, 0, 0, 0) } == 1).fold(0, |mask, bit| mask | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let bit = |name| mask(&[String::from(name)]).unwrap();
        let default = grant(&Privileges::default()).unwrap().capabilities;
        assert_ne!(default & bit("NET_BIND_SERVICE"), 0);
        for dangerous in ["SYS_ADMIN", "NET_ADMIN", "BPF", "MKNOD", "SYS_PTRACE", "KILL"] {
            assert_eq!(default & bit(dangerous), 0, "{dangerous}");
        }
        assert_eq!(bit("CHECKPOINT_RESTORE"), 1 << 40);
        assert_eq!(bit("cap_net_admin"), 1 << 12);
        let dropped = Privileges { cap_drop: vec!["ALL".into()], cap_add: vec!["NET_RAW".into()], ..Privileges::default() };
        assert_eq!(grant(&dropped).unwrap().capabilities, bit("NET_RAW"));
        let all = grant(&Privileges { privileged: true, ..Privileges::default() }).unwrap();
        assert_eq!(all.capabilities, (1 << 41) - 1);
    }
}
