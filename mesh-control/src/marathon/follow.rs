//! Keeps a view of Marathon: attach to the events first, then take a snapshot, then ask again for what events name.
//!
//! The order matters: Marathon replays nothing, so what changes between snapshot and attachment would be missed. With Marathon away the
//! last good view stays.

use super::client::{Client, Error};
use super::fetch::fetch;
use super::hints::{self, Dirty};
use super::overlay::{self, Overlay};
use super::sse::Parser;
use super::types::View;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

/// Times, which tests shorten.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Events come in bursts; this long they are gathered.
    pub(crate) debounce: Duration,
    /// Everything is asked for again this often, since events may be missed.
    pub(crate) resync: Duration,
    /// Marathon's heartbeat is every 10 s; a stream silent for longer than this is dead.
    pub(crate) silence: Duration,
    /// Apps whose tasks have to become ready are asked for this often.
    pub(crate) readiness: Duration,
    /// How long the first event is waited for before the snapshot is taken anyway.
    pub(crate) attach: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(5),
            resync: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            readiness: Duration::from_secs(1),
            attach: Duration::from_secs(2),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// How it goes, for `/status`, `/ready` and metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) url: String,
    pub(crate) connected: bool,
    pub(crate) error: Option<String>,
    /// When the registry was last known to be what Marathon says: by an answer, or by a sign of life on a stream that has answered.
    pub(crate) heard: Option<SystemTime>,
    pub(crate) snapshots: u64,
    pub(crate) events: u64,
    pub(crate) reconnects: u64,
}

impl Progress {
    /// Of what is in force; `None` before anything is.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        self.heard.map(|heard| now.duration_since(heard).unwrap_or_default())
    }

    fn hear(&mut self) {
        self.heard = Some(SystemTime::now());
    }
}

/// What follows one Marathon.
pub(crate) struct Follower {
    pub(crate) client: Client,
    pub(crate) times: Times,
    pub(crate) view: watch::Sender<Option<Arc<View>>>,
    pub(crate) progress: Arc<Mutex<Progress>>,
}

/// What the reading half tells the asking half.
#[derive(Default)]
struct Shared {
    dirty: Mutex<Dirty>,
    changed: Notify,
    attached: Notify,
    /// The last answer, over which events are laid.
    snapshot: Mutex<Option<Arc<View>>>,
    overlay: Mutex<Overlay>,
}

impl Follower {
    /// Runs for ever.
    pub(crate) async fn run(self) -> std::convert::Infallible {
        let mut failures = 0u32;
        loop {
            self.progress.lock().url = self.client.url();
            let snapshots = self.progress.lock().snapshots;
            let error = match self.session().await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let went_well = {
                let mut progress = self.progress.lock();
                progress.connected = false;
                progress.reconnects += 1;
                progress.error = Some(error.to_string());
                progress.snapshots > snapshots
            };
            failures = if went_well { 0 } else { failures.saturating_add(1) };
            let pause = backoff(&self.times, failures, rand::random::<f64>());
            let age_s = self.progress.lock().age(SystemTime::now()).map(|age| age.as_secs());
            tracing::warn!(%error, age_s, pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX), "Marathon is away; what it said last stays in force");
            self.client.rotate();
            sleep(pause).await;
        }
    }

    /// One event stream, from attachment to its end.
    async fn session(&self) -> Result<std::convert::Infallible, Error> {
        let stream = self.client.events().await?;
        let shared = Shared { dirty: Mutex::new(Dirty::everything()), ..Default::default() };
        // Reading never waits for asking: a slow reader is cut off by Marathon.
        tokio::select! {
            error = self.read(stream, &shared) => Err(error),
            error = self.ask(&shared) => Err(error),
        }
    }

    async fn read(&self, mut stream: Incoming, shared: &Shared) -> Error {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        loop {
            let frame = match timeout(self.times.silence, stream.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Error::Stream("Marathon's event stream broke"),
                Ok(None) => return Error::Stream("Marathon closed the event stream (it does so when its leader changes)"),
                Err(_) => return Error::Stream("Marathon's event stream is silent, without even heartbeats"),
            };
            let Ok(bytes) = frame.into_data() else { continue };
            shared.attached.notify_one();
            parser.push(&bytes, &mut events);
            {
                let mut progress = self.progress.lock();
                if progress.connected {
                    progress.hear();
                }
            }
            for event in events.drain(..) {
                self.progress.lock().events += 1;
                let hint = if event.truncated { Dirty::everything() } else { hints::of_event(&event.kind, &event.data) };
                let news = overlay::of_event(&event.kind, &event.data);
                if !news.is_empty() {
                    let now = Instant::now().into_std();
                    news.into_iter().for_each(|news| shared.overlay.lock().add(news, now));
                    self.show(shared);
                }
                if !hint.is_clean() {
                    shared.dirty.lock().add(hint);
                    shared.changed.notify_one();
                }
            }
        }
    }

    async fn ask(&self, shared: &Shared) -> Error {
        let _ = timeout(self.times.attach, shared.attached.notified()).await;
        let mut next_resync = Instant::now();
        // What was seen last, with or without what events said: only ids and old versions are taken from it.
        let mut before = self.view.borrow().clone().unwrap_or_default();
        loop {
            let dirty = std::mem::take(&mut *shared.dirty.lock());
            let started = Instant::now();
            let view = match fetch(&self.client, &before, &dirty).await {
                Ok(view) => view,
                Err(error) => return error,
            };
            before = Arc::new(view);
            *shared.snapshot.lock() = Some(before.clone());
            shared.overlay.lock().confirm(&before, started.into_std(), Instant::now().into_std());
            {
                let mut progress = self.progress.lock();
                progress.connected = true;
                progress.error = None;
                progress.hear();
                progress.snapshots += 1;
            }
            self.show(shared);
            if dirty.all {
                next_resync = Instant::now() + self.times.resync.mul_f64(0.9 + 0.2 * rand::random::<f64>());
            }
            // No event tells of readiness.
            let awaited: BTreeSet<String> = before.awaited().map(str::to_owned).collect();
            let next_look = if awaited.is_empty() { next_resync } else { next_resync.min(Instant::now() + self.times.readiness) };
            // As long as Marathon needed for the answer it gets to do other things.
            sleep(started.elapsed().min(self.times.resync)).await;
            tokio::select! {
                () = shared.changed.notified() => sleep(self.times.debounce).await,
                () = tokio::time::sleep_until(next_look), if next_look < next_resync => {
                    shared.dirty.lock().add(Dirty { all: false, ids: awaited });
                }
                () = tokio::time::sleep_until(next_resync) => shared.dirty.lock().all = true,
            }
        }
    }

    /// Publishes the last snapshot with what events have said since.
    fn show(&self, shared: &Shared) {
        let Some(snapshot) = shared.snapshot.lock().clone() else { return };
        let view = shared.overlay.lock().over(&snapshot);
        self.view.send_if_modified(|current| {
            let changed = current.as_deref() != Some(&view);
            if changed {
                *current = Some(Arc::new(view));
            }
            changed
        });
    }
}

/// Doubles with each failure up to the limit; `random` (0 to 1) spreads a cluster's clients over the second half of it.
fn backoff(times: &Times, failures: u32, random: f64) -> Duration {
    let whole = times.backoff_min.saturating_mul(1u32 << failures.min(16)).min(times.backoff_max);
    whole.mul_f64(0.5 + random / 2.0)
}
