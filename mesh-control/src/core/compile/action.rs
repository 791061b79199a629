//! Where a request that matched is sent: destinations by weight, and what else belongs to the way there.

use super::envoy::{duration, matcher, regex, route, uint};
use super::headers::{Changed, change};
use super::{Compiler, Settings, hash, mirror, retry};
use crate::istio::virtual_service::{HttpRoute, HttpRouteDestination};
use mesh_xds::names::ClusterName;
use route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use std::time::Duration;

/// A route to a service for which no rule speaks.
pub(super) fn plain(cluster: String, settings: &Settings) -> route::RouteAction {
    let mut action = route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        retry_policy: retry::everywhere(settings),
        ..Default::default()
    };
    // Disabled, as Istio has it; Envoy's own default is 15 s.
    limit(&mut action, Duration::ZERO);
    action
}

/// What a gRPC client asks for in `grpc-timeout` counts, as far as the route's own timeout allows; 0 is no limit.
#[expect(deprecated, reason = "what Istio sets: the field that came after also ends streams")]
fn limit(action: &mut route::RouteAction, timeout: Duration) {
    action.timeout = Some(duration(timeout));
    action.max_grpc_timeout = action.timeout;
}

/// The action of a rule, and the header changes that belong to the route.
pub(super) fn forward(c: &mut Compiler<'_, '_>, rule: &HttpRoute, port: u16) -> route::Route {
    let mut found = route::Route::default();
    let mut host = change(&mut Changed::of_route(&mut found), rule.headers.as_ref());
    let live: Vec<_> = rule.route.iter().filter(|to| rule.route.len() == 1 || to.weight > 0).collect();
    let names: Vec<_> = live.iter().map(|to| c.target(&to.destination, port)).collect();
    let specifier = match live.as_slice() {
        [only] => {
            let own = change(&mut Changed::of_route(&mut found), only.headers.as_ref());
            host = host.or(own);
            ClusterSpecifier::Cluster(names[0].to_string())
        }
        several => {
            let clusters = several.iter().zip(&names).map(|(to, name)| weighted(c, to, name)).collect();
            ClusterSpecifier::WeightedClusters(route::WeightedCluster { clusters, ..Default::default() })
        }
    };
    let mut action = plain(String::new(), c.settings);
    action.cluster_specifier = Some(specifier);
    limit(&mut action, rule.timeout.unwrap_or_default());
    action.hash_policy = names.iter().filter_map(|name| hash::of(c, name)).collect();
    if let Some(retries) = &rule.retries {
        action.retry_policy = retry::of_rule(retries, c.settings);
    }
    // The same key goes to the same endpoint, also when it failed: a retry elsewhere would break what the key was chosen for.
    let keeps = names.len() == 1 && !action.hash_policy.is_empty();
    if let Some(policy) = action.retry_policy.as_mut().filter(|_| keeps && !asks_for_others(rule)) {
        policy.retry_host_predicate.clear();
    }
    action.request_mirror_policies = mirror::policies(c, rule, port);
    if let Some(rewrite) = &rule.rewrite {
        action.prefix_rewrite.clone_from(&rewrite.uri);
        action.regex_rewrite = rewrite.uri_regex_rewrite.as_ref().map(|rewrite| matcher::RegexMatchAndSubstitute {
            pattern: Some(regex(&rewrite.r#match)),
            substitution: rewrite.rewrite.clone(),
        });
        host = Some(rewrite.authority.clone()).filter(|authority| !authority.is_empty()).or(host);
    }
    action.host_rewrite_specifier = host.map(HostRewriteSpecifier::HostRewriteLiteral);
    found.action = Some(route::route::Action::Route(action));
    found
}

fn asks_for_others(rule: &HttpRoute) -> bool {
    rule.retries.as_ref().is_some_and(|retries| retries.retry_ignore_previous_hosts == Some(true))
}

fn weighted(c: &Compiler<'_, '_>, to: &HttpRouteDestination, name: &ClusterName) -> route::weighted_cluster::ClusterWeight {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let mut weight = route::weighted_cluster::ClusterWeight {
        name: name.to_string(),
        weight: uint(u32::try_from(to.weight).unwrap_or_default()),
        ..Default::default()
    };
    let host = change(&mut Changed::of_weight(&mut weight), to.headers.as_ref());
    let taken = c.settings.abilities.host_per_destination;
    weight.host_rewrite_specifier = host.filter(|_| taken).map(HostRewriteSpecifier::HostRewriteLiteral);
    weight
}
