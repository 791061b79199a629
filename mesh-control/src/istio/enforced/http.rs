//! Fields of VirtualServices without effect.

use base64::Engine;

use super::{Abilities, Enforced, Findings, net};
use crate::istio::virtual_service::{Headers, HttpFaultInjection, HttpMatchRequest, HttpRoute, Percent, VirtualService};

impl Enforced for VirtualService {
    fn look(&self, can: Abilities, found: &mut Findings) {
        for (i, route) in self.http.iter().enumerate() {
            http(route, &format!("spec.http[{i}]"), can, found);
        }
        net::routes(self, can, found);
        // At gateways it always is.
        if self.is_scoped()
            && !can.source_namespace
            && (self.gateways.is_empty() || self.gateways.iter().any(|name| name == "mesh"))
        {
            found.export_to(&self.export_to);
        }
    }
}

fn http(rule: &HttpRoute, at: &str, can: Abilities, found: &mut Findings) {
    for (j, block) in rule.r#match.iter().enumerate() {
        condition(block, &format!("{at}.match[{j}]"), can, found);
    }
    let live = rule.route.iter().filter(|to| to.weight > 0).count();
    for (j, to) in rule.route.iter().enumerate() {
        let unsent = live > 1 && to.weight > 0 && !can.host_per_destination;
        let field = format!("{at}.route[{j}].headers.request (host)");
        found.if_set(field, unsent && to.headers.as_ref().is_some_and(changes_host));
    }
    let encoded = rule.direct_response.as_ref().and_then(|answer| answer.body.as_ref()).and_then(|body| body.bytes.as_ref());
    if encoded.is_some_and(|bytes| base64::engine::general_purpose::STANDARD.decode(bytes).is_err()) {
        found.tell(format!("{at}.directResponse.body.bytes"), "is not base64, so the body is empty");
    }
    let remote = rule.retries.as_ref().is_some_and(|retries| retries.retry_remote_localities == Some(true));
    found.if_set(format!("{at}.retries.retryRemoteLocalities"), remote && !can.previous_priorities);
    if let Some(rule) = &rule.fault {
        fault(rule, &format!("{at}.fault"), found);
    }
    if !can.mirror {
        found.if_set(format!("{at}.mirror"), rule.mirror.is_some());
        found.if_set(format!("{at}.mirrors"), !rule.mirrors.is_empty());
        found.if_set(format!("{at}.mirrorPercent"), rule.mirror_percent.is_some());
        found.if_set(format!("{at}.mirror_percent"), rule.mirror_percent_.is_some());
        found.if_set(format!("{at}.mirrorPercentage"), rule.mirror_percentage.is_some());
    }
    found.if_set(format!("{at}.corsPolicy"), rule.cors_policy.is_some() && !can.cors);
}

fn condition(block: &HttpMatchRequest, at: &str, can: Abilities, found: &mut Findings) {
    if !block.gateways.is_empty() {
        // Istio does not look at them in a block that names gateways (sourceMatchHTTP).
        let why = "is not looked at in a block with gateways";
        for (field, given) in
            [("sourceLabels", !block.source_labels.is_empty()), ("sourceNamespace", !block.source_namespace.is_empty())]
        {
            if given {
                found.tell(format!("{at}.{field}"), why);
            }
        }
    } else if !block.source_namespace.is_empty() && !can.source_namespace {
        let why =
            "is not enforced by this version: the block matches nothing, rather than requests of workloads that it does not mean";
        found.tell(format!("{at}.sourceNamespace"), why);
    }
    found.if_set(format!("{at}.statPrefix"), !block.stat_prefix.is_empty());
}

fn changes_host(headers: &Headers) -> bool {
    let is_host = |name: &&String| name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority");
    headers
        .request
        .as_ref()
        .is_some_and(|operations| operations.set.keys().chain(operations.add.keys()).any(|name| is_host(&name)))
}

fn fault(rule: &HttpFaultInjection, at: &str, found: &mut Findings) {
    // What the check refuses (exponentialDelay, http2Error) cannot come here. Istio takes an absent percentage for zero, which hardly anybody means.
    let never = "has neither percentage nor percent above 0, so it never happens";
    let happens = |share: Option<&Percent>, legacy: i32| share.map_or(legacy > 0, |share| share.value > 0.0);
    if rule.delay.as_ref().is_some_and(|delay| !happens(delay.percentage.as_ref(), delay.percent)) {
        found.tell(format!("{at}.delay"), never);
    }
    if let Some(abort) = &rule.abort {
        if !happens(abort.percentage.as_ref(), abort.percent) {
            found.tell(format!("{at}.abort"), never);
        }
        if abort.grpc_status.as_deref().is_some_and(|name| grpc_code(name).is_none()) {
            found.tell(format!("{at}.abort.grpcStatus"), "is no gRPC status, so nothing is aborted");
        }
    }
}

/// The number of a gRPC status, given by name or number.
pub(crate) fn grpc_code(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let by_name = NAMES.iter().position(|known| name.eq_ignore_ascii_case(known)).and_then(|code| u32::try_from(code).ok());
    by_name.or_else(|| name.parse().ok().filter(|code| *code <= 16))
}
