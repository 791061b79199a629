//! The one path by which a flow is counted, and a refusal reported and turned into an errno.

use crate::maps::{COUNTERS, EVENTS};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_set_retval};
use mesh_common::abi::{Dest, Event};
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
    // No room means that the agent is behind; the counter has it all the same.
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        // SAFETY: only reads the clock.
        let time_ns = unsafe { bpf_ktime_get_ns() };
        entry.write(Event { time_ns, dest: *dest, slot, pid, reason: reason.code(), pad: [0; 3] });
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
