//! The one path by which a flow is counted and logged, and a refusal reported and turned into an errno.
//!
//! Log lines are for whoever starts the agent with `--kernel-log`: the verifier removes what is above the level that the programs are loaded with,
//! so that by default there are none and nothing asks for them. Codes are `mesh_common::reason`'s; the agent puts their names to them.

use crate::maps::{AUDITED, COUNTERS, EVENTS};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_set_retval};
use aya_log_ebpf::macro_support::{Level, level_enabled};
use aya_log_ebpf::{debug, info};
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use mesh_common::abi::{AuditKey, Dest, Event};
use mesh_common::reason::Reason;

/// What a cgroup program returns to let the call go on.
pub(crate) const PROCEED: i32 = 1;
/// What it returns to end the call.
pub(crate) const REFUSE: i32 = 0;

/// Adds one to a code's counter.
#[inline(always)]
pub(crate) fn count(code: u8) {
    if let Some(cell) = COUNTERS.get_ptr_mut(u32::from(code)) {
        // SAFETY: the cell belongs to this CPU, and the program cannot be preempted by itself on it.
        unsafe { *cell += 1 }
    }
}

/// Counts a flow that goes on.
#[inline(always)]
pub(crate) fn proceed(code: u8, dest: &Dest, slot: u32) -> i32 {
    count(code);
    // Asked here too, so that not even the call is left.
    if level_enabled(Level::Debug) {
        log_verdict(&Event { dest: *dest, slot, reason: code, ..Event::default() });
    }
    PROCEED
}

/// Functions of their own: what they put on the stack must not add to the hooks'.
#[inline(never)]
fn log_verdict(event: &Event) {
    let Event { dest, slot, reason, .. } = event;
    debug!((), "verdict code={} slot={} dest={:i} port={} proto={}", *reason, *slot, dest.addr.0, dest.port, dest.proto);
}

#[inline(never)]
fn log_refusal(event: &Event) {
    let Event { dest, slot, reason, pid, .. } = event;
    info!((), "refused code={} slot={} dest={:i} port={} proto={} pid={}", *reason, *slot, dest.addr.0, dest.port, dest.proto, *pid);
}

/// Counts a destination that was let pass by the outbound policy AUDIT. With no room the oldest is forgotten.
#[inline(always)]
pub(crate) fn audit(slot: u32, dest: &Dest) {
    let key = AuditKey { slot, dest: *dest };
    if let Some(cell) = AUDITED.get_ptr_mut(&key) {
        // SAFETY: an aligned element of the map, which everybody changes atomically. One that is evicted meanwhile loses this one addition.
        unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(cell.cast(), 1) };
    } else {
        let _ = AUDITED.insert(&key, &1, 0);
    }
}

/// Counts, reports and refuses.
#[inline(always)]
pub(crate) fn refuse(reason: Reason, dest: &Dest, slot: u32) -> i32 {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    report(reason, dest, slot, pid);
    end(reason.errno())
}

/// Counts and reports.
#[inline(always)]
pub(crate) fn report(reason: Reason, dest: &Dest, slot: u32, pid: u32) {
    count(reason.code());
    // SAFETY: only reads the clock.
    let time_ns = unsafe { bpf_ktime_get_ns() };
    let event = Event { time_ns, dest: *dest, slot, pid, reason: reason.code(), pad: [0; 3] };
    if level_enabled(Level::Info) {
        log_refusal(&event);
    }
    // No room means that the agent is behind; the counter has it all the same.
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        entry.write(event);
        entry.submit(0);
    }
}

/// Ends the system call with this errno.
#[inline(always)]
pub(crate) fn end(errno: i32) -> i32 {
    // SAFETY: sets a number. If it failed, the kernel would answer EPERM.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}
