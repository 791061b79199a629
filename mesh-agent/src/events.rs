//! Refusals and lines from the kernel to the log, a bounded number each second. The counters have them all.

use crate::core::budget::Budget;
use crate::core::desired::ip;
use crate::egress::Book;
use crate::kernel::{Events, Lines};
use crate::ready;
use crate::served::Roster;
use mesh_common::abi::Event;
use mesh_common::reason::Reason;
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};

/// Log lines a second: enough to see what is wrong, too few to fill a disk.
const LINES_PER_SECOND: u32 = 20;

/// Logs until the ring cannot be read.
pub(crate) async fn log(events: Events, roster: Arc<Roster>, book: Arc<Book>) {
    let mut events = match ready::watch(events) {
        Ok(events) => events,
        Err(error) => return warn!(%error, "refusals are counted but not logged"),
    };
    let (start, mut budget) = (Instant::now(), Budget::new(LINES_PER_SECOND));
    loop {
        let Ok(mut ready) = events.readable_mut().await else { return };
        while let Some(event) = ready.get_inner_mut().next() {
            let granted = budget.spend(start.elapsed());
            if let Some(count) = budget.missed() {
                warn!(count, "more refusals were counted than logged");
            }
            if granted {
                line(&event, &roster, &book);
            }
        }
        ready.clear_ready();
    }
}

/// Passes on what the kernel programs write, until that cannot be read.
pub(crate) async fn follow(lines: Lines) {
    let mut lines = match ready::watch(lines) {
        Ok(lines) => lines,
        Err(error) => return warn!(%error, "what the kernel programs write is not read"),
    };
    loop {
        let Ok(mut ready) = lines.readable_mut().await else { return };
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

fn line(event: &Event, roster: &Roster, book: &Book) {
    let pod = roster.get(event.slot);
    let id = pod.as_ref().map_or("-", |pod| pod.workload.id.as_str());
    let reason = Reason::from_code(event.reason).map_or("unknown", Reason::label);
    let destination = std::net::SocketAddr::new(ip(event.dest.addr), event.dest.port);
    // What a pod has been told that the address is called.
    let name = book.audit.names(destination.ip()).into_iter().next().unwrap_or_else(|| "-".to_owned());
    info!(pod = id, slot = event.slot, pid = event.pid, %destination, proto = event.dest.proto, name, reason, "refused");
}
