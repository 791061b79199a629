//! Which endpoints are near: priorities and weights of localities, as a client somewhere sees them.
//!
//! The client's place is its node's, so all nodes of one place are told the same.

use crate::core::compile::endpoints::Client;
use crate::core::compile::envoy::{core, endpoint, uint};
use crate::core::compile::policy::Policy;
use crate::core::registry::{Endpoint, Locality, Near};
use crate::istio::destination_rule::{Distribute, Failover, LocalityLbSetting, REGION, ZONE};
use endpoint::{LbEndpoint, LocalityLbEndpoints};
use std::collections::BTreeMap;

/// What near endpoints are preferred for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Preference {
    setting: LocalityLbSetting,
    /// Others take over when the near ones fail. Without outlier detection nobody would notice that they do.
    failover: bool,
    /// The service's own wish, which a rule's setting replaces. It needs no outlier detection: Marathon's health checks say who fails.
    service: Option<Near>,
}

/// The preference of a policy, else the service's own, else the whole mesh's; `None` if all endpoints are equal wherever they are. On by default,
/// as in Istio.
pub(super) fn preference(policy: &Policy<'_>, service: Option<Near>, mesh: Option<&LocalityLbSetting>) -> Option<Preference> {
    let own = policy.load_balancer.and_then(|settings| settings.locality_lb_setting.as_ref());
    if own.is_none() && service.is_some() {
        return Some(Preference { service, ..Preference::default() });
    }
    let setting = own.or(mesh).cloned().unwrap_or_default();
    let failover = policy.outlier_detection.is_some();
    let wanted = setting.enabled != Some(false) && (failover || !setting.distribute.is_empty());
    wanted.then_some(Preference { setting, failover, service: None })
}

impl Preference {
    /// Do the weights of localities count? Where nobody set any, the balancer's own choice among all endpoints is better.
    pub(super) fn weighs(&self) -> bool {
        let LocalityLbSetting { distribute, failover, failover_priority, .. } = &self.setting;
        !distribute.is_empty() || (self.failover && !(failover.is_empty() && failover_priority.is_empty()))
    }

    /// Localities with the endpoints in them, for clients at a place.
    pub(in crate::core::compile) fn seen_from(
        &self,
        client: Client<'_>,
        all: Vec<(&Endpoint, LbEndpoint)>,
    ) -> Vec<LocalityLbEndpoints> {
        if let Some(near) = self.service {
            return in_a_row(by_place(all, |endpoint| near.distance((client.node, client.place), endpoint)));
        }
        let client = client.place;
        if !self.setting.distribute.is_empty() {
            return distributed(client, &self.setting.distribute, by_place(all, |_| 0));
        }
        let ranked = by_place(all, |endpoint| self.rank(client, endpoint));
        in_a_row(ranked)
    }

    /// How far away an endpoint is; only the order counts.
    fn rank(&self, client: &Locality, endpoint: &Endpoint) -> u32 {
        let LocalityLbSetting { failover, failover_priority, .. } = &self.setting;
        let by_labels = by_labels(client, failover_priority, endpoint);
        // Istio looks at regions too if both are given, within what the labels say.
        let by_region = failover_priority.is_empty() || !failover.is_empty();
        // Five distances by region: 0 to 4.
        by_labels * 5 + if by_region { distance(client, failover, &endpoint.place) } else { 0 }
    }
}

/// The same zone 0, the same region 2, elsewhere 3, but 4 where a rule names another region to go to. (1 is another subzone, of which
/// Mesos has none.)
fn distance(client: &Locality, failover: &[Failover], place: &Locality) -> u32 {
    if client.region != place.region {
        let rule = failover.iter().find(|rule| rule.from == client.region);
        return if rule.is_some_and(|rule| rule.to != place.region) { 4 } else { 3 };
    }
    if client.zone == place.zone { 0 } else { 2 }
}

/// The first label that differs decides: the later it comes in the list, the nearer.
fn by_labels(client: &Locality, labels: &[String], endpoint: &Endpoint) -> u32 {
    let differs = labels.iter().position(|label| {
        let (key, wanted) = label.split_once('=').map_or((label.as_str(), None), |(key, value)| (key, Some(value)));
        let of = |place: &Locality| match key {
            REGION => Some(place.region.clone()),
            ZONE => Some(place.zone.clone()),
            _ => None,
        };
        let has = of(&endpoint.place).or_else(|| endpoint.labels.get(key).cloned()).unwrap_or_default();
        // What the client's node does not answer was reported, and decides nothing.
        wanted.map(str::to_owned).or_else(|| of(client)).is_some_and(|wanted| wanted != has)
    });
    differs.map_or(0, |at| u32::try_from(labels.len() - at).unwrap_or(u32::MAX / 5))
}

/// Endpoints by rank and place; a locality weighs what its endpoints weigh.
fn by_place(all: Vec<(&Endpoint, LbEndpoint)>, rank: impl Fn(&Endpoint) -> u32) -> Vec<LocalityLbEndpoints> {
    let mut groups: BTreeMap<(u32, &Locality), Vec<LbEndpoint>> = BTreeMap::new();
    for (endpoint, told) in all {
        groups.entry((rank(endpoint), &endpoint.place)).or_default().push(told);
    }
    let group = |((priority, place), lb_endpoints): ((u32, &Locality), Vec<LbEndpoint>)| LocalityLbEndpoints {
        locality: (!place.is_unknown()).then(|| core::Locality {
            region: place.region.clone(),
            zone: place.zone.clone(),
            ..Default::default()
        }),
        load_balancing_weight: uint(lb_endpoints.iter().filter_map(|told| told.load_balancing_weight).map(|w| w.value).sum()),
        lb_endpoints,
        priority,
        ..Default::default()
    };
    groups.into_iter().map(group).collect()
}

/// Priorities without gaps, which Envoy does not take.
fn in_a_row(mut groups: Vec<LocalityLbEndpoints>) -> Vec<LocalityLbEndpoints> {
    let mut ranks: Vec<u32> = groups.iter().map(|group| group.priority).collect();
    ranks.sort_unstable();
    ranks.dedup();
    for group in &mut groups {
        let at = ranks.binary_search(&group.priority).unwrap_or_default();
        // As many as there are groups, which are far below the end of u32.
        group.priority = u32::try_from(at).unwrap_or(u32::MAX);
    }
    groups
}

/// Weights by the first rule for the client's place; localities that it does not name get nothing.
fn distributed(client: &Locality, rules: &[Distribute], groups: Vec<LocalityLbEndpoints>) -> Vec<LocalityLbEndpoints> {
    let Some(rule) = rules.iter().find(|rule| matches(&rule.from, client)) else { return groups };
    let mut left = groups;
    let mut found = Vec::new();
    // A place that several patterns name is the first one's, so the most exact ones come first.
    let mut to: Vec<_> = rule.to.iter().collect();
    to.sort_by_key(|(pattern, _)| (pattern.matches('*').count(), std::cmp::Reverse(pattern.len())));
    for (pattern, weight) in to {
        let is_meant = |group: &LocalityLbEndpoints| {
            let place = group.locality.as_ref().map(|place| Locality { region: place.region.clone(), zone: place.zone.clone() });
            matches(pattern, &place.unwrap_or_default())
        };
        let (mut meant, rest): (Vec<_>, Vec<_>) = left.into_iter().partition(is_meant);
        left = rest;
        let own = |group: &LocalityLbEndpoints| group.load_balancing_weight.map_or(1, |weight| weight.value.max(1));
        let total: u64 = meant.iter().map(|group| u64::from(own(group))).sum();
        for group in &mut meant {
            // A pattern's weight is shared by the endpoints that it means; at least 1, or Envoy would leave the group out.
            let share = (u64::from(own(group)) * u64::from(*weight)).div_ceil(total.max(1));
            group.load_balancing_weight = uint(u32::try_from(share).unwrap_or(u32::MAX));
        }
        found.extend(meant);
    }
    found
}

/// `region/zone/subzone`; `*` is any, and so is a part that is left out behind the region.
fn matches(pattern: &str, place: &Locality) -> bool {
    let mut parts = pattern.split('/');
    let region = parts.next().unwrap_or_default();
    let zone = parts.next().unwrap_or_default();
    // Nobody has a subzone.
    let subzone = parts.next().unwrap_or_default();
    (region == "*" || region == place.region) && (["*", ""].contains(&zone) || zone == place.zone) && ["*", ""].contains(&subzone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::registry::Health;
    use std::sync::Arc;

    fn place(text: &str) -> Locality {
        Locality::parse(text)
    }

    fn preference(setting: serde_json::Value) -> Preference {
        Preference { setting: serde_json::from_value(setting).expect("setting"), failover: true, service: None }
    }

    /// What a client sees of one endpoint in each of these places: place, priority, weight.
    fn seen(preference: &Preference, client: &str, places: &[(&str, &str)]) -> Vec<(String, u32, u32)> {
        let endpoint = |(at, app): &(&str, &str)| Endpoint {
            at_home: "9.0.0.1:80".parse().expect("address"),
            elsewhere: None,
            published: None,
            node: None,
            place: Arc::new(place(at)),
            workload: String::new(),
            labels: Arc::new(BTreeMap::from([("app".to_owned(), (*app).to_owned())])),
            health: Health::Healthy,
        };
        let endpoints: Vec<_> = places.iter().map(endpoint).collect();
        let told = |endpoint| (endpoint, LbEndpoint { load_balancing_weight: uint(1), ..Default::default() });
        let place = place(client);
        let groups = preference.seen_from(Client { node: None, place: &place }, endpoints.iter().map(told).collect());
        let line = |group: &LocalityLbEndpoints| {
            let at = group.locality.clone().unwrap_or_default();
            let weight = group.load_balancing_weight.map_or(0, |weight| weight.value);
            (format!("{}/{}", at.region, at.zone), group.priority, weight)
        };
        groups.iter().map(line).collect()
    }

    fn row(at: &str, priority: u32, weight: u32) -> (String, u32, u32) {
        (at.to_owned(), priority, weight)
    }

    #[test]
    fn the_own_zone_comes_first_then_the_region_then_the_rest() {
        let all = [("r1/a", ""), ("r1/b", ""), ("r2/a", ""), ("r3/a", ""), ("r1/a", "")];
        let by_default = preference(serde_json::json!({}));
        assert!(!by_default.weighs());
        let near = [row("r1/a", 0, 2), row("r1/b", 1, 1), row("r2/a", 2, 1), row("r3/a", 2, 1)];
        assert_eq!(seen(&by_default, "r1/a", &all), near);
        assert_eq!(seen(&by_default, "r1/c", &all).iter().map(|row| row.1).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert!(seen(&by_default, "", &all).iter().all(|row| row.1 == 0), "who is nowhere prefers nobody");
        let ruled = preference(serde_json::json!({"failover": [{"from": "r1", "to": "r3"}]}));
        let near = [row("r1/a", 0, 2), row("r1/b", 1, 1), row("r3/a", 2, 1), row("r2/a", 3, 1)];
        assert_eq!(seen(&ruled, "r1/a", &all), near);
        assert!(ruled.weighs());
    }

    #[test]
    fn labels_in_order_of_importance() {
        let all = [("r1/a", "x"), ("r1/b", "x"), ("r2/a", "x"), ("r1/a", "y")];
        let labels = preference(serde_json::json!({"failoverPriority": [REGION, "app=x", ZONE, "unknown"]}));
        // All equal; the zone differs; the app differs; the region differs.
        let near = [row("r1/a", 0, 1), row("r1/b", 1, 1), row("r1/a", 2, 1), row("r2/a", 3, 1)];
        assert_eq!(seen(&labels, "r1/a", &all), near);
    }

    #[test]
    fn shares_by_place() {
        let all = [("r1/a", ""), ("r1/a", ""), ("r1/b", ""), ("r2/a", ""), ("r3/a", "")];
        let rules = preference(serde_json::json!({"distribute": [
            {"from": "r1/a/*", "to": {"r1/*": 70, "r2/a": 30}},
            {"from": "*", "to": {"r3": 100}}]}));
        assert_eq!(seen(&rules, "r1/a", &all), [row("r2/a", 0, 30), row("r1/a", 0, 47), row("r1/b", 0, 24)]);
        assert_eq!(seen(&rules, "r1/b", &all), [row("r3/a", 0, 100)]);
        let other = preference(serde_json::json!({"distribute": [{"from": "r9", "to": {"r1": 100}}]}));
        assert_eq!(seen(&other, "r1/a", &all).len(), 4, "no rule is for this client");
    }
}
