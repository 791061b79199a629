//! Workloads on the node's own network: their table, and the program that gives their connections to their listeners.

use super::maps::{Maps, entries, gone};
use super::{Error, Kernel, Refused, link, load};
use crate::core::enrol::host::Mark;
use crate::netns::Namespace;
use aya::programs::Program;
use mesh_common::abi::host::{LEVEL_MAX, LEVELS};
use mesh_common::abi::{Host, HostKey, Pod, maps};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;

/// The program in the node's own namespace.
const STEER_NODE: &str = "steer_node";

impl Kernel {
    /// How deep this cgroup, in which the programs are attached, lies in the machine's tree: a cgroup namespace shows another depth.
    /// Makes the self-check once more.
    ///
    /// # Errors
    /// If the hook does not fire there.
    pub fn depth_of(&self, cgroup: &Path) -> Result<u32, Error> {
        let error = |source| Error::Map { name: maps::HOST, source };
        let root = crate::cgroup::id(cgroup).map_err(|source| Error::Path { path: cgroup.to_owned(), source })?;
        {
            let mut maps = self.maps();
            let before = maps.host.get(&0, 0).map_err(error)?;
            maps.host.set(0, Host { root, depth: 0, ..before }, 0).map_err(error)?;
        }
        super::fires(cgroup)?;
        let depth = self.maps().host.get(&0, 0).map_err(error)?.depth;
        depth.checked_sub(1).ok_or_else(|| Error::Silent(cgroup.to_owned()))
    }

    /// Puts the program into the node's own namespace, or replaces the one that a former agent put there.
    ///
    /// # Errors
    /// If it does not load or attach.
    pub fn steer_node(&self, namespace: &Namespace) -> Result<(), Error> {
        let mut object = load(&self.pins, self.log, None)?;
        let program = |error| Error::Program { name: STEER_NODE, refused: Refused::from(error) };
        let Some(Program::SkLookup(steer)) = object.program_mut(STEER_NODE) else { return Err(Error::NoObject) };
        steer.load().map_err(program)?;
        let pin = self.pins.join("links").join(STEER_NODE);
        if link::replace(&pin, steer.fd().map_err(program)?.as_fd())? {
            return Ok(());
        }
        let id = steer.attach(namespace).map_err(program)?;
        link::pin(steer.take_link(id).map_err(program)?.into(), &pin)
    }
}

impl Maps {
    /// The workloads on the node's own network, by slot: who each is to the kernel, and by which keys.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn host_pods(&self) -> Result<BTreeMap<u32, (Pod, BTreeSet<HostKey>)>, Error> {
        let mut found: BTreeMap<u32, (Pod, BTreeSet<HostKey>)> = BTreeMap::new();
        for (key, pod) in entries(maps::HOST_PODS, &self.host_pods)? {
            found.entry(pod.slot).or_insert_with(|| (pod, BTreeSet::new())).1.insert(key);
        }
        Ok(found)
    }

    /// From here on, processes with these marks are judged as this workload's; those with others no longer.
    ///
    /// # Errors
    /// If the map is full, or cgroups lie at too many depths.
    pub fn set_host_pod(&mut self, netns: u64, pod: &Pod, marks: &BTreeSet<Mark>) -> Result<(), Error> {
        let error = |source| Error::Map { name: maps::HOST_PODS, source };
        self.look_at(netns, marks)?;
        // Before anybody is judged as this workload, the proxy can dial as it.
        self.host_pods.insert(HostKey::slot(pod.slot), pod, 0).map_err(error)?;
        for mark in marks {
            self.host_pods.insert(mark.key(), pod, 0).map_err(error)?;
        }
        let known = self.host_pods()?.remove(&pod.slot).map(|(_, keys)| keys).unwrap_or_default();
        let meant = |key: &HostKey| key.kind == HostKey::SLOT || marks.iter().any(|mark| mark.key() == *key);
        for key in known.iter().filter(|key| !meant(key)) {
            gone(self.host_pods.remove(key)).map_err(error)?;
        }
        Ok(())
    }

    /// From here on, its processes are no workload's.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_host_pod(&mut self, slot: u32) -> Result<(), Error> {
        let error = |source| Error::Map { name: maps::HOST_PODS, source };
        let Some((_, keys)) = self.host_pods()?.remove(&slot) else { return Ok(()) };
        // The tag last: what the proxy has of it may dial until nobody is judged as this workload.
        for key in keys.iter().filter(|key| key.kind != HostKey::SLOT) {
            gone(self.host_pods.remove(key)).map_err(error)?;
        }
        gone(self.host_pods.remove(&HostKey::slot(slot))).map_err(error)
    }

    /// Has the programs look at the depths of these cgroups.
    fn look_at(&mut self, netns: u64, marks: &BTreeSet<Mark>) -> Result<(), Error> {
        let error = |source| Error::Map { name: maps::HOST, source };
        let before = self.host.get(&0, 0).map_err(error)?;
        let levels = marks.iter().filter_map(|mark| if let Mark::Cgroup { level, .. } = mark { Some(*level) } else { None });
        let after = Host { netns, levels: merge(before.levels, levels).ok_or(Error::Depths)?, ..before };
        if after == before { Ok(()) } else { self.host.set(0, after, 0).map_err(error) }
    }
}

/// The depths with more of them, in the order in which they came; `None` if there is no room.
fn merge(mut levels: [u32; LEVELS], more: impl Iterator<Item = u32>) -> Option<[u32; LEVELS]> {
    for level in more {
        if level == 0 || level > LEVEL_MAX {
            return None;
        }
        if !levels.contains(&level) {
            *levels.iter_mut().find(|free| **free == 0)? = level;
        }
    }
    Some(levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_are_kept_until_there_is_no_room() {
        assert_eq!(merge([2, 0, 0, 0], [2, 4, 4].into_iter()), Some([2, 4, 0, 0]));
        assert_eq!(merge([1, 2, 3, 4], [4, 1].into_iter()), Some([1, 2, 3, 4]));
        assert_eq!(merge([1, 2, 3, 4], [5].into_iter()), None);
        assert_eq!(merge([0; LEVELS], [LEVEL_MAX + 1].into_iter()), None);
    }
}
