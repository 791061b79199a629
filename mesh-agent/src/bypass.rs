//! `mesh-agent bypass` and `mesh-agent uninstall`: the mesh out of the way, in one command, whether an agent runs or not.
//!
//! The file outlives agents. One that runs reads it at each look and takes pods out as if they had left; without one, the
//! command does so by the pins. VIPs go on for everybody, since they ask nobody's enrolment.

use crate::cli;
use crate::core::bypass::Bypass;
use crate::explain::{ask_agent, find_pod};
use crate::kernel::{self, Maps};
use crate::netns::route;
use crate::places::Places;
use anyhow::{Context, Result, bail};
use mesh_common::abi::Pod;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// An agent looks once a second; one that has not acted after this time does not run.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// What the file says; nobody, if there is none.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn read(file: &Path) -> io::Result<Bypass> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Bypass::parse(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Bypass::default()),
        Err(error) => Err(error),
    }
}

/// Where the kernel knows somebody.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Entry {
    /// By a namespace's cookie.
    Netns(u64),
    /// On the node's own network, by slot.
    OnHost(u32),
}

fn enrolled(maps: &Maps) -> Result<BTreeMap<Entry, Pod>, kernel::Error> {
    let on_host = maps.host_pods()?.into_iter().map(|(slot, (pod, _))| (Entry::OnHost(slot), pod));
    Ok(maps.pods()?.into_iter().map(|(cookie, pod)| (Entry::Netns(cookie), pod)).chain(on_host).collect())
}

/// Does what the command line says, and tells what was done.
///
/// # Errors
/// If the pod is not known, or the file or the kernel refuse.
pub fn bypass(config: &cli::Bypass) -> Result<String> {
    let path = config.bypass_file.display();
    let before = read(&config.bypass_file).with_context(|| format!("--bypass-file {path}"))?;
    if config.end {
        write(&config.bypass_file, &before.without(config.pod.as_deref()))?;
        return Ok("the bypass is over: the agent enrols what should be in the mesh within a second".to_owned());
    }
    let meant: BTreeMap<Entry, Pod> = {
        let maps = Maps::pinned(&config.agent.bpffs)?;
        let pods = enrolled(&maps)?;
        match &config.pod {
            Some(pod) => {
                let (found, _) = find_pod(pod, &maps, &ask_agent(&config.agent.admin_socket))?;
                pods.into_iter().filter(|(_, pod)| *pod == found).collect()
            }
            None => pods,
        }
    };
    write(&config.bypass_file, &before.with(config.pod.as_deref()))?;
    let start = Instant::now();
    let remaining = || -> Result<Vec<Entry>> {
        let pods = enrolled(&Maps::pinned(&config.agent.bpffs)?)?;
        Ok(meant.keys().filter(|entry| pods.contains_key(entry)).copied().collect())
    };
    while !remaining()?.is_empty() && start.elapsed() < PATIENCE {
        std::thread::sleep(PAUSE);
    }
    for entry in remaining()? {
        match entry {
            Entry::Netns(cookie) => kernel::abandon(&config.agent.bpffs, cookie)?,
            Entry::OnHost(slot) => Maps::pinned(&config.agent.bpffs)?.remove_host_pod(slot)?,
        }
    }
    Ok(format!("{} pods are out of the mesh: no policy holds for them. VIPs go on. End it with --end ({path})", meant.len()))
}

/// Takes everything out of the kernel, and what enrolment has set in containers' network namespaces.
///
/// # Errors
/// While an agent runs, which would put it back.
pub fn uninstall(config: &cli::Uninstall) -> Result<String> {
    if UnixStream::connect(&config.admin_socket).is_ok() {
        bail!("an agent runs (it answers at {}): stop it first, or stop it with --detach-on-exit", config.admin_socket.display());
    }
    kernel::uninstall(&config.bpffs)?;
    withdraw(&config.mesos_runtime_dir)?;
    Ok("programs and tables are out of the kernel: there are no VIPs on this node, and no policy".to_owned())
}

/// Rules and routes of capture, in every container's namespace: no agent is left that would know which of them were enrolled.
fn withdraw(mesos_runtime_dir: &Path) -> Result<()> {
    let context = || format!("--mesos-runtime-dir {}", mesos_runtime_dir.display());
    let mut places = Places::new(mesos_runtime_dir).with_context(context)?;
    for place in places.scan(Instant::now(), &[]) {
        // A namespace that has ended meanwhile took all of it along.
        if let Some(namespace) = places.namespace(place.cookie) {
            namespace
                .visit(|| place.addresses.iter().try_for_each(|address| route::release(*address)))
                .with_context(context)??;
        }
    }
    Ok(())
}

/// Whole or not at all.
fn write(file: &Path, bypass: &Bypass) -> Result<()> {
    let context = || format!("--bypass-file {}", file.display());
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(context)?;
    }
    let beside = file.with_extension("new");
    fs::write(&beside, bypass.text()).with_context(context)?;
    fs::rename(&beside, file).with_context(context)
}
