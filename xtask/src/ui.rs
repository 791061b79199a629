//! What a person sees while a command works: a line per step with the time it took, and a sign of life while waiting.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Says what begins, does it (its own output may follow), says how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("▸ {what}");
    let start = Instant::now();
    let outcome = work();
    match &outcome {
        Ok(_) => eprintln!("✓ {what} ({})", elapsed(start.elapsed())),
        Err(_) => eprintln!("✗ {what} ({})", elapsed(start.elapsed())),
    }
    outcome
}

/// What a poll found.
pub(crate) enum Poll<T> {
    Ready(T),
    /// What is still missing, shown to the person who waits.
    Pending(String),
}

/// Polls until ready; `Err` from `poll` ends the wait at once, a time-out says what was missing last.
pub(crate) fn wait<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<Poll<T>>) -> Result<T> {
    let (start, tty) = (Instant::now(), std::io::stderr().is_terminal());
    let mut said = (Instant::now(), String::new());
    if !tty {
        eprintln!("▸ {what}");
    }
    loop {
        let missing = match poll() {
            Ok(Poll::Ready(value)) => {
                eprintln!("{}✓ {what} ({})", clear(tty), elapsed(start.elapsed()));
                return Ok(value);
            }
            Ok(Poll::Pending(missing)) => missing,
            Err(error) => {
                eprintln!("{}✗ {what} ({})", clear(tty), elapsed(start.elapsed()));
                return Err(error);
            }
        };
        if start.elapsed() > limit {
            eprintln!("{}✗ {what} ({})", clear(tty), elapsed(start.elapsed()));
            bail!("{what}: not within {}; still missing: {missing}", elapsed(limit));
        }
        if tty {
            eprint!("{}▸ {what} ({}) {missing}", clear(tty), elapsed(start.elapsed()));
            std::io::stderr().flush()?;
        } else if missing != said.1 || said.0.elapsed() > Duration::from_secs(10) {
            eprintln!("  {} … {missing}", elapsed(start.elapsed()));
            said = (Instant::now(), missing);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn clear(tty: bool) -> &'static str {
    if tty { "\r\x1b[2K" } else { "" }
}

/// To standard output, for people and pipes alike; one that is closed (`| head`) is no error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub(crate) fn note(text: &str) {
    eprintln!("  {text}");
}

/// `0.4 s`, `12 s`, `3 min 05 s`.
pub(crate) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_people_say_them() {
        for (millis, text) in [(430, "0.4 s"), (12_600, "12 s"), (185_000, "3 min 05 s")] {
            assert_eq!(elapsed(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn a_wait_that_fails_says_what_was_missing() {
        let error = wait::<()>("waiting", Duration::ZERO, || {
            std::thread::sleep(Duration::from_millis(1));
            Ok(Poll::Pending("agent 1 of 2".into()))
        });
        assert!(error.unwrap_err().to_string().contains("agent 1 of 2"));
    }
}
