//! What a route does: forward, redirect or answer.

#![expect(deprecated, reason = "deprecated fields are still part of the API: taken, not refused")]

use super::at::{At, Invalid};
use super::common::{fraction, limit};
use super::filters::Filters;
use super::headers::{Changes, changes};
use super::{hash, retry};
use crate::core::fault::PerMillion;
use crate::core::retry::RetryPolicy;
use crate::core::rewrite::{HostRewrite, PathRewrite, Redirect, substitution};
use crate::core::route::{Action, Forward, Mirror, Target};
use crate::core::timeouts::Timeouts;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use http::{HeaderValue, StatusCode};
use regex::Regex;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

/// Envoy's default timeout of a route.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What an action inherits.
pub(super) struct Outer<'a> {
    /// The route's own changes, then the virtual host's, then the table's.
    pub(super) changes: [&'a Changes; 3],
    /// The most specific is applied last, not first.
    pub(super) specific_last: bool,
    /// The route's and what is around it.
    pub(super) filters: &'a Filters,
    pub(super) retry: Option<&'a pb::RetryPolicy>,
    pub(super) mirrors: &'a [Mirror],
}

impl Outer<'_> {
    /// Changes in the order in which they are applied; `own` is the cluster's.
    pub(super) fn chain(
        &self,
        own: &Changes,
    ) -> (Vec<Arc<crate::core::headers::HeaderOps>>, Vec<Arc<crate::core::headers::HeaderOps>>) {
        let [route, host, table] = self.changes;
        let mut levels = [own, route, host, table];
        if self.specific_last {
            levels.reverse();
        }
        Changes::chain(levels.into_iter())
    }
}

pub(super) fn forward(at: &At<'_>, mut message: pb::RouteAction, outer: &Outer<'_>) -> Result<Forward, Invalid> {
    let targets = targets(at, message.cluster_specifier.take(), outer)?;
    let grpc = match message.max_grpc_timeout.take() {
        None => None,
        most => Some(limit(&at.field("max_grpc_timeout"), most, None)?),
    };
    let timeouts = Timeouts { total: limit(&at.field("timeout"), message.timeout.take(), Some(TIMEOUT))?, grpc };
    let idle_timeout = match message.idle_timeout.take() {
        None => None,
        idle => Some(limit(&at.field("idle_timeout"), idle, None)?),
    };
    let policy = message.retry_policy.take().or_else(|| outer.retry.cloned());
    let retry: Option<RetryPolicy> = policy.map(|policy| retry::retry(&at.field("retry_policy"), policy)).transpose()?.flatten();
    let path = path_rewrite(at, &mut message)?;
    let host = host_rewrite(at, message.host_rewrite_specifier.take())?;
    let own = mirrors(at, take(&mut message.request_mirror_policies))?;
    let mirrors = if own.is_empty() { outer.mirrors.to_vec() } else { own };
    let (upgrades, connect) = upgrades(&at.field("upgrade_configs"), take(&mut message.upgrade_configs))?;
    let hash = hash::policies(&at.field("hash_policy"), take(&mut message.hash_policy))?;
    let append_forwarded_host = take(&mut message.append_x_forwarded_host);
    // 503 is what we answer.
    if message.cluster_not_found_response_code != 0 {
        return Err(at.field("cluster_not_found_response_code").unsupported());
    }
    at.nothing_else(&message)?;
    Ok(Forward { targets, timeouts, idle_timeout, retry, path, host, append_forwarded_host, hash, mirrors, upgrades, connect })
}

fn targets(
    at: &At<'_>,
    specifier: Option<pb::route_action::ClusterSpecifier>,
    outer: &Outer<'_>,
) -> Result<Vec<Target>, Invalid> {
    use pb::route_action::ClusterSpecifier as Spec;
    match at.field("cluster").required(specifier)? {
        Spec::Cluster(name) => {
            let (request, response) = outer.chain(&Changes::default());
            Ok(vec![Target { cluster: name.into(), weight: 1, host: None, fault: None, cors: None, request, response }])
        }
        Spec::WeightedClusters(clusters) => weighted(&at.field("weighted_clusters"), clusters, outer),
        Spec::ClusterHeader(_) => Err(at.field("cluster_header").unsupported()),
        Spec::ClusterSpecifierPlugin(_) | Spec::InlineClusterSpecifierPlugin(_) => {
            Err(at.field("cluster_specifier_plugin").unsupported())
        }
    }
}

fn weighted(at: &At<'_>, mut message: pb::WeightedCluster, outer: &Outer<'_>) -> Result<Vec<Target>, Invalid> {
    use pb::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral;
    let mut targets = Vec::new();
    for (index, mut cluster) in take(&mut message.clusters).into_iter().enumerate() {
        let at = at.field("clusters");
        let at = at.index(index);
        let name = take(&mut cluster.name);
        if name.is_empty() {
            return Err(at.field("name").missing());
        }
        let weight = cluster.weight.take().map_or(0, |weight| weight.value);
        let (request, response) = outer.chain(&changes!(&at, cluster)?);
        let filters = Filters::read(&at, take(&mut cluster.typed_per_filter_config))?.inside(outer.filters);
        let host = match cluster.host_rewrite_specifier.take() {
            Some(HostRewriteLiteral(host)) => Some(host_value(&at.field("host_rewrite_literal"), &host)?),
            None => None,
        };
        at.nothing_else(&cluster)?;
        let (fault, cors) = (filters.fault, filters.cors);
        targets.push(Target { cluster: name.into(), weight, host, fault, cors, request, response });
    }
    // Deprecated and without effect in Envoy too, unless it contradicts the sum.
    let sum: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
    if message.total_weight.take().is_some_and(|total| u64::from(total.value) != sum) {
        return Err(at.field("total_weight").value(format_args!("differs from the sum {sum}")));
    }
    message.runtime_key_prefix.clear();
    at.nothing_else(&message)?;
    if sum == 0 { Err(at.value("the weights add up to 0")) } else { Ok(targets) }
}

fn host_value(at: &At<'_>, host: &str) -> Result<HeaderValue, Invalid> {
    HeaderValue::try_from(host).map_err(|_invalid| at.value("no valid host"))
}

/// Not anchored: every match is replaced.
fn substitute(at: &At<'_>, message: RegexMatchAndSubstitute) -> Result<(Regex, String), Invalid> {
    let mut pattern = at.field("pattern").required(message.pattern)?;
    let regex = Regex::new(&take(&mut pattern.regex)).map_err(|error| at.field("pattern").value(error))?;
    // Which engine is no question any more: all are RE2.
    pattern.engine_type = None;
    at.field("pattern").nothing_else(&pattern)?;
    Ok((regex, substitution(&message.substitution)))
}

fn path_rewrite(at: &At<'_>, message: &mut pb::RouteAction) -> Result<Option<PathRewrite>, Invalid> {
    let (prefix, whole) = (take(&mut message.prefix_rewrite), take(&mut message.path_rewrite));
    let regex = message.regex_rewrite.take();
    match (prefix.is_empty(), regex, whole.is_empty()) {
        (true, None, true) => Ok(None),
        (false, None, true) => Ok(Some(PathRewrite::Prefix(prefix))),
        (true, Some(rewrite), true) => {
            let (pattern, by) = substitute(&at.field("regex_rewrite"), rewrite)?;
            Ok(Some(PathRewrite::Regex(pattern, by)))
        }
        (true, None, false) => Ok(Some(PathRewrite::Full(whole))),
        _ => Err(at.value("only one of prefix_rewrite, regex_rewrite and path_rewrite")),
    }
}

fn host_rewrite(at: &At<'_>, specifier: Option<pb::route_action::HostRewriteSpecifier>) -> Result<Option<HostRewrite>, Invalid> {
    use pb::route_action::HostRewriteSpecifier as Host;
    Ok(match specifier {
        None => None,
        Some(Host::HostRewriteLiteral(host)) => Some(HostRewrite::Literal(host_value(&at.field("host_rewrite_literal"), &host)?)),
        Some(Host::HostRewriteHeader(name)) => {
            let at = at.field("host_rewrite_header");
            Some(HostRewrite::Header(name.parse().map_err(|_invalid| at.value(format_args!("{name:?} is no header name")))?))
        }
        Some(Host::HostRewritePathRegex(rewrite)) => {
            let (pattern, by) = substitute(&at.field("host_rewrite_path_regex"), rewrite)?;
            Some(HostRewrite::Path(pattern, by))
        }
        Some(Host::AutoHostRewrite(on)) if !on.value => None,
        // Endpoints here are addresses: they have no host name to take.
        Some(Host::AutoHostRewrite(_)) => return Err(at.field("auto_host_rewrite").unsupported()),
        Some(Host::HostRewrite(_)) => return Err(at.field("host_rewrite").unsupported()),
    })
}

pub(super) fn mirrors(at: &At<'_>, policies: Vec<pb::route_action::RequestMirrorPolicy>) -> Result<Vec<Mirror>, Invalid> {
    let mut mirrors = Vec::new();
    for (index, mut policy) in policies.into_iter().enumerate() {
        let at = at.field("request_mirror_policies");
        let at = at.index(index);
        let cluster = take(&mut policy.cluster);
        if cluster.is_empty() {
            return Err(at.field("cluster").missing());
        }
        let share = fraction(&at.field("runtime_fraction"), policy.runtime_fraction.take())?;
        let suffix = !take(&mut policy.disable_shadow_host_suffix_append);
        let host = take(&mut policy.host_rewrite_literal);
        let host = if host.is_empty() { None } else { Some(host_value(&at.field("host_rewrite_literal"), &host)?) };
        // No span is made of a copy.
        policy.trace_sampled.take_if(|sampled| !sampled.value);
        at.nothing_else(&policy)?;
        let share = share.unwrap_or_else(|| PerMillion::new(100, 100));
        mirrors.push(Mirror { cluster: cluster.into(), share, suffix, host });
    }
    Ok(mirrors)
}

/// Types with whether they pass, and whether CONNECT ends here.
fn upgrades(at: &At<'_>, configs: Vec<pb::route_action::UpgradeConfig>) -> Result<(Vec<(String, bool)>, bool), Invalid> {
    let (mut upgrades, mut connect) = (Vec::new(), false);
    for (index, mut config) in configs.into_iter().enumerate() {
        let at = at.index(index);
        let kind = take(&mut config.upgrade_type).to_ascii_lowercase();
        if kind.is_empty() {
            return Err(at.field("upgrade_type").missing());
        }
        if let Some(terminate) = config.connect_config.take() {
            let at_config = at.field("connect_config");
            if kind != "connect" {
                return Err(at_config.value("only with upgrade_type CONNECT"));
            }
            at_config.nothing_else(&terminate)?;
            connect = true;
        } else if kind == "connect" {
            return Err(at.field("connect_config").missing());
        }
        upgrades.push((kind, config.enabled.take().is_none_or(|enabled| enabled.value)));
        at.nothing_else(&config)?;
    }
    Ok((upgrades, connect))
}

pub(super) fn redirect(at: &At<'_>, message: pb::RedirectAction) -> Result<Redirect, Invalid> {
    use pb::redirect_action::{PathRewriteSpecifier as Path, RedirectResponseCode as Code, SchemeRewriteSpecifier as Scheme};
    let status = match Code::try_from(message.response_code) {
        Ok(Code::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(Code::Found) => StatusCode::FOUND,
        Ok(Code::SeeOther) => StatusCode::SEE_OTHER,
        Ok(Code::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(Code::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err(at.field("response_code").value(message.response_code)),
    };
    let scheme = match message.scheme_rewrite_specifier {
        Some(Scheme::HttpsRedirect(true)) => Some("https".to_owned()),
        Some(Scheme::SchemeRedirect(scheme)) => Some(scheme),
        Some(Scheme::HttpsRedirect(false)) | None => None,
    };
    let path = match message.path_rewrite_specifier {
        None => None,
        Some(Path::PathRedirect(path)) => Some(PathRewrite::Full(path)),
        Some(Path::PrefixRewrite(prefix)) => Some(PathRewrite::Prefix(prefix)),
        Some(Path::RegexRewrite(rewrite)) => {
            let (pattern, by) = substitute(&at.field("regex_rewrite"), rewrite)?;
            Some(PathRewrite::Regex(pattern, by))
        }
        Some(Path::PathRewrite(_)) => return Err(at.field("path_rewrite").unsupported()),
    };
    let port = u16::try_from(message.port_redirect).map_err(|_invalid| at.field("port_redirect").value(message.port_redirect))?;
    let host = Some(message.host_redirect).filter(|host| !host.is_empty());
    Ok(Redirect { status, scheme, host, port: (port != 0).then_some(port), path, strip_query: message.strip_query })
}

pub(super) fn direct(at: &At<'_>, mut message: pb::DirectResponseAction) -> Result<Action, Invalid> {
    let status = u16::try_from(take(&mut message.status)).ok().filter(|status| (200..600).contains(status));
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.ok_or_else(|| at.field("status").value("not from 200 to 599"))?;
    let body = match message.body.take() {
        None => Bytes::new(),
        Some(DataSource { watched_directory: None, specifier: Some(data_source::Specifier::InlineString(text)) }) => text.into(),
        Some(DataSource { watched_directory: None, specifier: Some(data_source::Specifier::InlineBytes(bytes)) }) => bytes.into(),
        Some(_) => return Err(at.field("body").value("only inline_string and inline_bytes are supported")),
    };
    at.nothing_else(&message)?;
    Ok(Action::Respond(status, body))
}
