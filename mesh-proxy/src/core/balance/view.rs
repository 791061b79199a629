//! Who may be chosen: the endpoints of one update, less those that a pod has ejected, sorted by priority, health and locality, with the
//! share of each. Computed once per change and shared by all pods that have ejected nobody; never by request.

use super::maglev::Maglev;
use super::priority::{Able, Loads};
use super::ring::Ring;
use super::{Endpoint, Health, Members, Policy, Settings};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct View {
    pub(super) hosts: Vec<Host>,
    /// At least one.
    pub(super) levels: Vec<Level>,
    pub(super) loads: Loads,
    /// When the last host came, if hosts warm up.
    pub(super) newest: Option<Duration>,
}

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) address: SocketAddr,
    pub(super) weight: u32,
    locality: usize,
    /// When it was first seen healthy, if hosts warm up.
    pub(super) since: Option<Duration>,
}

/// The hosts of one priority.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) all: Group,
    pub(super) healthy: Group,
    pub(super) degraded: Group,
    /// With locality weights: the healthy and the degraded hosts of each locality that takes anything.
    pub(super) healthy_localities: Vec<Part>,
    pub(super) degraded_localities: Vec<Part>,
    /// The localities that have hosts here, in order, with their weights.
    localities: Vec<(usize, u32)>,
    /// Built when it is first asked for: most pods never ask for most clusters.
    table: OnceLock<Table>,
}

/// Hosts that take turns.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// By their number in the view, in the order of the update.
    pub(super) hosts: Vec<u32>,
    /// All weigh the same.
    pub(super) equal: bool,
}

/// A locality's part of a level.
#[derive(Debug)]
pub(super) struct Part {
    /// Its weight, less what is not healthy there.
    pub(super) weight: f64,
    pub(super) group: Group,
}

/// A host's part in consistent hashing.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) host: u32,
    /// What is hashed: its address and port.
    pub(super) key: String,
    /// Of 1.
    pub(super) part: f64,
}

#[derive(Debug)]
enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl View {
    /// `ejected` says who may not be chosen although the control plane knows of nothing; `since` who is new.
    pub(super) fn new(
        settings: &Settings,
        members: &Members,
        ejected: &dyn Fn(SocketAddr) -> bool,
        since: &dyn Fn(SocketAddr) -> Option<Duration>,
    ) -> Self {
        let taken: Vec<(&Endpoint, Health)> = members
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.weight > 0)
            .map(|endpoint| (endpoint, if ejected(endpoint.address) { Health::Unhealthy } else { endpoint.health }))
            .collect();
        let host = |(endpoint, _): &(&Endpoint, Health)| Host {
            address: endpoint.address,
            weight: endpoint.weight,
            locality: endpoint.locality,
            since: since(endpoint.address),
        };
        let hosts: Vec<Host> = taken.iter().map(host).collect();
        let health: Vec<Health> = taken.iter().map(|(_, health)| *health).collect();
        let last = taken.iter().map(|(endpoint, _)| endpoint.priority).max().unwrap_or(0);
        let mut numbers = vec![Vec::new(); last + 1];
        for (number, (endpoint, _)) in (0..).zip(&taken) {
            numbers[endpoint.priority].push(number);
        }
        let (mut levels, mut able) = (Vec::new(), Vec::new());
        for numbers in numbers {
            let level = Level::new(settings, members, &hosts, &health, numbers);
            able.push(level.able(members.weighted_health, &hosts));
            levels.push(level);
        }
        let loads = Loads::new(&able, members.overprovisioning, settings.panic_threshold);
        let newest = hosts.iter().filter_map(|host| host.since).max();
        Self { hosts, levels, loads, newest }
    }

    /// May this endpoint be chosen at all?
    #[must_use]
    pub fn takes(&self, address: SocketAddr) -> bool {
        let is = |group: &Group| group.hosts.iter().any(|number| self.host(*number).address == address);
        let mut levels = self.levels.iter().zip(&self.loads.panic);
        levels.any(|(level, panic)| if *panic { is(&level.all) } else { is(&level.healthy) || is(&level.degraded) })
    }

    pub(super) fn host(&self, number: u32) -> &Host {
        // Numbers are made from this very list.
        &self.hosts[usize::try_from(number).unwrap_or(usize::MAX)]
    }

    /// The host of a hash, at the given attempt.
    pub(super) fn hashed(&self, settings: &Settings, hash: u64, attempt: u32) -> Option<SocketAddr> {
        let (level, _) = self.loads.choose(hash);
        let panic = self.loads.panic[level];
        let level = &self.levels[level];
        let table = level.table.get_or_init(|| {
            let shares = self.shares(settings, level, panic);
            match settings.policy {
                Policy::Maglev(size) => Table::Maglev(Maglev::new(&shares, size)),
                Policy::RingHash(size) => Table::Ring(Ring::new(&shares, size)),
                _ => Table::Ring(Ring::default()),
            }
        });
        let number = match table {
            Table::Ring(ring) => ring.choose(hash, attempt),
            Table::Maglev(table) => table.choose(hash, attempt),
        };
        number.map(|number| self.host(number).address)
    }

    /// Parts of the healthy hosts (in panic: of all), by weight; with locality weights within their locality's part. Unlike turns, the
    /// hash policies know no degraded hosts and take nothing from a locality for its sick ones, as in Envoy.
    fn shares(&self, settings: &Settings, level: &Level, panic: bool) -> Vec<Share> {
        let numbers = &if panic { &level.all } else { &level.healthy }.hosts;
        let mut shares = Vec::with_capacity(numbers.len());
        let mut divide = |numbers: &[u32], part: f64| {
            let sum: u64 = numbers.iter().map(|number| u64::from(self.host(*number).weight)).sum();
            #[expect(clippy::cast_precision_loss, reason = "the sum of a locality's weights is a u32, which conversion checks")]
            let sum = sum as f64;
            for number in numbers {
                let host = self.host(*number);
                shares.push(Share { host: *number, key: host.address.to_string(), part: f64::from(host.weight) * part / sum });
            }
        };
        if !settings.locality_weighted {
            divide(numbers, 1.0);
            return shares;
        }
        let sum: f64 = level.localities.iter().map(|(_, weight)| f64::from(*weight)).sum();
        for (locality, weight) in level.localities.iter().filter(|(_, weight)| *weight > 0) {
            let here: Vec<u32> = numbers.iter().copied().filter(|number| self.host(*number).locality == *locality).collect();
            divide(&here, f64::from(*weight) / sum);
        }
        shares
    }
}

impl Level {
    fn new(settings: &Settings, members: &Members, hosts: &[Host], health: &[Health], numbers: Vec<u32>) -> Self {
        let index = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        let having = |wanted: Health, among: &[u32]| {
            Group::new(among.iter().copied().filter(|number| health[index(*number)] == wanted).collect(), hosts)
        };
        let (healthy, degraded) = (having(Health::Healthy, &numbers), having(Health::Degraded, &numbers));
        let mut localities: Vec<usize> = numbers.iter().map(|number| hosts[index(*number)].locality).collect();
        localities.sort_unstable();
        localities.dedup();
        let weight = |locality: usize| members.localities.get(locality).copied().unwrap_or(0);
        let parts = |wanted: Health| {
            let part = |locality: &usize| {
                let here: Vec<u32> =
                    numbers.iter().copied().filter(|number| hosts[index(*number)].locality == *locality).collect();
                let group = having(wanted, &here);
                let share = f64::from(members.overprovisioning) / 100.0 * ratio(group.hosts.len(), here.len());
                Part { weight: f64::from(weight(*locality)) * share.min(1.0), group }
            };
            // Without weights the localities of a level do not matter.
            let localities = if settings.locality_weighted { localities.as_slice() } else { &[] };
            localities.iter().map(part).filter(|part| part.weight > 0.0).collect::<Vec<Part>>()
        };
        Self {
            healthy_localities: parts(Health::Healthy),
            degraded_localities: parts(Health::Degraded),
            healthy,
            degraded,
            localities: localities.iter().map(|locality| (*locality, weight(*locality))).collect(),
            all: Group::new(numbers, hosts),
            table: OnceLock::new(),
        }
    }

    fn able(&self, weighted: bool, hosts: &[Host]) -> Able {
        let count = |group: &Group| u64::try_from(group.hosts.len()).unwrap_or(u64::MAX);
        let weight = |group: &Group| {
            group
                .hosts
                .iter()
                .filter_map(|number| hosts.get(usize::try_from(*number).ok()?))
                .map(|host| u64::from(host.weight))
                .sum()
        };
        let groups = [&self.all, &self.healthy, &self.degraded];
        let [all, healthy, degraded] = groups.map(count);
        let shares = if weighted { groups.map(weight) } else { [all, healthy, degraded] };
        Able { hosts: all, healthy, degraded, shares }
    }
}

impl Group {
    fn new(hosts: Vec<u32>, all: &[Host]) -> Self {
        let weight = |number: &u32| all.get(usize::try_from(*number).ok()?).map(|host| host.weight);
        let equal = hosts.windows(2).all(|pair| weight(&pair[0]) == weight(&pair[1]));
        Self { hosts, equal }
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 endpoints")]
fn ratio(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

/// What a pod sees of a cluster of whose endpoints it has ejected some. Computed anew when the cluster or the ejections change.
#[derive(Debug, Default)]
pub struct Reduced {
    of: std::sync::Weak<View>,
    generation: u64,
    view: Option<Arc<View>>,
}

impl Reduced {
    /// The view without `ejected`; `generation` changes whenever that set does.
    pub fn view(&mut self, balancer: &super::Balancer, generation: u64, ejected: &dyn Fn(SocketAddr) -> bool) -> Arc<View> {
        let same = self.generation == generation && std::ptr::eq(self.of.as_ptr(), Arc::as_ptr(balancer.view()));
        if let Some(view) = self.view.as_ref().filter(|_| same) {
            return Arc::clone(view);
        }
        let view = Arc::new(balancer.without(ejected));
        // The weak reference keeps the address from being used again, so that the comparison above cannot err.
        *self = Self { of: Arc::downgrade(balancer.view()), generation, view: Some(Arc::clone(&view)) };
        view
    }
}
