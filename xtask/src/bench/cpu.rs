//! CPU time of processes, from the kernel's own accounts.

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Seconds of user and system time that a process has used, all threads together.
pub(super) fn of(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    Ok(ticks(&stat).with_context(|| format!("strange stat of process {pid}"))? / 100.0)
}

/// Fields 14 and 15; the name in field 2 may hold blanks. The kernel's unit towards programs is 1/100 s on every platform we build for.
fn ticks(stat: &str) -> Option<f64> {
    let rest: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(rest.get(11)?.parse::<f64>().ok()? + rest.get(12)?.parse::<f64>().ok()?)
}

/// Seconds that children of this process have used which have ended.
pub(super) fn children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of some minutes")]
    let seconds = (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6;
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_added() {
        assert_eq!(ticks("7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 1 0 5 6 7"), Some(281.0));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn this_process_has_a_time() {
        assert!(of(std::process::id()).unwrap() >= 0.0 && children().unwrap() >= 0.0);
    }
}
