//! RouteConfiguration: virtual hosts, routes and when they match. What they do is in [`super::action`].

use super::action::{self, Outer};
use super::at::{At, Invalid};
use super::common::{fraction, header_matches, query_match, regex};
use super::filters::Filters;
use super::headers::{Changes, changes};
use crate::core::matching::{Pattern, StringMatch};
use crate::core::route::{Action, Mirror, PathMatch, Ports, Route, RouteTable, VirtualHost, When};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3::MetadataMatcher;
use std::mem::take;
use std::sync::Arc;

/// Filter of the metadata match on the asking pod's labels, in `dynamic_metadata` of a route's match.
const SOURCE_LABELS: &str = "mesh.source.labels";
/// The same on its namespace; the key is [`NAMESPACE`].
const SOURCE_NAMESPACE: &str = "mesh.source.namespace";
const NAMESPACE: &str = "namespace";

/// What a virtual host inherits, and passes on.
struct Level<'a> {
    changes: [&'a Changes; 2],
    specific_last: bool,
    filters: Filters,
    retry: Option<pb::RetryPolicy>,
    mirrors: Vec<Mirror>,
}

/// Reads a table.
///
/// # Errors
/// Names the field that is not taken.
pub fn table(at: &At<'_>, mut message: pb::RouteConfiguration) -> Result<RouteTable, Invalid> {
    let name = take(&mut message.name);
    // A missing cluster is no error here, whatever is asked; metadata changes no decision.
    message.validate_clusters.take_if(|validate| !validate.value);
    let ports = if take(&mut message.ignore_port_in_host_matching) { Ports::Ignored } else { Ports::Matter };
    message.metadata = None;
    // Bodies of direct responses are held as they are.
    message.max_direct_response_body_size_bytes = None;
    let changes = changes!(at, message)?;
    let none = Changes::default();
    let table = Level {
        changes: [&none, &changes],
        specific_last: take(&mut message.most_specific_header_mutations_wins),
        filters: Filters::read(at, take(&mut message.typed_per_filter_config))?,
        retry: None,
        mirrors: action::mirrors(at, take(&mut message.request_mirror_policies))?,
    };
    let mut hosts = Vec::new();
    for (index, host) in take(&mut message.virtual_hosts).into_iter().enumerate() {
        hosts.push(virtual_host(&at.field("virtual_hosts").index(index), host, &table)?);
    }
    at.nothing_else(&message)?;
    RouteTable::new(name, hosts, ports).map_err(|error| at.field("virtual_hosts").value(error))
}

fn virtual_host(at: &At<'_>, mut message: pb::VirtualHost, table: &Level<'_>) -> Result<VirtualHost, Invalid> {
    let name = take(&mut message.name);
    let domains = take(&mut message.domains);
    message.metadata = None;
    let own = changes!(at, message)?;
    let mirrors = action::mirrors(at, take(&mut message.request_mirror_policies))?;
    let host = Level {
        changes: [&own, table.changes[1]],
        specific_last: table.specific_last,
        filters: Filters::read(at, take(&mut message.typed_per_filter_config))?.inside(&table.filters),
        retry: message.retry_policy.take(),
        mirrors: if mirrors.is_empty() { table.mirrors.clone() } else { mirrors },
    };
    let mut routes = Vec::new();
    for (index, message) in take(&mut message.routes).into_iter().enumerate() {
        routes.push(route(&at.field("routes").index(index), message, &host)?);
    }
    let attempt_count = take(&mut message.include_request_attempt_count);
    let require_tls = match pb::virtual_host::TlsRequirementType::try_from(take(&mut message.require_tls)) {
        Ok(pb::virtual_host::TlsRequirementType::None) => false,
        Ok(pb::virtual_host::TlsRequirementType::All) => true,
        _ => return Err(at.field("require_tls").value("only NONE and ALL are supported")),
    };
    at.nothing_else(&message)?;
    Ok(VirtualHost { name, domains, routes, attempt_count, require_tls })
}

fn route(at: &At<'_>, mut message: pb::Route, host: &Level<'_>) -> Result<Route, Invalid> {
    let name = Arc::from(take(&mut message.name));
    let when = when(&at.field("match"), at.field("match").required(message.r#match.take())?)?;
    // Names for tracing and statistics.
    message.metadata = None;
    message.decorator = None;
    message.stat_prefix.clear();
    let own = changes!(at, message)?;
    let filters = Filters::read(at, take(&mut message.typed_per_filter_config))?.inside(&host.filters);
    let [of_host, of_table] = host.changes;
    let outer = Outer {
        changes: [&own, of_host, of_table],
        specific_last: host.specific_last,
        filters: &filters,
        retry: host.retry.as_ref(),
        mirrors: &host.mirrors,
    };
    let action = match at.field("action").required(message.action.take())? {
        pb::route::Action::Route(forward) => Action::Forward(Box::new(action::forward(&at.field("route"), forward, &outer)?)),
        pb::route::Action::Redirect(redirect) => Action::Redirect(action::redirect(&at.field("redirect"), redirect)?),
        pb::route::Action::DirectResponse(direct) => action::direct(&at.field("direct_response"), direct)?,
        pb::route::Action::FilterAction(_) => return Err(at.field("filter_action").unsupported()),
        pb::route::Action::NonForwardingAction(_) => return Err(at.field("non_forwarding_action").unsupported()),
    };
    at.nothing_else(&message)?;
    let (_request, response) = outer.chain(&Changes::default());
    Ok(Route { name, when, action, fault: filters.fault, cors: filters.cors, response })
}

fn when(at: &At<'_>, mut message: pb::RouteMatch) -> Result<When, Invalid> {
    use pb::route_match::PathSpecifier as Path;
    let ignore_case = message.case_sensitive.take().is_some_and(|sensitive| !sensitive.value);
    let string = |pattern| PathMatch::String(StringMatch { pattern, ignore_case });
    let path = match at.field("path_specifier").required(message.path_specifier.take())? {
        Path::Prefix(text) => string(Pattern::Prefix(text)),
        Path::Path(text) => string(Pattern::Exact(text)),
        Path::SafeRegex(message) => PathMatch::String(StringMatch::new(Pattern::Regex(regex(&at.field("safe_regex"), message)?))),
        Path::PathSeparatedPrefix(text) => PathMatch::Segments(text, ignore_case),
        Path::ConnectMatcher(_) => PathMatch::Connect,
        Path::PathMatchPolicy(_) => return Err(at.field("path_match_policy").unsupported()),
    };
    let headers = header_matches(&at.field("headers"), take(&mut message.headers))?;
    let mut query = Vec::new();
    for (index, message) in take(&mut message.query_parameters).into_iter().enumerate() {
        query.push(query_match(&at.field("query_parameters").index(index), message)?);
    }
    let (mut source_labels, mut source_namespaces) = (Vec::new(), Vec::new());
    for (index, message) in take(&mut message.dynamic_metadata).into_iter().enumerate() {
        let at = at.field("dynamic_metadata");
        let at = at.index(index);
        let namespace = message.filter == SOURCE_NAMESPACE;
        let (key, value) = source(&at, message)?;
        match key.as_str() {
            NAMESPACE if namespace => source_namespaces.push(value),
            _ if namespace => return Err(at.field("path").value(format_args!("the key is {NAMESPACE}"))),
            _ => source_labels.push((key, value)),
        }
    }
    let share = fraction(&at.field("runtime_fraction"), message.runtime_fraction.take())?;
    at.nothing_else(&message)?;
    Ok(When { path, headers, query, source_labels, source_namespaces, share })
}

/// A metadata match on the asking pod: one of our filters, path = the key, value = an exact string.
fn source(at: &At<'_>, message: MetadataMatcher) -> Result<(String, String), Invalid> {
    use envoy_types::pb::envoy::r#type::matcher::v3::{metadata_matcher::path_segment::Segment, string_matcher, value_matcher};
    if !matches!(message.filter.as_str(), SOURCE_LABELS | SOURCE_NAMESPACE) || message.invert {
        return Err(at.value(format_args!("only filters {SOURCE_LABELS} and {SOURCE_NAMESPACE}, not inverted, are supported")));
    }
    let [segment] = message.path.as_slice() else { return Err(at.field("path").value("exactly one key")) };
    let Some(Segment::Key(key)) = &segment.segment else { return Err(at.field("path").missing()) };
    let value = message.value.and_then(|value| value.match_pattern);
    let Some(value_matcher::MatchPattern::StringMatch(value)) = value else {
        return Err(at.field("value.string_match").missing());
    };
    match value.match_pattern {
        Some(string_matcher::MatchPattern::Exact(text)) if !value.ignore_case => Ok((key.clone(), text)),
        _ => Err(at.field("value.string_match").value("only exact is supported")),
    }
}
