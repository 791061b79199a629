//! Putting a pod into the mesh and taking it out, in an order of which any prefix is safe: the kernel judges a pod's sockets only from
//! the last step of [`enrol`] on, and no longer from the first step of [`leave`] on.

use crate::core::desired::ip;
use crate::kernel::Kernel;
use crate::netns::{Inbound, Namespace, PodSockets, diag, route, sockets};
use mesh_common::abi::{Addr, ListenerKey, Pod, listener};
use mesh_common::decide::l4::TCP;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// Why a pod could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// In the pod's namespace.
    #[error("in the pod's network namespace: {0}")]
    Namespace(#[from] io::Error),
    /// In the kernel's tables.
    #[error(transparent)]
    Kernel(#[from] crate::kernel::Error),
}

/// Enrols the pod that lives in this namespace. Safe to repeat, also by a new agent: listeners of a former one are replaced.
///
/// # Errors
/// Names what could not be done. What was done stays and harms nobody; the next attempt replaces it.
pub fn enrol(kernel: &Kernel, cookie: u64, pod: &Pod, namespace: &Namespace) -> Result<PodSockets, Error> {
    let ipv6 = pod.addr6 != Addr::default();
    let opened = namespace.visit(|| sockets::open(ipv6))??;
    {
        let mut maps = kernel.maps();
        // The DNS process answers on it: its replies must not be taken for the pod's questions.
        maps.tag(&opened.dns_udp, pod.slot)?;
        for (key, socket) in listeners(pod.slot, &opened) {
            maps.set_listener(key, socket)?;
        }
    }
    kernel.steer(cookie, pod, namespace)?;
    let addresses = [pod.addr4, pod.addr6];
    namespace.visit(|| addresses.iter().filter(|a| **a != Addr::default()).try_for_each(|a| route::capture(ip(*a))))??;
    kernel.maps().set_pod(cookie, pod)?;
    Ok(opened)
}

/// Ends the connections that a pod made before it was in the mesh, to where the proxy is to carry them: a client that keeps them would talk around
/// every rule for as long as it likes. Returns how many.
///
/// # Errors
/// If the namespace's sockets cannot be listed.
pub fn end_former(namespace: &Namespace, proxied: &BTreeSet<(IpAddr, u16)>) -> io::Result<usize> {
    let is_former = |socket: &diag::Connected| proxied.contains(&(ip(socket.peer.addr), socket.peer.port));
    namespace.visit(|| {
        let former = diag::connected(TCP)?.into_iter().filter(is_former);
        // One that was closed meanwhile is gone already.
        Ok(former.filter(|socket| diag::destroy(socket).is_ok()).count())
    })?
}

/// From now on the proxy takes what comes from outside to these ports of the pod, and to no others. Opens the listeners, if there are ports.
///
/// # Errors
/// Names what could not be done; safe to repeat.
pub fn capture(kernel: &Kernel, pod: &Pod, ports: &BTreeSet<u16>, namespace: &Namespace) -> Result<Inbound, Error> {
    if ports.is_empty() {
        kernel.maps().capture(pod.slot, ports)?;
        return Ok(Inbound::default());
    }
    let ipv6 = pod.addr6 != Addr::default();
    let opened = namespace.visit(|| sockets::open_inbound(ipv6))??;
    let mut maps = kernel.maps();
    // The listeners first: a captured connection without one is refused.
    for (kind, socket) in [(listener::INBOUND_V4, &opened.v4), (listener::INBOUND_V6, &opened.v6)] {
        if let Some(socket) = socket {
            maps.set_listener(ListenerKey { slot: pod.slot, kind }, socket)?;
        }
    }
    maps.capture(pod.slot, ports)?;
    Ok(opened)
}

/// Has the kernel judge an enrolled pod as another description says. Its listeners, and what waits in them, stay.
///
/// # Errors
/// If the kernel refuses; then it judges as before.
pub fn judge(kernel: &Kernel, cookie: u64, pod: &Pod, namespace: &Namespace) -> Result<(), Error> {
    kernel.steer(cookie, pod, namespace)?;
    Ok(kernel.maps().set_pod(cookie, pod)?)
}

/// Takes a pod out of the mesh. Fine if parts of it are gone already.
///
/// The rule and route for marked sockets stay in its namespace and vanish with it: connections that were handed over before still need
/// them, and no socket is marked any more.
///
/// # Errors
/// If the kernel refuses.
pub fn leave(kernel: &Kernel, cookie: u64, pod: &Pod) -> Result<(), Error> {
    kernel.maps().remove_pod(cookie)?;
    kernel.unguard(cookie)?;
    kernel.unsteer(cookie)?;
    kernel.maps().capture(pod.slot, &BTreeSet::new())?;
    for kind in 0..listener::KINDS {
        kernel.maps().remove_listener(&ListenerKey { slot: pod.slot, kind })?;
    }
    kernel.maps().forget_audited(pod.slot)?;
    Ok(())
}

/// Which listener is which.
pub(crate) fn listeners(slot: u32, sockets: &PodSockets) -> impl Iterator<Item = (ListenerKey, &OwnedFd)> {
    let key = move |kind| ListenerKey { slot, kind };
    [(key(listener::OUTBOUND_V4), &sockets.outbound_v4), (key(listener::DNS_TCP_V4), &sockets.dns_tcp)]
        .into_iter()
        .chain(sockets.outbound_v6.as_ref().map(|socket| (key(listener::OUTBOUND_V6), socket)))
}
