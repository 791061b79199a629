//! Rolling deployments as in Marathon's TaskReplaceActor: which instances have to go now, and how many may be started, so that enough are
//! ready and not too many exist. Without a state of its own: each reconciliation decides anew from what there is. Pure.

use jiff::Timestamp;

use super::instance::Instance;
use super::spec::Spec;
use super::{Core, Entry};

/// Bounds that hold while versions are mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// So many are ready before another one that is ready may be stopped.
    pub(crate) ready: usize,
    /// So many may exist, those that are ending included.
    pub(crate) exist: usize,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "small, not negative")]
pub(crate) fn bounds(spec: &Spec) -> Bounds {
    let wanted = spec.instances as f64;
    let ready = (wanted * spec.upgrade.minimum_health).ceil() as usize;
    let exist = (wanted * (1.0 + spec.upgrade.maximum_over)).floor() as usize;
    // Without any room nothing could ever move: Marathon gives way by one. A resident one cannot have a second beside it.
    match (ready == exist, spec.resident) {
        (false, _) => Bounds { ready, exist },
        (true, false) => Bounds { ready, exist: exist + 1 },
        (true, true) => Bounds { ready: ready.saturating_sub(1), exist },
    }
}

impl Core {
    fn wanted(&self, id: &str) -> Option<&Spec> {
        self.specs.get(id).filter(|e| !e.deleted).map(|e| &**Entry::current(e))
    }

    /// To be stopped now: all of what is deleted, the surplus, and of an older version as many as the strategy allows.
    pub(crate) fn doomed(&self, id: &str) -> Vec<String> {
        let alive = || self.instances_of(id).filter(|i| !i.stopping);
        let Some(spec) = self.wanted(id) else { return alive().map(|i| i.id.clone()).collect() };
        let order = |old: bool| {
            let mut order: Vec<&Instance> = alive().filter(|i| is_old(i, spec) == old).collect();
            order.sort_by_key(|i| kill_order(i, spec.oldest_first));
            order
        };
        let (new, old) = (order(false), order(true));
        let mut doomed: Vec<&Instance> = new.iter().copied().take(new.len().saturating_sub(spec.instances)).collect();
        let mut ready = alive().filter(|i| i.is_ready()).count() - doomed.iter().filter(|i| i.is_ready()).count();
        for instance in old {
            if instance.is_ready() {
                if ready <= bounds(spec).ready {
                    continue;
                }
                ready -= 1;
            }
            doomed.push(instance);
        }
        doomed.into_iter().map(|i| i.id.clone()).collect()
    }

    /// How many instances of the current version are to be made now.
    pub(crate) fn missing(&self, id: &str) -> usize {
        let Some(spec) = self.wanted(id) else { return 0 };
        let (mut all, mut new) = (0_usize, 0);
        for instance in self.instances_of(id) {
            all += 1;
            new += usize::from(!is_old(instance, spec));
        }
        let missing = spec.instances.saturating_sub(new);
        if all == new { missing } else { missing.min(bounds(spec).exist.saturating_sub(all)) }
    }
}

fn is_old(instance: &Instance, spec: &Spec) -> bool {
    instance.spec.config_version != spec.config_version
}

/// Who waits goes first, then who is not ready, then by the kill selection.
fn kill_order(instance: &Instance, oldest_first: bool) -> (bool, bool, i128) {
    let age = |at: Timestamp| if oldest_first { at.as_nanosecond() } else { -at.as_nanosecond() };
    (!instance.is_scheduled(), instance.is_ready(), age(instance.created))
}
