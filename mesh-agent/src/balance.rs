//! The kernel's counts of connections against its list of sockets, and UDP sockets whose backend is gone.
//!
//! The programs count each connection when it is made and when its socket is closed. What they cannot have seen (connections older than they
//! are, those that were not made by way of a VIP) is found here. A connected UDP socket to a backend that is gone would send into nothing for
//! ever: the kernel asks no hook for its datagrams. It is ended, so that its owner hears of it and connects again.

use crate::core::drift::corrections;
use crate::kernel::{Error, Kernel};
use crate::netns::{Namespace, diag};
use mesh_common::abi::Dest;
use mesh_common::decide::l4::{TCP, UDP};
use std::collections::BTreeMap;
use std::io;

/// By how much each count was short at the last look.
#[derive(Debug, Default)]
pub struct Balance {
    short: BTreeMap<Dest, i64>,
}

impl Balance {
    /// Looks once, and corrects what was wrong at the last look as well. Returns by how many connections.
    ///
    /// # Errors
    /// If a namespace or a table cannot be read.
    pub fn look(&mut self, kernel: &Kernel, namespaces: &[Namespace]) -> Result<u64, Failed> {
        let mut counts: BTreeMap<Dest, i64> = BTreeMap::new();
        for namespace in namespaces {
            for socket in namespace.visit(|| Ok::<_, io::Error>([diag::connected(TCP)?, diag::connected(UDP)?].concat()))?? {
                *counts.entry(socket.peer).or_default() += 1;
            }
        }
        let mut maps = kernel.maps();
        let endpoints = maps.read()?.endpoints;
        let short = endpoints.iter().map(|(dest, endpoint)| {
            let counted = maps.active(*endpoint);
            (*dest, counts.get(dest).copied().unwrap_or_default() - counted)
        });
        let short: BTreeMap<Dest, i64> = short.filter(|(_, short)| *short != 0).collect();
        let corrections = corrections(&self.short, &short);
        for (dest, change) in &corrections {
            maps.correct(endpoints[dest], *change);
        }
        self.short = if corrections.is_empty() { short } else { BTreeMap::new() };
        Ok(corrections.values().map(|change| change.unsigned_abs()).sum())
    }
}

/// Ends the UDP sockets that are connected to what was a backend of a VIP and is none any more. Returns how many.
///
/// # Errors
/// If a namespace or a table cannot be read.
pub fn sweep(kernel: &Kernel, namespaces: &[Namespace]) -> Result<u64, Failed> {
    let mut ended = 0;
    for namespace in namespaces {
        let sockets = namespace.visit(|| diag::connected(UDP))??;
        let stuck: Vec<_> = {
            let maps = kernel.maps();
            let is_stuck =
                |socket: &&diag::Connected| !maps.is_endpoint(&socket.peer) && maps.is_diverted(socket.cookie, &socket.peer);
            sockets.iter().filter(is_stuck).collect()
        };
        // One that was closed meanwhile is gone already.
        ended += namespace.visit(|| stuck.iter().filter(|socket| diag::destroy(socket).is_ok()).count() as u64)?;
    }
    Ok(ended)
}

/// Why a look was not made.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Sockets cannot be listed.
    #[error("the kernel's list of sockets: {0} (it needs the modules inet_diag, tcp_diag and udp_diag)")]
    Sockets(#[from] io::Error),
    /// The tables cannot be read.
    #[error(transparent)]
    Kernel(#[from] Error),
}
