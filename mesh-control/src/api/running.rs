//! Pods, services, endpoints and nodes, as kubectl shows them: what Marathon runs, translated when somebody asks. Read only; what changes them
//! is Marathon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::request::{Form, Options};
use super::select::Selector;
use super::status::{ApiError, json_response};
use super::table::Include;
use crate::core::registry::{Endpoint, Health, Registry, Service, Workload};
use crate::istio::Config;
use mesh_xds::agent::Transport;

/// Where gateways are, for Istio's users.
const GATEWAY: (&str, &str) = ("istio-system", "istio-ingressgateway");

/// What is asked of the rest of the process.
pub(crate) trait Runs: std::fmt::Debug + Send + Sync {
    /// What runs; `None` until Marathon has answered.
    fn registry(&self) -> Option<Arc<Registry>>;
    /// The nodes whose proxies serve Gateways.
    fn gateways(&self) -> BTreeSet<IpAddr>;
}

/// A kind of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Running {
    Pods,
    Services,
    Endpoints,
    Nodes,
}

/// Name, where its value is among the shown ones, and whether `-o wide` only.
type Column = (&'static str, bool);

impl Running {
    const ALL: [Self; 4] = [Self::Pods, Self::Services, Self::Endpoints, Self::Nodes];

    /// By the resource in paths.
    pub(super) fn parse(plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|running| running.plural() == plural)
    }

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Nodes => "nodes",
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Pods => "Pod",
            Self::Services => "Service",
            Self::Endpoints => "Endpoints",
            Self::Nodes => "Node",
        }
    }

    const fn short(self) -> &'static str {
        match self {
            Self::Pods => "po",
            Self::Services => "svc",
            Self::Endpoints => "ep",
            Self::Nodes => "no",
        }
    }

    pub(super) const fn is_namespaced(self) -> bool {
        !matches!(self, Self::Nodes)
    }

    /// Kubernetes' own, without those of which nothing is known here. The first is the name's.
    const fn columns(self) -> &'static [Column] {
        match self {
            Self::Pods => {
                &[("Ready", false), ("Status", false), ("Restarts", false), ("Age", false), ("IP", true), ("Node", true)]
            }
            Self::Services => &[
                ("Type", false),
                ("Cluster-IP", false),
                ("External-IP", false),
                ("Port(s)", false),
                ("Age", false),
                ("Selector", true),
            ],
            Self::Endpoints => &[("Endpoints", false), ("Age", false)],
            Self::Nodes => &[("Status", false), ("Roles", false), ("Age", false), ("Version", false), ("Internal-IP", true)],
        }
    }

    /// As `/api/v1` lists it.
    pub(super) fn resources() -> impl Iterator<Item = Value> {
        Self::ALL.into_iter().map(|running| {
            json!({
                "name": running.plural(), "singularName": running.kind().to_lowercase(), "namespaced": running.is_namespaced(),
                "kind": running.kind(), "verbs": ["get", "list"], "shortNames": [running.short()],
            })
        })
    }
}

/// An object with its cells, the name's left out.
struct Shown {
    object: Value,
    cells: Vec<Value>,
}

/// All of a kind that a query means.
pub(super) fn list(
    running: Running,
    namespace: Option<&str>,
    (runs, config): (&dyn Runs, &Config),
    form: Form,
    options: &Options,
) -> Result<Response<Body>, ApiError> {
    if options.watch {
        return Err(ApiError::method_not_allowed());
    }
    let selector = Selector::parse(&options.label_selector, &options.field_selector)?;
    let mut all = shown(running, runs, config);
    all.retain(|one| namespace.is_none_or(|namespace| one.object["metadata"]["namespace"] == namespace));
    all.retain(|one| selector.matches(&one.object));
    let meta = json!({ "resourceVersion": "1" });
    let answer = match form {
        Form::Table(version) => table(running, version, all, Include::parse(&options.include_object)),
        Form::Json => {
            let items: Vec<_> = all.into_iter().map(|one| one.object).collect();
            json!({ "kind": format!("{}List", running.kind()), "apiVersion": "v1", "metadata": meta, "items": items })
        }
    };
    Ok(json_response(StatusCode::OK, &answer))
}

/// One by its name.
pub(super) fn get(
    running: Running,
    (namespace, name): (Option<&str>, &str),
    (runs, config): (&dyn Runs, &Config),
    form: Form,
    options: &Options,
) -> Result<Response<Body>, ApiError> {
    let is_it = |one: &Shown| {
        let meta = &one.object["metadata"];
        meta["name"] == name && namespace.is_none_or(|namespace| meta["namespace"] == namespace)
    };
    let found = shown(running, runs, config).into_iter().find(is_it);
    let found = found.ok_or_else(|| ApiError::nothing_runs(running.plural(), name))?;
    let answer = match form {
        Form::Table(version) => table(running, version, vec![found], Include::parse(&options.include_object)),
        Form::Json => found.object,
    };
    Ok(json_response(StatusCode::OK, &answer))
}

fn table(running: Running, version: &str, all: Vec<Shown>, include: Include) -> Value {
    let column = |name: &str, wide: bool| json!({ "name": name, "type": "string", "format": if name == "Name" { "name" } else { "" }, "description": "", "priority": i32::from(wide) });
    let columns = std::iter::once(column("Name", false)).chain(running.columns().iter().map(|(name, wide)| column(name, *wide)));
    let rows = all.into_iter().map(|Shown { object, cells }| {
        let cells: Vec<_> = std::iter::once(object["metadata"]["name"].clone()).chain(cells).collect();
        let meta = || json!({ "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": object["metadata"] });
        match include {
            Include::None => json!({ "cells": cells }),
            Include::Metadata => json!({ "cells": cells, "object": meta() }),
            Include::Object => json!({ "cells": cells, "object": object }),
        }
    });
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": { "resourceVersion": "1" },
        "columnDefinitions": columns.collect::<Vec<_>>(), "rows": rows.collect::<Vec<_>>(),
    })
}

fn shown(running: Running, runs: &dyn Runs, config: &Config) -> Vec<Shown> {
    let registry = runs.registry().unwrap_or_default();
    match running {
        Running::Pods => {
            let health = health(&registry);
            registry.workloads.values().map(|workload| pod(workload, health.get(workload.id.as_str()).copied())).collect()
        }
        Running::Services => {
            let gateways = runs.gateways();
            let edge = (!gateways.is_empty()).then(|| gateway(&gateways, config));
            registry.services.values().map(service).chain(edge).collect()
        }
        Running::Endpoints => registry.services.values().map(endpoints).collect(),
        Running::Nodes => registry.nodes().into_iter().map(|address| node(address, &runs.gateways())).collect(),
    }
}

/// The worst that is said of each workload's endpoints.
fn health(registry: &Registry) -> BTreeMap<&str, Health> {
    let mut all = BTreeMap::new();
    for endpoint in registry.services.values().flat_map(|service| service.ports.values()).flat_map(|port| &port.endpoints) {
        let worst = all.entry(endpoint.workload.as_str()).or_insert(endpoint.health);
        *worst = (*worst).max(endpoint.health);
    }
    all
}

fn pod(workload: &Workload, health: Option<Health>) -> Shown {
    let (ready, status) = match health {
        Some(Health::Draining) => (false, "Terminating"),
        // As kubectl shows pods of a node that is lost.
        Some(Health::Unreachable) => (false, "Unknown"),
        Some(Health::Unhealthy | Health::Unready) => (false, "Running"),
        Some(Health::Healthy | Health::Unknown) | None => (true, "Running"),
    };
    let addresses: Vec<String> = match workload.addresses.as_slice() {
        [] => vec![workload.node.clone()],
        own => own.iter().map(ToString::to_string).collect(),
    };
    let condition = json!({ "type": "Ready", "status": if ready { "True" } else { "False" } });
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": workload.id, "namespace": workload.namespace, "labels": *workload.labels,
            "annotations": { "marathon.mesosphere.io/app": workload.app },
        },
        "spec": { "nodeName": workload.node, "hostNetwork": workload.host_network, "containers": [] },
        "status": {
            "phase": "Running", "hostIP": workload.node, "podIP": addresses.first(),
            "podIPs": addresses.iter().map(|ip| json!({ "ip": ip })).collect::<Vec<_>>(), "conditions": [condition],
        },
    });
    let ready = if ready { "1/1" } else { "0/1" };
    Shown {
        object,
        cells: vec![json!(ready), json!(status), json!("0"), age(), json!(addresses.join(",")), json!(workload.node)],
    }
}

/// Nobody here knows how old something is that Marathon runs.
fn age() -> Value {
    json!("<unknown>")
}

/// As its users call it: the name without a dot, if it has one.
fn short(service: &Service) -> &str {
    service.names.iter().find(|name| !name.contains('.')).unwrap_or(&service.name)
}

fn service(service: &Service) -> Shown {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|((number, transport), port)| {
            let transport = if *transport == Transport::Udp { "UDP" } else { "TCP" };
            json!({ "name": format!("{}-{number}", port.protocol.as_str().to_lowercase()), "port": number, "protocol": transport })
        })
        .collect();
    let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": short(service), "namespace": service.namespace, "annotations": { "mesh.io/host": service.name } },
        "spec": { "type": "ClusterIP", "clusterIP": addresses.first(), "clusterIPs": addresses, "ports": ports },
        "status": { "loadBalancer": {} },
    });
    let cluster_ip = addresses.first().map_or("None", String::as_str);
    let cells = vec![json!("ClusterIP"), json!(cluster_ip), json!("<none>"), json!(written(&ports)), age(), json!("<none>")];
    Shown { object, cells }
}

/// `80/TCP,53/UDP`.
fn written(ports: &[Value]) -> String {
    let text = |port: &Value| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or_default());
    ports.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Istio's ingress gateway: the nodes' proxies that serve Gateways, at the ports that these have.
fn gateway(nodes: &BTreeSet<IpAddr>, config: &Config) -> Shown {
    let servers = config.gateways.iter().flat_map(|gateway| &gateway.spec.servers);
    let ports: BTreeMap<u32, &str> = servers.map(|server| (server.port.number, server.port.name.as_str())).collect();
    let ports: Vec<Value> =
        ports.iter().map(|(number, name)| json!({ "name": name, "port": number, "protocol": "TCP" })).collect();
    let addresses: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    let ingress: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": GATEWAY.1, "namespace": GATEWAY.0, "labels": { "app": GATEWAY.1, "istio": "ingressgateway" } },
        "spec": { "type": "LoadBalancer", "clusterIP": "None", "ports": ports, "selector": { "istio": "ingressgateway" } },
        "status": { "loadBalancer": { "ingress": ingress } },
    });
    let external = addresses.join(",");
    let cells =
        vec![json!("LoadBalancer"), json!("None"), json!(external), json!(written(&ports)), age(), json!("istio=ingressgateway")];
    Shown { object, cells }
}

fn endpoints(service: &Service) -> Shown {
    let mut subsets = Vec::new();
    let mut all = Vec::new();
    for ((number, transport), port) in &service.ports {
        let transport = if *transport == Transport::Udp { "UDP" } else { "TCP" };
        // Where endpoints are dialled may be another number on each; Kubernetes has one for each subset.
        let mut by_port = BTreeMap::<u16, (Vec<Value>, Vec<Value>)>::new();
        for endpoint in &port.endpoints {
            let Endpoint { at_home, workload, node, .. } = endpoint;
            let (ready, not_ready) = by_port.entry(at_home.port()).or_default();
            let target = json!({ "kind": "Pod", "name": workload, "namespace": service.namespace });
            let address = json!({ "ip": at_home.ip(), "nodeName": node, "targetRef": target });
            let is_ready = matches!(endpoint.health, Health::Healthy | Health::Unknown);
            if is_ready {
                all.push(at_home.to_string());
                ready.push(address);
            } else {
                not_ready.push(address);
            }
        }
        subsets.extend(by_port.into_iter().map(|(dialled, (ready, not_ready))| {
            let port = json!({ "name": format!("{}-{number}", port.protocol.as_str().to_lowercase()), "port": dialled, "protocol": transport });
            json!({ "addresses": ready, "notReadyAddresses": not_ready, "ports": [port] })
        }));
    }
    let object = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": short(service), "namespace": service.namespace }, "subsets": subsets,
    });
    Shown { object, cells: vec![json!(first(&all)), age()] }
}

/// As kubectl prints lists: three, and how many more.
fn first(all: &[String]) -> String {
    match all {
        [] => "<none>".to_owned(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        all => all.join(","),
    }
}

fn node(address: IpAddr, gateways: &BTreeSet<IpAddr>) -> Shown {
    let role = if gateways.contains(&address) { "gateway" } else { "<none>" };
    let object = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": address.to_string(), "labels": {} },
        "status": {
            "addresses": [{ "type": "InternalIP", "address": address.to_string() }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        },
    });
    Shown { object, cells: vec![json!("Ready"), json!(role), age(), json!(""), json!(address.to_string())] }
}
