//! Putting a workload of the node's own network into the mesh and taking it out, in an order of which any prefix is safe: the kernel judges
//! its processes only from the last step of [`enrol`] on, and no longer from the first step of [`leave`] on.

use crate::core::enrol::host::Mark;
use crate::kernel::Kernel;
use crate::netns::{Namespace, PodSockets, sockets};
use crate::pod::{Error, listeners};
use mesh_common::abi::{ListenerKey, Pod, listener};
use std::collections::BTreeSet;

/// Enrols the workload whose processes have these marks, and whose addresses are the node's, in the node's own namespace. Safe to repeat, also by a new agent.
///
/// # Errors
/// Names what could not be done. What was done stays and harms nobody; the next attempt replaces it.
pub fn enrol(kernel: &Kernel, pod: &Pod, marks: &BTreeSet<Mark>, node: &Namespace) -> Result<PodSockets, Error> {
    let slot = pod.slot;
    let opened = node.visit(|| sockets::open_on_host(slot))??;
    let netns = node.cookie()?;
    {
        let mut maps = kernel.maps();
        // The DNS process answers on it: its replies must not be taken for questions.
        maps.tag(&opened.dns_udp, slot)?;
        for (key, socket) in listeners(slot, &opened) {
            maps.set_listener(key, socket)?;
        }
    }
    kernel.steer_node(node)?;
    kernel.maps().set_host_pod(netns, pod, marks)?;
    Ok(opened)
}

/// Takes a workload out of the mesh. Fine if parts of it are gone already.
///
/// # Errors
/// If the kernel refuses.
pub fn leave(kernel: &Kernel, slot: u32) -> Result<(), Error> {
    kernel.maps().remove_host_pod(slot)?;
    for kind in [listener::OUTBOUND_V4, listener::OUTBOUND_V6, listener::DNS_TCP_V4] {
        kernel.maps().remove_listener(&ListenerKey { slot, kind })?;
    }
    Ok(())
}
