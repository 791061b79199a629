//! Marathon's JSON, as much of it as the registry reads. Pure data: no I/O here.
//!
//! Tolerant on purpose: unknown fields and enum values pass, `null` is absence, and one malformed app, task or instance is left out of
//! a list instead of spoiling the whole snapshot.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Marathon's labels.
pub(crate) type Labels = BTreeMap<String, String>;

/// Everything that the registry is made of, at one moment. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct View {
    /// By id.
    pub(crate) apps: BTreeMap<String, Arc<App>>,
    /// By id.
    pub(crate) pods: BTreeMap<String, Arc<PodStatus>>,
    /// Specs of pods that are not the newest, by `specReference`.
    pub(crate) versions: BTreeMap<String, Arc<Pod>>,
    /// Addresses of agents that Marathon calls by a host name.
    pub(crate) hosts: BTreeMap<String, IpAddr>,
    /// Name of the bridge network (`/v2/info`), empty if unknown.
    pub(crate) bridge_name: String,
}

/// `GET /v2/info`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Info {
    pub(crate) version: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) leader: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) marathon_config: MarathonConfig,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MarathonConfig {
    #[serde(deserialize_with = "or_default")]
    pub(crate) mesos_bridge_name: String,
}

/// `GET /v2/apps`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Apps {
    #[serde(default, deserialize_with = "lenient")]
    pub(crate) apps: Vec<App>,
}

/// `GET /v2/apps/ID`.
#[derive(Debug, Deserialize)]
pub(crate) struct OneApp {
    pub(crate) app: App,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct App {
    pub(crate) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub(crate) container: Container,
    #[serde(deserialize_with = "lenient")]
    pub(crate) networks: Vec<Network>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) port_definitions: Vec<PortMapping>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) health_checks: Vec<serde_json::Value>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) tasks: Vec<Task>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container {
    #[serde(deserialize_with = "lenient")]
    pub(crate) port_mappings: Vec<PortMapping>,
    /// Marathon before 1.5 kept network and mappings here.
    #[serde(deserialize_with = "or_default")]
    pub(crate) docker: Docker,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Docker {
    #[serde(deserialize_with = "or_default")]
    pub(crate) network: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) port_mappings: Vec<PortMapping>,
}

/// A port mapping or (host network) a port definition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PortMapping {
    pub(crate) container_port: Option<u16>,
    pub(crate) host_port: Option<u16>,
    pub(crate) port: Option<u16>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) protocol: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: Labels,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Network {
    #[serde(deserialize_with = "or_default")]
    pub(crate) mode: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Task {
    pub(crate) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) host: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) state: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) ports: Vec<u16>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) ip_addresses: Vec<TaskAddress>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) health_check_results: Vec<HealthResult>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) region: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) zone: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskAddress {
    pub(crate) ip_address: IpAddr,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct HealthResult {
    pub(crate) alive: bool,
}

/// `GET /v2/pods/ID::versions/V`, and `spec` of a status.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: Labels,
    #[serde(deserialize_with = "or_default")]
    pub(crate) version: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) containers: Vec<PodContainer>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) networks: Vec<Network>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct PodContainer {
    pub(crate) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) endpoints: Vec<PodEndpoint>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodEndpoint {
    pub(crate) name: String,
    pub(crate) container_port: Option<u16>,
    pub(crate) host_port: Option<u16>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) protocol: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) labels: Labels,
}

/// One of `GET /v2/pods/::status`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct PodStatus {
    pub(crate) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) spec: Pod,
    #[serde(deserialize_with = "lenient")]
    pub(crate) instances: Vec<Instance>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Instance {
    pub(crate) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) agent_hostname: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) agent_region: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) agent_zone: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) networks: Vec<Network>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) containers: Vec<ContainerStatus>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) spec_reference: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct ContainerStatus {
    pub(crate) name: String,
    /// The Mesos task id, whatever the name says: another one for each incarnation of the instance.
    #[serde(rename = "containerId", deserialize_with = "or_default")]
    pub(crate) task_id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) status: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) conditions: Vec<Condition>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) endpoints: Vec<EndpointStatus>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Condition {
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) value: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) reason: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointStatus {
    pub(crate) name: String,
    pub(crate) allocated_host_port: Option<u16>,
    pub(crate) healthy: Option<bool>,
}

/// A bare array of which the malformed elements are left out (`GET /v2/pods/::status`).
#[derive(Debug)]
pub(crate) struct Lenient<T>(pub(crate) Vec<T>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        lenient(input).map(Self)
    }
}

/// `null` is the default.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(input).map(Option::unwrap_or_default)
}

/// `null` is the empty list, and elements that are not of this type are left out.
fn lenient<'de, T: DeserializeOwned, D: Deserializer<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    let values = Option::<Vec<serde_json::Value>>::deserialize(input)?.unwrap_or_default();
    Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}
