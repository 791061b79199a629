//! The harness: the newcomer's own command brings the mesh up, the tests look at it from outside and from inside its pods.
//!
//! Nothing here is a mock. [`World`] starts `xtask bookinfo` with a state directory of its own and ends it when dropped; the command dies
//! with the test process, so that a crash leaves nothing behind either.

pub mod load;
pub mod promtool;
pub mod suite;
pub mod world;

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// Asks until the condition holds; the error says what the last answer was.
///
/// # Errors
/// If it does not hold within the limit.
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match ask() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > limit => bail!("{what}: not within {limit:?}: {error:#}"),
            Err(_not_yet) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
    }
}
