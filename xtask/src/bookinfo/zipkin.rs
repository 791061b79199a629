//! Zipkin beside the shop: fetched while the binaries are built, posted when the page is there. It is ready some seconds after that, which
//! nobody waits for; without it the shop is whole, and the proxies trace nothing.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use super::images::Binaries;
use super::state::State;
use super::{mesh, sim};
use crate::install;
use crate::ui::{self, Poll, note};

pub(crate) const PORT: u16 = 9411;
/// After that the shop goes on without.
const FETCH_LIMIT: Duration = Duration::from_secs(120);

/// What is being fetched, if it is wanted.
pub(crate) struct Zipkin(Option<JoinHandle<Result<PathBuf>>>);

impl Zipkin {
    pub(crate) fn fetch(wanted: bool) -> Self {
        Self(wanted.then(|| std::thread::spawn(install::zipkin)))
    }

    /// Where a browser finds it. What is in the way is told, and is no error.
    pub(crate) fn start(self, state: &State, binaries: &Binaries, marathon: &str) -> Option<String> {
        let fetching = self.0?;
        let started = fetched(fetching).and_then(|jar| post(&jar, state, binaries, marathon));
        match started {
            Ok(page) => Some(page),
            Err(error) => {
                note(&format!("goes on without Zipkin: {error:#}"));
                None
            }
        }
    }
}

fn fetched(fetching: JoinHandle<Result<PathBuf>>) -> Result<PathBuf> {
    if !fetching.is_finished() {
        ui::wait("waiting for Zipkin to be fetched", FETCH_LIMIT, || {
            Ok(if fetching.is_finished() { Poll::Ready(()) } else { Poll::Pending("not all of it is here".into()) })
        })?;
    }
    fetching.join().map_err(|_panicked| anyhow::anyhow!("fetching it broke off"))?
}

fn post(jar: &Path, state: &State, binaries: &Binaries, marathon: &str) -> Result<String> {
    let placed = binaries.path(super::images::ZIPKIN_JAR);
    // Of 135 MB, and mostly on the same file system.
    if std::fs::hard_link(jar, &placed).is_err() {
        std::fs::copy(jar, &placed).with_context(|| format!("cannot place {}", placed.display()))?;
    }
    mesh::post_app(marathon, "zipkin")?;
    let port = sim::port(PORT)?;
    sim::forward(state, binaries, port, "zipkin", PORT)?;
    Ok(format!("http://127.0.0.1:{port}/zipkin/"))
}
