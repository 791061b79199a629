//! Choosing a backend, and counting its connections in the cell that the agent has given it.

use crate::maps::{BACKENDS, LOADS};
use crate::verdict::Caller;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ptr::read_volatile;
use mesh_common::abi::{Backend, BackendKey, Diverted, Endpoint, NO_CELL, Service};
use mesh_common::decide::choose::{self, Set};

struct KernelSet;

impl Set<'static> for KernelSet {
    #[inline(always)]
    fn backend(&self, key: BackendKey) -> Option<&'static Backend> {
        // SAFETY: read within this program run. An element that is replaced keeps its memory for as long, or has it given to another backend
        // of some service, which takes this one connection instead.
        unsafe { BACKENDS.get(&key) }
    }

    #[inline(always)]
    fn active(&self, backend: &Backend) -> i64 {
        // SAFETY: a cell of the map.
        LOADS.get_ptr(backend.cell).map_or(0, |load| unsafe { read_volatile(&raw const (*load).active) })
    }
}

/// The backend for this caller's connection.
#[inline(always)]
pub(crate) fn choose(service: &Service, caller: &Caller) -> Option<&'static Backend> {
    // SAFETY: takes nothing.
    choose::choose(service, &KernelSet, || unsafe { bpf_get_prandom_u32() }, || caller.source())
}

/// Is this endpoint still there?
#[inline(always)]
pub(crate) fn is_there(endpoint: &Endpoint) -> bool {
    // SAFETY: a cell of the map.
    LOADS.get_ptr(endpoint.cell).is_some_and(|load| unsafe { read_volatile(&raw const (*load).stamp) } == endpoint.stamp)
}

/// One connection more, or less. A cell that has another owner by now is left alone.
#[inline(always)]
pub(crate) fn add(endpoint: Endpoint, change: i64) {
    if endpoint.cell == NO_CELL || !is_there(&endpoint) {
        return;
    }
    if let Some(load) = LOADS.get_ptr_mut(endpoint.cell) {
        // `core::sync::atomic` has no addition for BPF: the target cannot compare and swap, and it wants that for both. The result is not used,
        // or this were an instruction that needs a newer processor version.
        // SAFETY: an aligned field of a cell of the map, which everybody changes atomically.
        unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(&raw mut (*load).active, change) };
    }
}

/// The connection that was filed on this socket is over.
#[inline(always)]
pub(crate) fn leave(diverted: &Diverted) {
    add(Endpoint { cell: diverted.cell, stamp: diverted.stamp }, -1);
}
