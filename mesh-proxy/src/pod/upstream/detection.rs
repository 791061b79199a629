//! Outlier detection of a pod and cluster: reports go in, the set of ejected endpoints comes out; sweeps as long as there is something to
//! sweep. The judgement is [`crate::core::outlier`].

use super::Upstream;
use crate::config::Cluster;
use crate::core::outlier::{Counts, Detector, Report, Settings};
use rand::RngCore;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub(super) struct Detection {
    detector: RefCell<Option<Detector>>,
    /// Sweeps are at whole intervals from here.
    began: Cell<Instant>,
    sweeping: Cell<bool>,
    ejected: RefCell<HashSet<SocketAddr>>,
    generation: Cell<u64>,
}

impl Detection {
    pub(super) fn new() -> Self {
        Self {
            detector: RefCell::default(),
            began: Cell::new(Instant::now()),
            sweeping: Cell::new(false),
            ejected: RefCell::default(),
            generation: Cell::new(0),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.detector.borrow().as_ref().map(Detector::counts).unwrap_or_default()
    }

    /// As in Envoy a changed cluster is a new one: what was known of its endpoints is forgotten.
    fn obey(&self, settings: Option<&Arc<Settings>>) {
        let mut detector = self.detector.borrow_mut();
        match (detector.as_ref().map(Detector::settings), settings) {
            (None, None) => return,
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old == new => return,
            _ => {}
        }
        *detector = settings.map(|settings| Detector::new(Arc::clone(settings)));
        drop(detector);
        self.began.set(Instant::now());
        self.refresh();
    }

    /// The set has changed.
    fn refresh(&self) {
        let detector = self.detector.borrow();
        *self.ejected.borrow_mut() = detector.iter().flat_map(|detector| detector.ejected()).collect();
        self.generation.set(self.generation.get() + 1);
    }

    /// Endpoints come and go with the configuration.
    pub(super) fn retain(&self, cluster: Option<&Cluster>) {
        self.obey(cluster.and_then(|cluster| cluster.pool.outlier.as_ref()));
        let mut detector = self.detector.borrow_mut();
        let Some((detector, cluster)) = detector.as_mut().zip(cluster) else { return };
        let changed =
            detector.retain(|address| cluster.balancer.members().endpoints.iter().any(|endpoint| endpoint.address == address));
        if changed {
            *self.ejected.borrow_mut() = detector.ejected().collect();
            self.generation.set(self.generation.get() + 1);
        }
    }

    /// A sweep; when the next one is due, if it could change anything.
    fn sweep(&self) -> Option<Instant> {
        let changed = self.detector.borrow_mut().as_mut()?.sweep(self.began.get().elapsed());
        if changed {
            self.refresh();
        }
        self.next()
    }

    fn next(&self) -> Option<Instant> {
        self.detector.borrow().as_ref().and_then(|detector| self.due(detector))
    }

    /// When the next sweep is, if it could change anything.
    fn due(&self, detector: &Detector) -> Option<Instant> {
        if detector.is_quiet() {
            return None;
        }
        let interval = detector.settings().interval.as_nanos().max(1);
        let passed = self.began.get().elapsed().as_nanos() / interval;
        let after = u64::try_from(interval.saturating_mul(passed + 1)).unwrap_or(u64::MAX);
        self.began.get().checked_add(Duration::from_nanos(after))
    }
}

impl Upstream {
    /// Endpoints that are not to be chosen now.
    #[must_use]
    pub fn is_ejected(&self, address: SocketAddr) -> bool {
        self.detection.ejected.borrow().contains(&address)
    }

    /// The same as a set.
    #[must_use]
    pub fn ejected(&self) -> std::cell::Ref<'_, HashSet<SocketAddr>> {
        self.detection.ejected.borrow()
    }

    /// Changes whenever the set does.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.detection.generation.get()
    }

    /// What became of an attempt.
    pub fn report(self: &Rc<Self>, cluster: &Cluster, address: SocketAddr, report: Report, rng: &mut dyn RngCore) {
        let Some(settings) = &cluster.pool.outlier else { return };
        let detection = &self.detection;
        detection.obey(Some(settings));
        let now = detection.began.get().elapsed();
        let mut detector = detection.detector.borrow_mut();
        let Some(detector) = detector.as_mut() else { return };
        // It may have left while the request was there.
        if report.is_bad() && !cluster.balancer.members().endpoints.iter().any(|endpoint| endpoint.address == address) {
            return;
        }
        if !detector.report(address, report, cluster.balancer.members().endpoints.len(), now, rng) {
            return;
        }
        *detection.ejected.borrow_mut() = detector.ejected().collect();
        detection.generation.set(detection.generation.get() + 1);
        tracing::info!(cluster = %cluster.name, %address, ?report, "ejected");
        if !detection.sweeping.replace(true) {
            let upstream = Rc::downgrade(self);
            let mut next = detection.due(detector);
            tokio::task::spawn_local(async move {
                while let Some(at) = next {
                    tokio::time::sleep_until(at).await;
                    // Gone with its pod or its cluster.
                    let Some(upstream) = upstream.upgrade() else { return };
                    next = upstream.detection.sweep();
                    if next.is_none() {
                        upstream.detection.sweeping.set(false);
                    }
                }
            });
        }
    }
}
