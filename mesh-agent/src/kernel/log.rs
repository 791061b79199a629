//! Lines that the kernel programs write about what they decide (aya-log), at the level with which they are loaded; none by default.
//!
//! The programs write numbers; the names of reasons are put to them here.

use crate::core::budget::Budget;
use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use mesh_common::reason::{Passed, Reason, Steered};
use parking_lot::Mutex;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;
use tracing::{info, warn};

/// Global of aya-log in the object.
pub(super) const LEVEL: &str = aya_log::LEVEL;
/// Lines a second that are passed on: enough to follow an application, too few to fill a disk.
const LINES_PER_SECOND: u32 = 200;

/// What the programs log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum KernelLog {
    /// Nothing: no line of it is in the programs.
    #[default]
    Off,
    /// Refusals.
    Info,
    /// And every other verdict.
    Debug,
}

impl KernelLog {
    pub(super) fn level(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Info => Level::Info.into(),
            Self::Debug => Level::Debug.into(),
        }
    }
}

/// The lines, to be read by whoever waits for the descriptor.
pub struct Lines(EbpfLogger<Pass>);

impl Lines {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, aya_log::Error> {
        EbpfLogger::init_with_logger(object, Pass { start: Instant::now(), budget: Mutex::new(Budget::new(LINES_PER_SECOND)) })
            .map(Self)
    }

    /// Passes on all that is there.
    pub fn flush(&mut self) {
        self.0.flush();
    }
}

impl AsFd for Lines {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lines")
    }
}

/// From aya-log's words to ours.
struct Pass {
    start: Instant,
    budget: Mutex<Budget>,
}

impl log::Log for Pass {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut budget = self.budget.lock();
        let granted = budget.spend(self.start.elapsed());
        if let Some(count) = budget.missed() {
            warn!(count, "the kernel programs logged more lines than are passed on");
        }
        if granted {
            // Whoever asked for them sees them, whatever the agent's own level is: so all are of one.
            let line = record.args().to_string();
            info!(target: "kernel", code = name(&line), "{line}");
        }
    }

    fn flush(&self) {}
}

/// The name of the code in a line.
fn name(line: &str) -> &'static str {
    let code = line.split(' ').find_map(|word| word.strip_prefix("code=")?.parse::<u8>().ok()).unwrap_or_default();
    let refused = Reason::from_code(code).map(Reason::label);
    let passed = || Passed::from_code(code).map(Passed::label);
    refused.or_else(passed).or_else(|| Steered::from_code(code).map(Steered::label)).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_names() {
        assert_eq!(name("refused code=5 slot=7 dest=::ffff:203.0.113.9"), "egress_denied");
        assert_eq!(
            (name("verdict code=37 slot=7"), name("verdict code=65"), name("code=250"), name("")),
            ("workload", "backend", "unknown", "unknown")
        );
    }
}
