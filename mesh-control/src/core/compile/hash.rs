//! What of a request goes into the choice of an endpoint, where a DestinationRule wants equal requests at equal endpoints.

use super::envoy::{duration, route};
use super::{Compiler, policy};
use crate::istio::destination_rule::ConsistentHashLb;
use mesh_xds::names::ClusterName;
use route::route_action::{HashPolicy, hash_policy};

/// The hash policy of routes to a cluster; `None` if its balancer does not hash.
pub(super) fn of(c: &Compiler<'_, '_>, name: &ClusterName) -> Option<HashPolicy> {
    if !c.settings.abilities.hash {
        return None;
    }
    let rule = c.index.destination_rule(&name.scope, &name.host);
    let balancer = policy::effective(rule, &name.subset, name.port).load_balancer?;
    balancer.consistent_hash.as_ref().and_then(key)
}

fn key(hash: &ConsistentHashLb) -> Option<HashPolicy> {
    use hash_policy::PolicySpecifier;
    let specifier = if let Some(name) = &hash.http_header_name {
        PolicySpecifier::Header(hash_policy::Header { header_name: name.clone(), ..Default::default() })
    } else if let Some(cookie) = &hash.http_cookie {
        let attribute = |attribute: &crate::istio::destination_rule::CookieAttribute| hash_policy::CookieAttribute {
            name: attribute.name.clone(),
            value: attribute.value.clone(),
        };
        PolicySpecifier::Cookie(hash_policy::Cookie {
            name: cookie.name.clone(),
            // Absent: never made. Zero: made for a session.
            ttl: cookie.ttl.map(duration),
            path: cookie.path.clone(),
            attributes: cookie.attributes.iter().map(attribute).collect(),
        })
    } else if hash.use_source_ip == Some(true) {
        PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties { source_ip: true })
    } else if let Some(name) = &hash.http_query_parameter_name {
        PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name: name.clone() })
    } else {
        return None;
    };
    Some(HashPolicy { policy_specifier: Some(specifier), ..Default::default() })
}
