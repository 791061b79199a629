//! VirtualServices that leave some of their routes to others: both become one, as Istio merges them.
//!
//! A delegate has no hosts and no effect of its own. Its routes stand where the root's route was, each within the root's conditions; what it
//! leaves open, the root's route fills in. One level only: a delegate that delegates is refused by admission.

use super::report::Unsupported;
use crate::istio::virtual_service::{Delegate, HttpMatchRequest, HttpRoute, StringMatch, VirtualService};
use crate::istio::{Config, Resource};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The configuration with roots and delegates merged.
pub(super) fn merged<'c>(config: &'c Config, report: &mut Vec<Unsupported>) -> Cow<'c, Config> {
    let is_delegate = |rule: &Resource<VirtualService>| rule.spec.hosts.is_empty();
    let delegates = |rule: &Resource<VirtualService>| rule.spec.http.iter().any(|route| route.delegate.is_some());
    if !config.virtual_services.iter().any(|rule| is_delegate(rule) || delegates(rule)) {
        return Cow::Borrowed(config);
    }
    let roots = config.virtual_services.iter().filter(|rule| !is_delegate(rule));
    let virtual_services = roots.map(|rule| if delegates(rule) { root(rule, config, report) } else { rule.clone() }).collect();
    Cow::Owned(Config { virtual_services, ..config.clone() })
}

/// A root with its delegates' routes in place.
fn root(rule: &Arc<Resource<VirtualService>>, config: &Config, report: &mut Vec<Unsupported>) -> Arc<Resource<VirtualService>> {
    let mut merged = (**rule).clone();
    merged.spec.http.clear();
    for (i, route) in rule.spec.http.iter().enumerate() {
        let Some(to) = &route.delegate else {
            merged.spec.http.push(route.clone());
            continue;
        };
        let mut tell = |why: &str| {
            report.push(Unsupported::new("VirtualService", &rule.meta, format!("spec.http[{i}].delegate"), why));
        };
        match found(to, &rule.meta.namespace, config) {
            Err(why) => tell(&why),
            Ok(delegate) => {
                let inner = delegate.spec.http.iter();
                let routes: Vec<_> = inner.filter_map(|inner| within(route, inner)).collect();
                if routes.len() < delegate.spec.http.len() {
                    let lost = delegate.spec.http.len() - routes.len();
                    tell(&format!("has {lost} route(s) that ask for more than the root's match allows; they are left out"));
                }
                merged.spec.http.extend(routes);
            }
        }
    }
    Arc::new(merged)
}

fn found<'c>(to: &Delegate, namespace: &str, config: &'c Config) -> Result<&'c Resource<VirtualService>, String> {
    let owner = if to.namespace.is_empty() { namespace } else { &to.namespace };
    let is_meant = |rule: &&Arc<Resource<VirtualService>>| rule.meta.name == to.name && rule.meta.namespace == owner;
    let Some(rule) = config.virtual_services.iter().find(is_meant).filter(|rule| rule.spec.hosts.is_empty()) else {
        return Err(format!("there is no VirtualService {owner}/{} without hosts, so the route is left out", to.name));
    };
    let exported = |entry: &String| entry == "*" || entry == namespace || (entry == "." && owner == namespace);
    if rule.spec.export_to.is_empty() || rule.spec.export_to.iter().any(exported) {
        Ok(rule)
    } else {
        Err(format!("{owner}/{} is not exported to namespace {namespace}, so the route is left out", to.name))
    }
}

/// A delegate's route within the root's; `None` if it is not within.
fn within(root: &HttpRoute, inner: &HttpRoute) -> Option<HttpRoute> {
    let mut merged = inner.clone();
    merged.r#match = conditions(&root.r#match, &inner.r#match)?;
    merged.name = joined(&root.name, &inner.name);
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    // One copy or several: a route has one of the two.
    if merged.mirror.is_none() && merged.mirrors.is_empty() {
        merged.mirror.clone_from(&root.mirror);
        merged.mirrors.clone_from(&root.mirrors);
    }
    let whole = |route: &HttpRoute| route.mirror_percent.or(route.mirror_percent_);
    merged.mirror_percent = whole(inner).or_else(|| whole(root));
    merged.mirror_percentage = merged.mirror_percentage.or_else(|| root.mirror_percentage.clone());
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    Some(merged)
}

/// `ROOT-DELEGATE`, or the one of the two that there is.
fn joined(root: &str, inner: &str) -> String {
    match (root, inner) {
        ("", name) | (name, "") => name.to_owned(),
        (root, inner) => format!("{root}-{inner}"),
    }
}

/// The blocks of both; `None` if a block of the delegate is within none of the root's.
fn conditions(root: &[HttpMatchRequest], inner: &[HttpMatchRequest]) -> Option<Vec<HttpMatchRequest>> {
    if root.is_empty() || inner.is_empty() {
        return Some([root, inner].concat());
    }
    let mut all = Vec::new();
    for block in inner {
        let before = all.len();
        all.extend(root.iter().filter(|outer| is_within(block, outer)).map(|outer| both(outer, block)));
        if all.len() == before {
            return None;
        }
    }
    Some(all)
}

type Strings = BTreeMap<String, StringMatch>;

fn both(root: &HttpMatchRequest, inner: &HttpMatchRequest) -> HttpMatchRequest {
    // What the delegate says of a name counts: it is within what the root says.
    let union = |root: &Strings, inner: &Strings| root.iter().chain(inner).map(|(k, v)| (k.clone(), v.clone())).collect();
    let or = |inner: &Option<StringMatch>, root: &Option<StringMatch>| inner.as_ref().or(root.as_ref()).cloned();
    let text = |inner: &String, root: &String| if inner.is_empty() { root.clone() } else { inner.clone() };
    HttpMatchRequest {
        name: joined(&root.name, &inner.name),
        uri: or(&inner.uri, &root.uri),
        scheme: or(&inner.scheme, &root.scheme),
        method: or(&inner.method, &root.method),
        authority: or(&inner.authority, &root.authority),
        headers: union(&root.headers, &inner.headers),
        without_headers: union(&root.without_headers, &inner.without_headers),
        query_params: union(&root.query_params, &inner.query_params),
        port: if inner.port == 0 { root.port } else { inner.port },
        source_labels: root.source_labels.iter().chain(&inner.source_labels).map(|(k, v)| (k.clone(), v.clone())).collect(),
        source_namespace: text(&inner.source_namespace, &root.source_namespace),
        gateways: if inner.gateways.is_empty() { root.gateways.clone() } else { inner.gateways.clone() },
        ignore_uri_case: inner.ignore_uri_case,
        stat_prefix: text(&inner.stat_prefix, &root.stat_prefix),
    }
}

/// Does the root's block allow for the delegate's?
fn is_within(inner: &HttpMatchRequest, root: &HttpMatchRequest) -> bool {
    let strings = [
        (&root.uri, &inner.uri),
        (&root.scheme, &inner.scheme),
        (&root.method, &inner.method),
        (&root.authority, &inner.authority),
    ];
    let maps = [
        (&root.headers, &inner.headers),
        (&root.without_headers, &inner.without_headers),
        (&root.query_params, &inner.query_params),
    ];
    let named = |(root, inner): (&Strings, &Strings)| inner.iter().all(|(name, value)| narrows(root.get(name), Some(value)));
    let equal_or_open = |root: &str, inner: &str| root.is_empty() || inner.is_empty() || root == inner;
    strings.into_iter().all(|(root, inner)| narrows(root.as_ref(), inner.as_ref()))
        && maps.into_iter().all(named)
        && root.ignore_uri_case == inner.ignore_uri_case
        && (root.port == 0 || inner.port == 0 || root.port == inner.port)
        && inner.source_labels.iter().all(|(key, value)| root.source_labels.get(key).is_none_or(|other| other == value))
        && equal_or_open(&root.source_namespace, &inner.source_namespace)
        && (root.gateways.is_empty() || inner.gateways.iter().all(|gateway| root.gateways.contains(gateway)))
}

/// Istio's rule: nothing is compared with a regular expression, and a presence is narrowed by nothing.
fn narrows(root: Option<&StringMatch>, inner: Option<&StringMatch>) -> bool {
    let (Some(root), Some(inner)) = (root, inner) else { return true };
    match (root, inner) {
        (StringMatch::Exact(root), StringMatch::Exact(inner)) => root == inner,
        (StringMatch::Prefix(root), StringMatch::Prefix(inner) | StringMatch::Exact(inner)) => inner.starts_with(root.as_str()),
        _ => false,
    }
}
