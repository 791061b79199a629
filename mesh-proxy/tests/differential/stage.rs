//! Both proxies, their backends, and the cases between them.

use super::backend::{Backends, Seen};
use super::client::{Answer, Client};
use super::compare::{Fate, differences, normal};
use super::generate::{Ask, Case};
use super::limits::{self, Limited};
use super::oracle::{Envoy, free_port};
use super::pool::{Pooled, pool};
use super::resources;
use crate::world::World;
use envoy_types::pb::envoy::config::route::v3 as route;
use futures::future::join;
use mesh_xds::names;
use route::route::Action;
use route::route_action::ClusterSpecifier;
use route::route_action::HashPolicy;
use route::route_action::hash_policy::PolicySpecifier;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Cases asked at the same time: most of a case's time is waiting, for delays and time-outs.
const LANES: usize = 6;
/// How long copies may be under way after the last answer. Only a copy that never comes takes so long.
const COPIES: Duration = Duration::from_secs(10);
/// Clocks decide what a time-out meets, and the machine is not idle: who differs there is asked so often.
const TRIES: usize = 4;

/// Everything that runs.
pub struct Stage {
    cases: Vec<Case>,
    pub limited: Vec<Limited>,
    pool: Vec<Pooled>,
    pub seen: Seen,
    /// The backend where it matters how many requests came over a connection.
    brief: u16,
    ours: World,
    pub envoy_port: u16,
    pub envoy: Envoy,
}

/// Both answers to a request, and what it is filed under.
struct Both {
    case: usize,
    index: usize,
    id: String,
    expected: Answer,
    got: Answer,
}

impl Stage {
    pub fn new(seed: u64, limited: usize) -> Self {
        let seen = Seen::default();
        let backends = Backends::start(&seen);
        let pool = pool(&backends, seed);
        let cases = super::cases(seed, &pool);
        let limited: Vec<Limited> = (0..limited).map(|number| limits::case(number, seed, &backends.plain)).collect();
        let hosts: Vec<_> =
            cases.iter().map(|case| &case.host).chain(limited.iter().map(|limited| &limited.host)).cloned().collect();
        let envoy_port = free_port();
        let mut clusters: Vec<_> = pool.iter().map(|pooled| pooled.message.clone()).collect();
        clusters.extend(limited.iter().map(|limited| limited.cluster.clone()));
        let envoy = Envoy::start(vec![resources::listener_of_envoy(envoy_port, &hosts)], clusters.clone(), envoy_port);
        let mut ours = World::new("0.0.0.0:0");
        let named: Vec<_> = clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.clone())).collect();
        assert_eq!(ours.deliver(names::CLUSTER, &named), [""; 0]);
        let table = resources::listener(ours.port, &hosts);
        assert_eq!(ours.deliver(names::LISTENER, &[("all", table)]), [""; 0]);
        Self { cases, limited, pool, seen, brief: backends.brief.port(), ours, envoy_port, envoy }
    }

    pub fn our_port(&self) -> u16 {
        self.ours.port
    }

    /// How many cases have each field.
    pub fn fields(&self) -> BTreeMap<&'static str, usize> {
        let mut table = BTreeMap::new();
        let limited = self.limited.iter().flat_map(|case| &case.fields);
        for field in self.cases.iter().flat_map(|case| &case.fields).chain(limited) {
            *table.entry(*field).or_default() += 1;
        }
        table
    }

    /// Sends every request of every case to both; the disagreements, as text.
    pub async fn run(&self) -> Vec<String> {
        let all = futures::future::join_all((0..LANES).map(|lane| self.lane(lane))).await;
        let mut found = Vec::new();
        for both in all.into_iter().flatten() {
            let (case, ask) = (&self.cases[both.case], &self.cases[both.case].asks[both.index]);
            let mut how = self.judge(case, &both).await;
            if case.timed() {
                for again in 1..TRIES {
                    if how.is_empty() {
                        break;
                    }
                    how = self.judge(case, &self.ask(both.case, both.index, again, &mut self.clients()).await).await;
                }
            }
            if !how.is_empty() {
                let (how, number, index) = (how.join("\n  "), both.case, both.index);
                found.push(format!(
                    "case {number}, request {index}: {ask:?}\n  {how}\n  fields: {:?}\n{:#?}",
                    case.fields, case.host
                ));
            }
        }
        found
    }

    fn clients(&self) -> [Client; 2] {
        [Client::new(self.envoy_port), Client::new(self.our_port())]
    }

    async fn lane(&self, lane: usize) -> Vec<Both> {
        let mut clients = self.clients();
        let mut all = Vec::new();
        for (number, case) in self.cases.iter().enumerate().skip(lane).step_by(LANES) {
            for index in 0..case.asks.len() {
                all.push(self.ask(number, index, 0, &mut clients).await);
            }
        }
        all
    }

    async fn ask(&self, case: usize, index: usize, again: usize, [envoy, ours]: &mut [Client; 2]) -> Both {
        let id = format!("{case}-{index}-{again}");
        let ask: &Ask = &self.cases[case].asks[index];
        let ids = self.ids(&id);
        let (expected, got) = join(envoy.send(ask, &ids[0]), ours.send(ask, &ids[1])).await;
        Both { case, index, id, expected, got }
    }

    /// What the backends file a request under: Envoy's, ours.
    fn ids(&self, id: &str) -> [String; 2] {
        ["e", "m"].map(|who| format!("{who}-{id}"))
    }

    /// In which ways the two differ.
    async fn judge(&self, case: &Case, both: &Both) -> Vec<String> {
        let ids = self.ids(&both.id);
        if case.mirrored() {
            // Nobody says when a copy is due.
            let since = Instant::now();
            while self.seen.count(&ids[0]) != self.seen.count(&ids[1]) && since.elapsed() < COPIES {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let [expected, got] = [(&ids[0], &both.expected), (&ids[1], &both.got)].map(|(id, answer)| self.fate(case, id, answer));
        differences(&expected, &got)
    }

    fn fate(&self, case: &Case, id: &str, answer: &Answer) -> Fate {
        let mut arrived = self.seen.take(id);
        for request in &mut arrived {
            request.headers = normal(std::mem::take(&mut request.headers));
            request.nth = if request.port == self.brief { request.nth } else { 0 };
        }
        if case.mirrored() {
            // A copy may arrive before its original.
            arrived.sort_by(|a, b| (&a.headers, a.port).cmp(&(&b.headers, b.port)));
        }
        let Answer { status, headers, body } = answer.clone();
        let mut fate = Fate { status, headers: normal(headers), body, arrived };
        self.blur(case, &mut fate);
        fate
    }

    fn blur(&self, case: &Case, fate: &mut Fate) {
        let decided = |name: &str, hashed: bool| {
            self.pool
                .iter()
                .find(|pooled| pooled.message.name == name)
                .is_none_or(|pooled| pooled.single || (pooled.hashed && hashed))
        };
        let all = case.host.routes.iter().all(|route| match &route.action {
            Some(Action::Route(action)) => {
                // Only the address is in every request: without the header, cookie or parameter lots are drawn.
                let by_address =
                    |policy: &HashPolicy| matches!(policy.policy_specifier, Some(PolicySpecifier::ConnectionProperties(_)));
                let hashed = action.hash_policy.iter().any(by_address);
                match &action.cluster_specifier {
                    Some(ClusterSpecifier::Cluster(name)) => decided(name, hashed),
                    Some(ClusterSpecifier::WeightedClusters(all)) => {
                        all.clusters.iter().all(|cluster| decided(&cluster.name, hashed))
                    }
                    _ => true,
                }
            }
            _ => true,
        });
        if !all {
            fate.blur_ports();
        }
        fate.cookies_once();
        fate.blur_cookies();
    }
}
