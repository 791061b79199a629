//! What the kernel says of a program that it does not load, in one line that an operator can read: the verifier writes down every step of
//! its walk, thousands of lines, and the reason comes last.

use aya::programs::ProgramError;
use std::collections::VecDeque;
use std::fmt;

/// The reason, the instruction it is about, and the few before it.
const LINES_MAX: usize = 12;
/// A line of the verifier's may name every register; this holds what is worth reading of one.
const LINE_MAX: usize = 240;

/// Why a program does not load.
#[derive(Debug)]
pub struct Refused {
    what: String,
    /// The end of the verifier's log: its reason is the last line. Empty, if it said nothing.
    last: Vec<String>,
}

impl From<ProgramError> for Refused {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                Self { what: io_error.to_string(), last: last_lines(&verifier_log.to_string()) }
            }
            other => Self { what: other.to_string(), last: Vec::new() },
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let Some((reason, walk)) = self.last.split_last() else { return Ok(()) };
        write!(f, "; the verifier says {reason:?}")?;
        if walk.is_empty() { Ok(()) } else { write!(f, " after {}", walk.join(" | ")) }
    }
}

/// The last lines of a verifier's log that are about the program.
fn last_lines(log: &str) -> Vec<String> {
    let mut last = VecDeque::with_capacity(LINES_MAX);
    for line in log.lines().map(str::trim).filter(|line| !line.is_empty() && !is_statistics(line)) {
        if last.len() == LINES_MAX {
            last.pop_front();
        }
        last.push_back(line.chars().take(LINE_MAX).collect());
    }
    last.into()
}

/// What the verifier appends about its own work, refused or not.
fn is_statistics(line: &str) -> bool {
    ["processed ", "verification time ", "stack depth ", "insns processed "].iter().any(|begins| line.starts_with(begins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn log() -> String {
        let walk: String = (0..5000).map(|n| format!("{n}: (bf) r1 = r{n}\n")).collect();
        let end = "R1 pointer arithmetic on map_value_or_null prohibited\nverification time 120 usec\nstack depth 40+8\n";
        format!(
            "func#0 @0\n{walk}{end}processed 5001 insns (limit 1000000) max_states_per_insn 4 total_states 30 peak_states 30\n"
        )
    }

    fn refused(log: &str) -> String {
        Refused { what: io::Error::from_raw_os_error(libc::EPERM).to_string(), last: last_lines(log) }.to_string()
    }

    #[test]
    fn the_reason_at_the_end_is_kept_and_the_walk_is_not() {
        let said = refused(&log());
        let begins = "Operation not permitted (os error 1); the verifier says \"R1 pointer arithmetic on map_value_or_null prohibited\" after ";
        assert!(said.starts_with(begins) && said.ends_with(" | 4999: (bf) r1 = r4999"), "{said}");
        assert!(!said.contains("4988: ") && said.contains("4989: "), "{said}");
        assert!(!said.contains("processed") && !said.contains('\n'), "{said}");
    }

    #[test]
    fn long_lines_are_cut_and_no_log_is_no_words() {
        assert_eq!(last_lines(&"\u{e4}".repeat(5000))[0].chars().count(), LINE_MAX);
        assert_eq!(refused(""), "Operation not permitted (os error 1)");
        assert_eq!(refused("unknown func\n"), "Operation not permitted (os error 1); the verifier says \"unknown func\"");
    }
}
