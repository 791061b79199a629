//! Marathon's JSON, as much of it as the registry reads. Pure data: no I/O here.
//!
//! Tolerant on purpose: unknown fields and enum values pass, `null` is absence, and one malformed app, task or instance is left out of
//! a list instead of spoiling the whole snapshot. An answer that is another thing altogether is an error, though: a registry that is
//! emptied by a page of a proxy is worse than an old one.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Marathon's labels.
pub(crate) type Labels = BTreeMap<String, String>;

/// Everything that the registry is made of, at one moment. Cheap to clone.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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

impl View {
    /// Apps with tasks that have to become ready.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = &str> {
        let awaits = |app: &&Arc<App>| app.tasks.iter().any(|task| app.awaits(task));
        self.apps.values().filter(awaits).map(|app| app.id.as_str())
    }
}

/// `GET /v2/info`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Info {
    pub(crate) version: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) leader: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) marathon_config: MarathonConfig,
}

impl Info {
    /// `HOST:PORT` of the leader; some versions say a URL.
    pub(crate) fn leader_authority(&self) -> &str {
        self.leader.rsplit("://").next().unwrap_or_default()
    }

    /// Pods came with 1.4. A version that is no number is a newer one.
    pub(crate) fn has_pods(&self) -> bool {
        let mut parts = self.version.split('.').map(str::parse::<u32>);
        !matches!((parts.next(), parts.next()), (Some(Ok(1)), Some(Ok(0..=3))) | (Some(Ok(0)), _))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MarathonConfig {
    #[serde(deserialize_with = "or_default")]
    pub(crate) mesos_bridge_name: String,
}

/// `GET /v2/apps`.
#[derive(Debug, Deserialize)]
pub(crate) struct Apps {
    #[serde(deserialize_with = "listed")]
    pub(crate) apps: Vec<App>,
}

/// `GET /v2/apps/ID`.
#[derive(Debug, Deserialize)]
pub(crate) struct OneApp {
    pub(crate) app: App,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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
    pub(crate) readiness_checks: Vec<serde_json::Value>,
    #[serde(deserialize_with = "lenient")]
    pub(crate) readiness_check_results: Vec<ReadinessResult>,
    /// Those that are under way.
    #[serde(deserialize_with = "lenient")]
    pub(crate) deployments: Vec<serde_json::Value>,
    #[serde(deserialize_with = "or_default")]
    pub(crate) version: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) tasks: Vec<Task>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container {
    #[serde(deserialize_with = "lenient")]
    pub(crate) port_mappings: Vec<PortMapping>,
    /// Marathon before 1.5 kept network and mappings here.
    #[serde(deserialize_with = "or_default")]
    pub(crate) docker: Docker,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Docker {
    #[serde(deserialize_with = "or_default")]
    pub(crate) network: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) port_mappings: Vec<PortMapping>,
}

/// A port mapping or (host network) a port definition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Network {
    #[serde(deserialize_with = "or_default")]
    pub(crate) mode: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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
    #[serde(deserialize_with = "or_default")]
    pub(crate) version: String,
}

impl App {
    /// Has a deployment started this task, and Marathon not found it ready yet? Tasks of the versions before always are.
    pub(crate) fn awaits(&self, task: &Task) -> bool {
        let ready = || self.readiness_check_results.iter().any(|result| result.task_id == task.id && result.ready);
        !self.readiness_checks.is_empty() && !self.deployments.is_empty() && task.version == self.version && !ready()
    }
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReadinessResult {
    pub(crate) task_id: String,
    pub(crate) ready: bool,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskAddress {
    pub(crate) ip_address: IpAddr,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct HealthResult {
    pub(crate) alive: bool,
}

/// `GET /v2/pods/ID::versions/V`, and `spec` of a status.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct PodContainer {
    pub(crate) name: String,
    #[serde(deserialize_with = "lenient")]
    pub(crate) endpoints: Vec<PodEndpoint>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct PodStatus {
    pub(crate) id: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) spec: Pod,
    #[serde(deserialize_with = "lenient")]
    pub(crate) instances: Vec<Instance>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
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

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Condition {
    pub(crate) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) value: String,
    #[serde(deserialize_with = "or_default")]
    pub(crate) reason: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EndpointStatus {
    pub(crate) name: String,
    pub(crate) allocated_host_port: Option<u16>,
    pub(crate) healthy: Option<bool>,
}

/// A bare array of which the malformed elements are left out (`GET /v2/pods/::status`).
#[derive(Debug)]
pub(crate) struct Lenient<T>(pub(crate) Vec<T>);

impl<'de, T: DeserializeOwned + Named> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        listed(input).map(Self)
    }
}

/// `null` is the default.
fn or_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(input).map(Option::unwrap_or_default)
}

/// What has an id of its own, as all that Marathon lists.
pub(crate) trait Named {
    fn id(&self) -> &str;
}

impl Named for App {
    fn id(&self) -> &str {
        &self.id
    }
}

impl Named for PodStatus {
    fn id(&self) -> &str {
        &self.id
    }
}

/// A whole answer's list: malformed elements are left out, but a list of nothing else is none.
fn listed<'de, T: DeserializeOwned + Named, D: Deserializer<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    let values = Vec::<serde_json::Value>::deserialize(input)?;
    let count = values.len();
    let elements: Vec<T> = values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect();
    let elements: Vec<T> = elements.into_iter().filter(|element: &T| element.id().starts_with('/')).collect();
    if elements.is_empty() && count > 0 {
        return Err(serde::de::Error::custom(format!("none of the {count} elements has the id of an app or pod")));
    }
    Ok(elements)
}

/// `null` is the empty list, and elements that are not of this type are left out.
fn lenient<'de, T: DeserializeOwned, D: Deserializer<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    let values = Option::<Vec<serde_json::Value>>::deserialize(input)?.unwrap_or_default();
    Ok(values.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
}
