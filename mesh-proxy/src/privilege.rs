//! Gives up every privilege, for good, and proves it from `/proc/self/status`. Called before the first thread: capabilities are per thread.

use anyhow::{Context, ensure};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::Serialize;

/// As whom to run.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Identity {
    /// User id to become when started as root. mesh-agent accepts only the uid of its own --proxy-uid.
    #[arg(long, global = true, env = "MESH_PROXY_UID", default_value_t = 65534, value_parser = clap::value_parser!(u32).range(1..))]
    pub uid: u32,
    /// Group id to become when started as root.
    #[arg(long, global = true, env = "MESH_PROXY_GID", default_value_t = 65534, value_parser = clap::value_parser!(u32).range(1..))]
    pub gid: u32,
}

/// What the kernel says of this process.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Report {
    /// Real, effective, saved, file system.
    pub uid: Vec<u32>,
    /// The same.
    pub gid: Vec<u32>,
    /// Supplementary.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, ambient; all must be 0.
    pub capabilities: [u64; 4],
    /// What a program run by this process could gain at most; moot with `no_new_privs`.
    pub bounding: u64,
    /// No program run by this process can gain anything.
    pub no_new_privs: bool,
    /// 0: none, 2: a filter.
    pub seccomp: u32,
}

/// Drops everything and returns the proof.
///
/// # Errors
/// If anything is left.
pub fn drop(identity: Identity) -> anyhow::Result<Report> {
    let before = Report::read()?;
    if before.capabilities[2] & CapabilitySet::SETPCAP.bits() != 0 {
        for bit in 0..64 {
            // Beyond the kernel's last capability this fails, which is as good.
            let _ = rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit));
        }
    }
    if before.uid.contains(&0) || before.gid.contains(&0) || before.groups.contains(&0) {
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        setgroups(&[]).context("setgroups")?;
        setresgid(gid, gid, gid).context("setresgid")?;
        setresuid(uid, uid, uid).context("setresuid")?;
    }
    // Fails only on kernels without ambient capabilities.
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .context("capset")?;
    rustix::thread::set_no_new_privs(true).context("PR_SET_NO_NEW_PRIVS")?;
    let report = Report::read()?;
    report.check()?;
    Ok(report)
}

impl Report {
    fn read() -> anyhow::Result<Self> {
        const STATUS: &str = "/proc/self/status";
        let text = std::fs::read_to_string(STATUS).with_context(|| format!("cannot read {STATUS}"))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).with_context(|| format!("/proc/self/status has no {name}"))
        };
        let numbers = |name: &str| -> anyhow::Result<Vec<u32>> {
            field(name)?.split_whitespace().map(|n| n.parse().with_context(|| name.to_owned())).collect()
        };
        let mask = |name: &str| -> anyhow::Result<u64> { u64::from_str_radix(field(name)?, 16).with_context(|| name.to_owned()) };
        Ok(Self {
            uid: numbers("Uid")?,
            gid: numbers("Gid")?,
            groups: numbers("Groups")?,
            capabilities: [mask("CapInh")?, mask("CapPrm")?, mask("CapEff")?, mask("CapAmb")?],
            bounding: mask("CapBnd")?,
            no_new_privs: numbers("NoNewPrivs")? == [1],
            seccomp: numbers("Seccomp")?.first().copied().unwrap_or(0),
        })
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.uid.contains(&0), "privilege is left: uid {:?}", self.uid);
        ensure!(
            !self.gid.contains(&0) && !self.groups.contains(&0),
            "privilege is left: gid {:?}, groups {:?}",
            self.gid,
            self.groups
        );
        ensure!(self.capabilities == [0; 4], "privilege is left: capabilities {:x?}", self.capabilities);
        ensure!(self.no_new_privs, "privilege is left: no_new_privs is off");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: &str = "Uid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nGroups:\t \nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n";

    #[test]
    fn whatever_is_left_is_an_error() {
        let check = |text: &str| Report::parse(text).and_then(|report| report.check()).map_err(|error| error.to_string());
        assert_eq!(check(NOBODY), Ok(()));
        for (from, to, complaint) in [
            ("Uid:\t65534\t65534\t65534", "Uid:\t65534\t65534\t0", "uid"),
            ("Groups:\t", "Groups:\t0", "groups"),
            ("CapPrm:\t0000000000000000", "CapPrm:\t0000000000000400", "capabilities"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "no_new_privs"),
        ] {
            let error = check(&NOBODY.replace(from, to)).expect_err(complaint);
            assert!(error.contains(complaint), "{error}");
        }
    }
}
