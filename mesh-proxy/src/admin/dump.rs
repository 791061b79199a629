//! The configuration in force, readable.

use crate::config::{Chain, Cluster, Config, Listener, Serve, Tls};
use crate::core::fault::{Abort, Fault};
use crate::core::route::{Action, Forward, Route, VirtualHost};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// As JSON.
pub(super) fn config(config: &Config) -> Value {
    let mut listeners: Vec<&Arc<Listener>> = config.listeners.values().chain(config.gateway.values()).collect();
    listeners.sort_by_key(|listener| (listener.bound, listener.address));
    json!({
        "generation": config.generation,
        "listeners": listeners.into_iter().map(|listener| self::listener(listener)).collect::<Vec<_>>(),
        "clusters": super::clusters::sorted(config).into_iter().map(cluster).collect::<Vec<_>>(),
    })
}

fn millis(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn listener(listener: &Listener) -> Value {
    let chains = listener.chains.iter().chain(&listener.default).map(chain);
    json!({
        "name": listener.name,
        "address": listener.address.to_string(),
        "bind_to_port": listener.bound,
        "inspect": format!("{:?}", listener.inspect),
        "filter_chain_match": listener.conditions.iter().map(|condition| format!("{condition:?}")).collect::<Vec<_>>(),
        "filter_chains": chains.collect::<Vec<_>>(),
    })
}

fn chain(chain: &Chain) -> Value {
    let tls = match &chain.tls {
        Tls::None => "none",
        Tls::Server(_) => "terminated",
        Tls::NoSecret => "no secret",
    };
    let serve = match &chain.serve {
        Serve::Tcp(tcp) => json!({ "tcp": { "targets": tcp.targets, "connect_attempts": tcp.connect_attempts } }),
        Serve::Http(http) => json!({ "http": {
            "route_config": http.routes.name,
            "fault": http.options.fault.as_ref().map(fault),
            "idle_timeout_ms": millis(http.options.downstream.idle_timeout),
            "virtual_hosts": http.routes.virtual_hosts().iter().map(virtual_host).collect::<Vec<_>>(),
        } }),
    };
    json!({ "name": chain.name, "tls": tls, "serve": serve })
}

fn virtual_host(host: &VirtualHost) -> Value {
    json!({ "name": host.name, "domains": host.domains, "routes": host.routes.iter().map(route).collect::<Vec<_>>() })
}

fn route(route: &Route) -> Value {
    let action = match &route.action {
        Action::Forward(forward) => json!({ "forward": self::forward(forward) }),
        Action::Redirect(redirect) => json!({ "redirect": format!("{redirect:?}") }),
        Action::Respond(status, body) => json!({ "respond": status.as_u16(), "body_bytes": body.len() }),
    };
    json!({
        "name": route.name,
        "path": format!("{:?}", route.when.path),
        "headers": route.when.headers.iter().map(|header| format!("{header:?}")).collect::<Vec<_>>(),
        "query": route.when.query.iter().map(|query| format!("{query:?}")).collect::<Vec<_>>(),
        "source_labels": route.when.source_labels,
        "source_namespaces": route.when.source_namespaces,
        "fault": route.fault.as_ref().map(fault),
        "action": action,
    })
}

fn forward(forward: &Forward) -> Value {
    let targets = forward.targets.iter();
    json!({
        "targets": targets.map(|target| json!({ "cluster": target.cluster, "weight": target.weight })).collect::<Vec<_>>(),
        "timeout_ms": millis(forward.timeouts.total),
        "mirrors": forward.mirrors.iter().map(|mirror| &mirror.cluster).collect::<Vec<_>>(),
        "retries": forward.retry.as_ref().map(|retry| retry.retries),
        "per_try_timeout_ms": forward.retry.as_ref().and_then(|retry| millis(retry.per_try_timeout)),
    })
}

fn fault(fault: &Fault) -> Value {
    let abort = |abort: Abort| match abort {
        Abort::Http(status) => json!({ "http": status.as_u16() }),
        Abort::Grpc(status) => json!({ "grpc": status }),
    };
    json!({
        "delay_ms": fault.delay.map(|(delay, _)| millis(Some(delay))),
        "delay_per_million": fault.delay.map(|(_, share)| share.get()),
        "abort": fault.abort.map(|(how, _)| abort(how)),
        "abort_per_million": fault.abort.map(|(_, share)| share.get()),
    })
}

fn cluster(cluster: &Cluster) -> Value {
    let pool = &cluster.pool;
    let endpoint = |e: &crate::core::balance::Endpoint| json!({ "address": e.address.to_string(), "weight": e.weight, "health": format!("{:?}", e.health) });
    json!({
        "name": cluster.name,
        "policy": format!("{:?}", cluster.balancer.settings().policy),
        "slow_start": cluster.balancer.settings().slow_start.map(|slow| format!("{slow:?}")),
        "connect_timeout_ms": millis(Some(pool.connect_timeout)),
        "idle_timeout_ms": millis(pool.idle_timeout),
        "max_connection_duration_ms": millis(pool.max_connection_duration),
        "max_requests_per_connection": pool.max_requests_per_connection,
        "protocol": format!("{:?}", pool.protocol),
        "limits": format!("{:?}", pool.limits),
        "outlier_detection": pool.outlier.as_ref().map(|outlier| format!("{outlier:?}")),
        "tls": pool.tls.as_ref().map(|tls| if tls.is_ready() { "ready" } else { "no secret" }),
        "endpoints": cluster.balancer.members().endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}
