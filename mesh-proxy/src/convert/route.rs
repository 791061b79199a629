//! RouteConfiguration: virtual hosts, routes, actions.

#![expect(deprecated, reason = "deprecated fields are still part of the API: taken, not refused")]

use super::at::{At, Invalid};
use super::common::{header_matches, header_ops, limit, query_match, regex};
use super::{fault, hash, retry};
use crate::core::headers::HeaderOps;
use crate::core::matching::{Pattern, StringMatch};
use crate::core::retry::RetryPolicy;
use crate::core::rewrite::{PathRewrite, Redirect, substitution};
use crate::core::route::{Action, Forward, PathMatch, Route, RouteTable, Target, VirtualHost, When};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValueOption, data_source};
use envoy_types::pb::envoy::config::route::v3 as pb;
use http::{HeaderValue, StatusCode};
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

/// Envoy's default timeout of a route.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Key of the metadata match on the asking pod's labels, in `dynamic_metadata` of a route's match.
const SOURCE_LABELS: &str = "mesh.source.labels";

/// Request and response changes of one level.
type Changes = (Option<Arc<HeaderOps>>, Option<Arc<HeaderOps>>);

fn changes(
    at: &At<'_>,
    request: (&mut Vec<HeaderValueOption>, &mut Vec<String>),
    response: (&mut Vec<HeaderValueOption>, &mut Vec<String>),
) -> Result<Changes, Invalid> {
    let request = header_ops(at, ("request_headers_to_add", "request_headers_to_remove"), take(request.0), take(request.1))?;
    let response = header_ops(at, ("response_headers_to_add", "response_headers_to_remove"), take(response.0), take(response.1))?;
    Ok((request, response))
}

macro_rules! changes {
    ($at:expr, $message:expr) => {
        changes(
            $at,
            (&mut $message.request_headers_to_add, &mut $message.request_headers_to_remove),
            (&mut $message.response_headers_to_add, &mut $message.response_headers_to_remove),
        )
    };
}

/// What a route inherits.
struct Outer {
    changes: Vec<Changes>,
    fault: Option<crate::core::fault::Fault>,
    retry: Option<pb::RetryPolicy>,
}

/// Reads a table.
///
/// # Errors
/// Names the field that is not taken.
pub fn table(at: &At<'_>, mut message: pb::RouteConfiguration) -> Result<RouteTable, Invalid> {
    let name = take(&mut message.name);
    // A missing cluster is no error here, whatever is asked; ports never matter; metadata changes no decision.
    message.validate_clusters.take_if(|validate| !validate.value);
    message.ignore_port_in_host_matching = false;
    message.metadata = None;
    let changes = changes!(at, message)?;
    let outer_fault = fault::per_filter(at, take(&mut message.typed_per_filter_config))?;
    let mut hosts = Vec::new();
    for (index, host) in take(&mut message.virtual_hosts).into_iter().enumerate() {
        hosts.push(virtual_host(&at.field("virtual_hosts").index(index), host, &changes, outer_fault.as_ref())?);
    }
    at.nothing_else(&message)?;
    RouteTable::new(name, hosts).map_err(|error| at.field("virtual_hosts").value(error))
}

fn virtual_host(
    at: &At<'_>,
    mut message: pb::VirtualHost,
    table: &Changes,
    table_fault: Option<&crate::core::fault::Fault>,
) -> Result<VirtualHost, Invalid> {
    let name = take(&mut message.name);
    let domains = take(&mut message.domains);
    message.metadata = None;
    let own = changes!(at, message)?;
    let own_fault = fault::per_filter(at, take(&mut message.typed_per_filter_config))?;
    let outer = Outer {
        changes: vec![own, table.clone()],
        fault: own_fault.or_else(|| table_fault.cloned()),
        retry: message.retry_policy.take(),
    };
    let mut routes = Vec::new();
    for (index, message) in take(&mut message.routes).into_iter().enumerate() {
        routes.push(route(&at.field("routes").index(index), message, &outer)?);
    }
    let attempt_count = take(&mut message.include_request_attempt_count);
    at.nothing_else(&message)?;
    Ok(VirtualHost { name, domains, routes, attempt_count })
}

fn route(at: &At<'_>, mut message: pb::Route, outer: &Outer) -> Result<Route, Invalid> {
    let name = Arc::from(take(&mut message.name));
    let when = when(&at.field("match"), at.field("match").required(message.r#match.take())?)?;
    // Names for tracing and statistics.
    message.metadata = None;
    message.decorator = None;
    message.stat_prefix.clear();
    let own = changes!(at, message)?;
    let own_fault = fault::per_filter(at, take(&mut message.typed_per_filter_config))?;
    let action = match at.field("action").required(message.action.take())? {
        pb::route::Action::Route(action) => Action::Forward(Box::new(forward(&at.field("route"), action, outer.retry.as_ref())?)),
        pb::route::Action::Redirect(action) => Action::Redirect(redirect(&at.field("redirect"), action)?),
        pb::route::Action::DirectResponse(action) => direct(&at.field("direct_response"), action)?,
        pb::route::Action::FilterAction(_) => return Err(at.field("filter_action").unsupported()),
        pb::route::Action::NonForwardingAction(_) => return Err(at.field("non_forwarding_action").unsupported()),
    };
    at.nothing_else(&message)?;
    let levels = || [&own].into_iter().chain(&outer.changes);
    let request = levels().filter_map(|(request, _)| request.clone()).collect();
    let response = levels().filter_map(|(_, response)| response.clone()).collect();
    Ok(Route { name, when, action, fault: own_fault.or_else(|| outer.fault.clone()), request, response })
}

fn when(at: &At<'_>, mut message: pb::RouteMatch) -> Result<When, Invalid> {
    use pb::route_match::PathSpecifier as Path;
    let ignore_case = message.case_sensitive.take().is_some_and(|sensitive| !sensitive.value);
    let string = |pattern| PathMatch::String(StringMatch { pattern, ignore_case });
    let path = match at.field("path_specifier").required(message.path_specifier.take())? {
        Path::Prefix(text) => string(Pattern::Prefix(text)),
        Path::Path(text) => string(Pattern::Exact(text)),
        Path::SafeRegex(message) => PathMatch::String(StringMatch::new(Pattern::Regex(regex(&at.field("safe_regex"), message)?))),
        Path::PathSeparatedPrefix(_) if ignore_case => return Err(at.field("case_sensitive").unsupported()),
        Path::PathSeparatedPrefix(text) => PathMatch::Segments(text),
        Path::ConnectMatcher(_) => return Err(at.field("connect_matcher").unsupported()),
        Path::PathMatchPolicy(_) => return Err(at.field("path_match_policy").unsupported()),
    };
    let headers = header_matches(&at.field("headers"), take(&mut message.headers))?;
    let mut query = Vec::new();
    for (index, message) in take(&mut message.query_parameters).into_iter().enumerate() {
        query.push(query_match(&at.field("query_parameters").index(index), message)?);
    }
    let mut source_labels = Vec::new();
    for (index, message) in take(&mut message.dynamic_metadata).into_iter().enumerate() {
        source_labels.push(source_label(&at.field("dynamic_metadata").index(index), message)?);
    }
    at.nothing_else(&message)?;
    Ok(When { path, headers, query, source_labels })
}

/// A metadata match on the asking pod: filter `mesh.source.labels`, path = the label, value = an exact string.
fn source_label(
    at: &At<'_>,
    message: envoy_types::pb::envoy::r#type::matcher::v3::MetadataMatcher,
) -> Result<(String, String), Invalid> {
    use envoy_types::pb::envoy::r#type::matcher::v3::{metadata_matcher::path_segment::Segment, string_matcher, value_matcher};
    if message.filter != SOURCE_LABELS || message.invert {
        return Err(at.value(format_args!("only filter {SOURCE_LABELS}, not inverted, is supported")));
    }
    let [segment] = message.path.as_slice() else { return Err(at.field("path").value("exactly one key, the label")) };
    let Some(Segment::Key(label)) = &segment.segment else { return Err(at.field("path").missing()) };
    let value = message.value.and_then(|value| value.match_pattern);
    let Some(value_matcher::MatchPattern::StringMatch(value)) = value else {
        return Err(at.field("value.string_match").missing());
    };
    match value.match_pattern {
        Some(string_matcher::MatchPattern::Exact(text)) if !value.ignore_case => Ok((label.clone(), text)),
        _ => Err(at.field("value.string_match").value("only exact is supported")),
    }
}

fn forward(at: &At<'_>, mut message: pb::RouteAction, host_retry: Option<&pb::RetryPolicy>) -> Result<Forward, Invalid> {
    use pb::route_action::{ClusterSpecifier as Spec, HostRewriteSpecifier as Host};
    let targets = match at.field("cluster").required(message.cluster_specifier.take())? {
        Spec::Cluster(name) => vec![Target { cluster: name.into(), weight: 1, fault: None, request: None, response: None }],
        Spec::WeightedClusters(weighted) => targets(&at.field("weighted_clusters"), weighted)?,
        Spec::ClusterHeader(_) => return Err(at.field("cluster_header").unsupported()),
        Spec::ClusterSpecifierPlugin(_) | Spec::InlineClusterSpecifierPlugin(_) => {
            return Err(at.field("cluster_specifier_plugin").unsupported());
        }
    };
    let timeout = limit(&at.field("timeout"), message.timeout.take(), Some(TIMEOUT))?;
    let policy = message.retry_policy.take().or_else(|| host_retry.cloned());
    let retry: Option<RetryPolicy> = policy.map(|policy| retry::retry(&at.field("retry_policy"), policy)).transpose()?.flatten();
    let prefix = take(&mut message.prefix_rewrite);
    let path = match message.regex_rewrite.take() {
        Some(_) if !prefix.is_empty() => return Err(at.field("regex_rewrite").value("beside prefix_rewrite")),
        Some(rewrite) => {
            let at = at.field("regex_rewrite");
            let pattern = at.field("pattern").required(rewrite.pattern)?;
            // Not anchored: every match in the path is replaced.
            let pattern = ::regex::Regex::new(&pattern.regex).map_err(|error| at.field("pattern").value(error))?;
            Some(PathRewrite::Regex(pattern, substitution(&rewrite.substitution)))
        }
        None => (!prefix.is_empty()).then_some(PathRewrite::Prefix(prefix)),
    };
    let host = match message.host_rewrite_specifier.take() {
        None => None,
        Some(Host::HostRewriteLiteral(host)) => {
            Some(HeaderValue::try_from(host).map_err(|_invalid| at.field("host_rewrite_literal").value("no valid host"))?)
        }
        Some(_) => return Err(at.field("host_rewrite_specifier").value("only host_rewrite_literal is supported")),
    };
    // 503 is what we answer.
    if message.cluster_not_found_response_code != 0 {
        return Err(at.field("cluster_not_found_response_code").unsupported());
    }
    let hash = hash::policies(&at.field("hash_policy"), take(&mut message.hash_policy))?;
    message.max_grpc_timeout.take_if(|timeout| timeout.seconds == 0 && timeout.nanos == 0);
    at.nothing_else(&message)?;
    Ok(Forward { targets, timeout, retry, path, host, hash })
}

fn targets(at: &At<'_>, mut message: pb::WeightedCluster) -> Result<Vec<Target>, Invalid> {
    let mut targets = Vec::new();
    for (index, mut cluster) in take(&mut message.clusters).into_iter().enumerate() {
        let at = at.field("clusters");
        let at = at.index(index);
        let name = take(&mut cluster.name);
        if name.is_empty() {
            return Err(at.field("name").missing());
        }
        let weight = cluster.weight.take().map_or(0, |weight| weight.value);
        let (request, response) = changes!(&at, cluster)?;
        let fault = fault::per_filter(&at, take(&mut cluster.typed_per_filter_config))?;
        at.nothing_else(&cluster)?;
        targets.push(Target { cluster: name.into(), weight, fault, request, response });
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

fn redirect(at: &At<'_>, message: pb::RedirectAction) -> Result<Redirect, Invalid> {
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
        Some(Path::RegexRewrite(_)) => return Err(at.field("regex_rewrite").unsupported()),
        Some(Path::PathRewrite(_)) => return Err(at.field("path_rewrite").unsupported()),
    };
    let port = u16::try_from(message.port_redirect).map_err(|_invalid| at.field("port_redirect").value(message.port_redirect))?;
    let host = Some(message.host_redirect).filter(|host| !host.is_empty());
    Ok(Redirect { status, scheme, host, port: (port != 0).then_some(port), path, strip_query: message.strip_query })
}

fn direct(at: &At<'_>, mut message: pb::DirectResponseAction) -> Result<Action, Invalid> {
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
