//! Refusals from the kernel to the log, a bounded number each second. The counters have them all.

use crate::core::desired::ip;
use crate::kernel::Events;
use crate::ready;
use crate::served::Roster;
use mesh_common::abi::Event;
use mesh_common::reason::Reason;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// Log lines a second: enough to see what is wrong, too few to fill a disk.
const LINES_PER_SECOND: u32 = 20;

/// Logs until the ring cannot be read.
pub(crate) async fn log(events: Events, roster: Arc<Roster>) {
    let mut events = match ready::watch(events) {
        Ok(events) => events,
        Err(error) => return warn!(%error, "refusals are counted but not logged"),
    };
    let mut budget = Budget { second: Instant::now(), lines: 0, dropped: 0 };
    loop {
        let Ok(mut ready) = events.readable_mut().await else { return };
        while let Some(event) = ready.get_inner_mut().next() {
            if budget.spend(Instant::now()) {
                line(&event, &roster);
            }
        }
        ready.clear_ready();
    }
}

fn line(event: &Event, roster: &Roster) {
    let pod = roster.get(event.slot);
    let id = pod.as_ref().map_or("-", |pod| pod.workload.id.as_str());
    let reason = Reason::from_code(event.reason).map_or("unknown", Reason::label);
    let destination = std::net::SocketAddr::new(ip(event.dest.addr), event.dest.port);
    info!(pod = id, slot = event.slot, pid = event.pid, %destination, proto = event.dest.proto, reason, "refused");
}

struct Budget {
    second: Instant,
    lines: u32,
    dropped: u64,
}

impl Budget {
    fn spend(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            if self.dropped > 0 {
                warn!(count = self.dropped, "more refusals were counted than logged");
            }
            *self = Self { second: now, lines: 0, dropped: 0 };
        }
        let granted = self.lines < LINES_PER_SECOND;
        if granted {
            self.lines += 1;
        } else {
            self.dropped += 1;
        }
        granted
    }
}
