//! The simulated nodes: carries out the core's effects with namespaces, cgroups, mounts and processes. Everything here needs root.

pub(crate) mod agent_files;
pub(crate) mod bridge;
pub(crate) mod caps;
pub(crate) mod cgroup;
pub(crate) mod cni;
pub(crate) mod dns;
pub(crate) mod executor;
pub(crate) mod forward;
pub(crate) mod images;
pub(crate) mod layout;
pub(crate) mod logs;
pub(crate) mod netns;
pub(crate) mod rootfs;
pub(crate) mod sweep;
pub(crate) mod task;
pub(crate) mod topology;
