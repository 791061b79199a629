//! Captured ports on which nobody listens: found by the kernel's list of sockets, so that it refuses there as without the mesh.
//!
//! The list is read after the count of listen() calls, and the count is what is noted: one that comes in between makes the note void
//! (`mesh_common::abi::InboundKey`).

use crate::core::desired::ip;
use crate::core::resources::Workload;
use crate::kernel::Kernel;
use crate::netns::{Namespace, diag};
use crate::pod::Error;
use mesh_common::abi::Addr;

/// Looks once.
///
/// # Errors
/// If the kernel does not say.
pub fn look(kernel: &Kernel, slot: u32, workload: &Workload, namespace: &Namespace) -> Result<(), Error> {
    let counted = kernel.maps().listens(slot, &workload.inbound)?;
    let listening = namespace.visit(diag::listening)??;
    // Loopback is not reached from outside, whoever listens there.
    let serves = |addr: &Addr| addr.is_unspecified() || workload.addresses.contains(&ip(*addr));
    for (port, listens) in counted {
        let heard = listening.iter().any(|at| at.port == port && serves(&at.addr));
        kernel.maps().hear(slot, port, if heard { None } else { Some(listens) })?;
    }
    Ok(())
}
