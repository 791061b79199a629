//! Which endpoints a pod avoids for a while since they failed: Envoy's outlier detection by consecutive errors. One [`Detector`] per pod and
//! cluster. Time is counted from the detector's own beginning; who calls [`Detector::sweep`] on each interval is not decided here.

use rand::{Rng, RngCore};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// So many failures in a row, and how often out of 100 that has a consequence. 0 failures: never.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trigger {
    /// Failures in a row.
    pub failures: u32,
    /// Per cent.
    pub enforcing: u32,
}

/// When an endpoint is ejected and for how long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Responses of 500 and above.
    pub server_errors: Trigger,
    /// 502, 503, 504.
    pub gateway_errors: Trigger,
    /// No response, where these are told apart.
    pub local_errors: Trigger,
    /// Failures to get any response count by themselves, not as 503 or 504.
    pub split: bool,
    /// Time between sweeps.
    pub interval: Duration,
    /// Of the first ejection; the n-th in a row takes n times as long.
    pub base: Duration,
    /// At most.
    pub max: Duration,
    /// At random up to so much more, so that not all come back at once.
    pub jitter: Duration,
    /// Per cent of the endpoints that may be ejected at a time.
    pub max_percent: u32,
    /// One may be ejected whatever the per cent say.
    pub always_one: bool,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Report {
    /// A response with this status, gRPC's translated.
    Response(u16),
    /// A connection was made.
    Connected,
    /// None was made, or it ended without a response.
    Failed,
    /// No response in time.
    Timeout,
}

impl Report {
    /// Something failed.
    #[must_use]
    pub fn is_bad(self) -> bool {
        match self {
            Self::Response(code) => (500..600).contains(&code),
            Self::Connected => false,
            Self::Failed | Self::Timeout => true,
        }
    }
}

/// What happened so far, under Envoy's names.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Ejected now.
    pub ejections_active: u64,
    /// Ejections.
    pub ejections_enforced_total: u64,
    /// By responses of 500 and above.
    pub ejections_enforced_consecutive_5xx: u64,
    /// By gateway errors.
    pub ejections_enforced_consecutive_gateway_failure: u64,
    /// By connections.
    pub ejections_enforced_consecutive_local_origin_failure: u64,
    /// Would have been, were not too many ejected already.
    pub ejections_overflow: u64,
}

impl Counts {
    /// Envoy's names and the values.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("ejections_active", self.ejections_active),
            ("ejections_enforced_total", self.ejections_enforced_total),
            ("ejections_enforced_consecutive_5xx", self.ejections_enforced_consecutive_5xx),
            ("ejections_enforced_consecutive_gateway_failure", self.ejections_enforced_consecutive_gateway_failure),
            ("ejections_enforced_consecutive_local_origin_failure", self.ejections_enforced_consecutive_local_origin_failure),
            ("ejections_overflow", self.ejections_overflow),
        ]
        .into_iter()
    }

    /// Adds those of another pod.
    pub fn add(&mut self, other: &Self) {
        self.ejections_active += other.ejections_active;
        self.ejections_enforced_total += other.ejections_enforced_total;
        self.ejections_enforced_consecutive_5xx += other.ejections_enforced_consecutive_5xx;
        self.ejections_enforced_consecutive_gateway_failure += other.ejections_enforced_consecutive_gateway_failure;
        self.ejections_enforced_consecutive_local_origin_failure += other.ejections_enforced_consecutive_local_origin_failure;
        self.ejections_overflow += other.ejections_overflow;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Detector {
    settings: Arc<Settings>,
    /// Only those of which something bad is known.
    hosts: HashMap<SocketAddr, Host>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Host {
    server_errors: u32,
    gateway_errors: u32,
    local_errors: u32,
    ejected: Option<Ejection>,
    /// Ejections in a row.
    multiplier: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ejection {
    at: Duration,
    jitter: Duration,
}

#[derive(Clone, Copy)]
enum Cause {
    Server,
    Gateway,
    Local,
}

impl Detector {
    /// Nothing is known.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings, hosts: HashMap::new(), counts: Counts::default() }
    }

    /// By what it judges.
    #[must_use]
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// True if a sweep would change nothing.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.hosts.values().all(|host| host.ejected.is_none() && host.multiplier == 0)
    }

    /// The ejected.
    pub fn ejected(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.hosts.iter().filter(|(_, host)| host.ejected.is_some()).map(|(address, _)| *address)
    }

    /// Takes in what became of an attempt; `of` is the number of all endpoints. True if the endpoint is ejected by it.
    pub fn report(&mut self, address: SocketAddr, report: Report, of: usize, now: Duration, rng: &mut dyn RngCore) -> bool {
        let code = match (report, self.settings.split) {
            (Report::Response(code), _) => code,
            (Report::Connected, false) => return false,
            (Report::Failed, false) => 503,
            (Report::Timeout, false) => 504,
            (Report::Connected, true) => {
                if let Some(host) = self.hosts.get_mut(&address) {
                    host.local_errors = 0;
                }
                return false;
            }
            (Report::Failed | Report::Timeout, true) => {
                let host = self.hosts.entry(address).or_default();
                host.local_errors = host.local_errors.saturating_add(1);
                let reached = host.local_errors == self.settings.local_errors.failures;
                return reached && self.consider(address, Cause::Local, of, now, rng);
            }
        };
        self.response(address, code, of, now, rng)
    }

    fn response(&mut self, address: SocketAddr, code: u16, of: usize, now: Duration, rng: &mut dyn RngCore) -> bool {
        if !(500..600).contains(&code) {
            // Most responses: nothing bad is known and nothing bad happened.
            if let Some(host) = self.hosts.get_mut(&address) {
                (host.server_errors, host.gateway_errors) = (0, 0);
            }
            return false;
        }
        let host = self.hosts.entry(address).or_default();
        host.server_errors = host.server_errors.saturating_add(1);
        host.gateway_errors = if matches!(code, 502..=504) { host.gateway_errors.saturating_add(1) } else { 0 };
        let gateway = host.gateway_errors > 0 && host.gateway_errors == self.settings.gateway_errors.failures;
        let server = host.server_errors == self.settings.server_errors.failures;
        let by_gateway = gateway && self.consider(address, Cause::Gateway, of, now, rng);
        let by_server = server && self.consider(address, Cause::Server, of, now, rng);
        by_gateway || by_server
    }

    /// A trigger was reached: ejects, unless that is not enforced or too many are out.
    fn consider(&mut self, address: SocketAddr, cause: Cause, of: usize, now: Duration, rng: &mut dyn RngCore) -> bool {
        let settings = Arc::clone(&self.settings);
        let Some(host) = self.hosts.get_mut(&address).filter(|host| host.ejected.is_none()) else { return false };
        // The next bout is counted from here, whatever comes of this one.
        let (trigger, counter, counted) = match cause {
            Cause::Server => {
                (settings.server_errors, &mut host.server_errors, &mut self.counts.ejections_enforced_consecutive_5xx)
            }
            Cause::Gateway => (
                settings.gateway_errors,
                &mut host.gateway_errors,
                &mut self.counts.ejections_enforced_consecutive_gateway_failure,
            ),
            Cause::Local => (
                settings.local_errors,
                &mut host.local_errors,
                &mut self.counts.ejections_enforced_consecutive_local_origin_failure,
            ),
        };
        *counter = 0;
        let active = self.counts.ejections_active;
        // (active + 1) / of <= max_percent / 100, without a fraction.
        let within = (active + 1) * 100 <= u64::from(settings.max_percent.min(100)) * of as u64;
        let first = settings.always_one && active == 0;
        if !within && !first {
            self.counts.ejections_overflow += 1;
            return false;
        }
        if trigger.enforcing < 100 && rng.random_range(0..100) >= trigger.enforcing {
            return false;
        }
        *counted += 1;
        self.counts.ejections_active += 1;
        self.counts.ejections_enforced_total += 1;
        let jitter = settings.jitter.mul_f64(rng.random_range(0.0..=1.0));
        host.ejected = Some(Ejection { at: now, jitter });
        if settings.base * host.multiplier < settings.max + settings.base {
            host.multiplier += 1;
        }
        true
    }

    /// Takes back whose time is over, and lets the time of those that behave shrink. True if somebody came back.
    pub fn sweep(&mut self, now: Duration) -> bool {
        let Settings { base, max, .. } = *self.settings;
        let before = self.counts.ejections_active;
        for host in self.hosts.values_mut() {
            match host.ejected {
                None => host.multiplier = host.multiplier.saturating_sub(1),
                Some(Ejection { at, jitter }) if at + (base * host.multiplier).min(max) + jitter <= now => {
                    self.counts.ejections_active -= 1;
                    *host = Host { multiplier: host.multiplier, ..Host::default() };
                }
                Some(_) => {}
            }
        }
        let nothing = |host: &Host| host.server_errors == 0 && host.gateway_errors == 0 && host.local_errors == 0;
        self.hosts.retain(|_, host| host.ejected.is_some() || host.multiplier > 0 || !nothing(host));
        self.counts.ejections_active != before
    }

    /// Forgets endpoints that are no longer there. True if one of them was ejected.
    pub fn retain(&mut self, is_there: impl Fn(SocketAddr) -> bool) -> bool {
        let before = self.counts.ejections_active;
        self.hosts.retain(|address, _| is_there(*address));
        self.counts.ejections_active = self.hosts.values().filter(|host| host.ejected.is_some()).count() as u64;
        self.counts.ejections_active != before
    }
}

/// The HTTP status that a gRPC status counts as.
#[must_use]
pub fn of_grpc(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

#[cfg(test)]
mod tests;
