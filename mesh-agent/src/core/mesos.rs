//! What a Mesos agent says of its containers (`GET_CONTAINERS`), and which Marathon instance each is.

pub mod credentials;

use super::resources::Workload;
use mesh_common::inbound;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// An outermost container of this node. Nested ones share its cgroup and network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Container {
    /// Mesos' id of it: the name of its directories and cgroups.
    pub id: String,
    /// Marathon's instance id, as the control plane knows the workload.
    pub instance: String,
    /// Mesos' id of what runs its tasks.
    pub executor: String,
    /// A process in it, as far as Mesos says.
    pub pid: Option<u32>,
    /// Its class id, where the isolator `cgroups/net_cls` gives one.
    pub class: Option<u32>,
}

#[derive(Deserialize)]
struct Answer {
    get_containers: Containers,
}

#[derive(Deserialize)]
struct Containers {
    #[serde(default)]
    containers: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    container_id: Value,
    executor_id: Option<Value>,
    container_status: Option<Status>,
}

#[derive(Deserialize)]
struct Value {
    value: String,
}

#[derive(Default, Deserialize)]
struct Status {
    executor_pid: Option<u32>,
    cgroup_info: Option<CgroupInfo>,
}

#[derive(Deserialize)]
struct CgroupInfo {
    net_cls: Option<NetCls>,
}

#[derive(Deserialize)]
struct NetCls {
    classid: Option<u32>,
}

/// Who a container is, as the Mesos agent knows before Marathon says that it runs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// Marathon's instance id.
    pub instance: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl Identity {
    /// Does it ask to be in the mesh? What its namespace says is the control plane's to know.
    #[must_use]
    pub fn wishes(&self) -> bool {
        let own = self.labels.get(INJECT).map(String::as_str).unwrap_or_default();
        ["true", "yes", "y", "on"].iter().any(|yes| own.eq_ignore_ascii_case(yes))
    }

    /// As the control plane will describe it. A Marathon path has no underscore, so the one in a task's id stands for its slashes.
    #[must_use]
    pub fn workload(&self) -> Workload {
        let path = self.instance.rsplit_once('.').map_or(self.instance.as_str(), |(path, _)| path);
        let namespace = self.labels.get(NAMESPACE).filter(|name| !name.is_empty()).map_or("default", String::as_str);
        Workload {
            id: self.instance.clone(),
            app: format!("/{}", path.replace('_', "/")),
            namespace: namespace.to_ascii_lowercase(),
            labels: self.labels.clone(),
            // Which ports `*` stands for, and what is wrong with a label, is the control plane's to say.
            inbound: inbound::ports(&self.labels, &BTreeSet::new()).unwrap_or_default(),
            ..Workload::default()
        }
    }
}

/// Label of an app or pod: its wish.
const INJECT: &str = "sidecar.istio.io/inject";
/// Label of an app or pod: its namespace in Istio's sense.
const NAMESPACE: &str = "istio.io/namespace";

/// Whose a container is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Owner {
    /// Of this executor's tasks.
    Executor(String),
    /// A standalone container: nobody's workload.
    Nobody,
}

/// Whose a container is, from `GET_CONTAINERS` with standalone ones; `None` if Mesos does not list it.
///
/// # Errors
/// Names the field that is not as Mesos has it.
pub fn owner(json: &[u8], container: &str) -> Result<Option<Owner>, serde_json::Error> {
    let answer: Answer = serde_json::from_slice(json)?;
    let found = answer.get_containers.containers.into_iter().find(|item| item.container_id.value == container);
    Ok(found.map(|item| item.executor_id.map_or(Owner::Nobody, |executor| Owner::Executor(executor.value))))
}

/// Who the executor's tasks are, from `GET_STATE`: those that run, and those that wait for the executor to come up. The tasks of a pod have
/// the same labels. `None` if Mesos lists none.
///
/// # Errors
/// Names the field that is not as Mesos has it.
pub fn identity(json: &[u8], executor: &str) -> Result<Option<Identity>, serde_json::Error> {
    let state: State = serde_json::from_slice(json)?;
    Ok(state.identity(executor))
}

/// The answer to `GET_STATE`.
#[derive(Deserialize)]
pub struct State {
    get_state: StateItem,
}

impl State {
    /// Who an executor's tasks are; `None` if it has none, or none yet.
    #[must_use]
    pub fn identity(&self, executor: &str) -> Option<Identity> {
        let tasks = &self.get_state.get_tasks;
        let is_its =
            |task: &&TaskItem| task.executor_id.as_ref().is_some_and(|id| id.value == executor) || task.task_id.value == executor;
        let mut tasks =
            tasks.launched_tasks.iter().chain(&tasks.queued_tasks).chain(&tasks.pending_tasks).filter(is_its).peekable();
        tasks.peek()?;
        let labels = tasks.flat_map(|task| &task.labels.labels).map(|label| (label.key.clone(), label.value.clone()));
        Some(Identity { instance: instance(executor), labels: labels.collect() })
    }
}

#[derive(Deserialize)]
struct StateItem {
    #[serde(default)]
    get_tasks: Tasks,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tasks {
    launched_tasks: Vec<TaskItem>,
    queued_tasks: Vec<TaskItem>,
    pending_tasks: Vec<TaskItem>,
}

#[derive(Deserialize)]
struct TaskItem {
    task_id: Value,
    executor_id: Option<Value>,
    #[serde(default)]
    labels: LabelList,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LabelList {
    labels: Vec<Label>,
}

#[derive(Deserialize)]
struct Label {
    key: String,
    #[serde(default)]
    value: String,
}

/// Reads the answer. What is no executor's (standalone containers) is nobody's workload.
///
/// # Errors
/// Names the field that is not as Mesos has it.
pub fn containers(json: &[u8]) -> Result<Vec<Container>, serde_json::Error> {
    let answer: Answer = serde_json::from_slice(json)?;
    let read = |item: Item| {
        let (status, executor) = (item.container_status.unwrap_or_default(), item.executor_id?.value);
        Some(Container {
            id: item.container_id.value,
            instance: instance(&executor),
            executor,
            pid: status.executor_pid.filter(|pid| *pid > 0),
            class: status.cgroup_info.and_then(|info| info.net_cls?.classid).filter(|class| *class != 0),
        })
    };
    Ok(answer.get_containers.containers.into_iter().filter_map(read).collect())
}

/// The instance of an executor. An app's executor has its task's id (`app.instance-UUID._app.N`, before Marathon 1.8 `app.UUID`); a pod's
/// is `instance-pod.UUID`, of the instance `pod.instance-UUID`.
#[must_use]
pub fn instance(executor: &str) -> String {
    if let Some((app, uuid)) = executor.strip_prefix("instance-").and_then(|rest| rest.rsplit_once('.')) {
        return format!("{app}.instance-{uuid}");
    }
    executor.split_once("._app.").map_or(executor, |(instance, _)| instance).to_owned()
}

/// The part of a process's cgroup path that is its container's alone: up to the container's id, as Mesos has it, or up to Docker's id of a
/// container. What does not say so may hold others, and is nobody's.
#[must_use]
pub fn own_cgroup<'a>(path: &'a str, container: &str) -> Option<&'a str> {
    let mut end = 0;
    for part in path.trim_start_matches('/').split('/') {
        end += 1 + part.len();
        if part == container || is_docker(part) {
            return path.get(..end);
        }
    }
    None
}

/// `docker-ID.scope` of systemd's driver, or the bare id of cgroupfs's.
fn is_docker(part: &str) -> bool {
    let id = part.strip_prefix("docker-").and_then(|rest| rest.strip_suffix(".scope")).unwrap_or(part);
    id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Mesos 1.11 answers, shortened.
    const ANSWER: &str = r#"{"type":"GET_CONTAINERS","get_containers":{"containers":[
        {"container_id":{"value":"3660d418"},"executor_id":{"value":"web.instance-caff1565._app.2"},"framework_id":{"value":"f"},
         "executor_name":"","container_status":{"executor_pid":5577,"cgroup_info":{"net_cls":{"classid":1048577}},"network_infos":[]}},
        {"container_id":{"value":"a67c4246"},"executor_id":{"value":"instance-shop_web.beef"},"container_status":{"container_id":{"value":"a67c4246"}}},
        {"container_id":{"value":"alone"}}]}}"#;

    #[test]
    fn containers_are_instances() {
        let read = containers(ANSWER.as_bytes()).expect("valid");
        let web = Container {
            id: "3660d418".to_owned(),
            instance: "web.instance-caff1565".to_owned(),
            executor: "web.instance-caff1565._app.2".to_owned(),
            pid: Some(5577),
            class: Some(0x0010_0001),
        };
        let (instance, executor) = ("shop_web.instance-beef".to_owned(), "instance-shop_web.beef".to_owned());
        let pod = Container { id: "a67c4246".to_owned(), instance, executor, ..Container::default() };
        assert_eq!(read, [web, pod]);
        assert_eq!(containers(br#"{"get_containers":{}}"#).expect("valid"), []);
        let error = containers(br#"{"get_containers":{"containers":[{}]}}"#).expect_err("no id").to_string();
        assert!(error.contains("container_id"), "{error}");
    }

    #[test]
    fn who_a_container_is_says_the_state() {
        let owner = |container| owner(ANSWER.as_bytes(), container).expect("valid");
        assert_eq!(owner("a67c4246"), Some(Owner::Executor("instance-shop_web.beef".to_owned())));
        assert_eq!((owner("alone"), owner("unheard")), (Some(Owner::Nobody), None));
        let state = br#"{"type":"GET_STATE","get_state":{"get_tasks":{
            "launched_tasks":[{"task_id":{"value":"other"},"labels":{"labels":[{"key":"a","value":"b"}]}}],
            "queued_tasks":[{"task_id":{"value":"shop_web.instance-beef.main"},"executor_id":{"value":"instance-shop_web.beef"},
                "labels":{"labels":[{"key":"sidecar.istio.io/inject","value":"true"},{"key":"istio.io/namespace","value":"Shop"},{"key":"flag"}]}}]}}}"#;
        let known = identity(state, "instance-shop_web.beef").expect("valid").expect("listed");
        assert!(known.wishes());
        let workload = known.workload();
        assert_eq!(
            (workload.id.as_str(), workload.app.as_str(), workload.namespace.as_str()),
            ("shop_web.instance-beef", "/shop/web", "shop")
        );
        assert_eq!(workload.labels["flag"], "");
        let other = identity(state, "other").expect("valid").expect("listed");
        assert!(!other.wishes() && other.workload().app == "/other");
        // Without a task nobody knows what it asks for.
        assert_eq!(identity(br#"{"get_state":{}}"#, "web.1").expect("valid"), None);
    }

    #[test]
    fn instances_of_all_ages_are_read() {
        for (executor, id) in [
            ("app.8cad6a69-1", "app.8cad6a69-1"),
            ("a_b.instance-8cad._app.14", "a_b.instance-8cad"),
            ("instance-a_b.8cad", "a_b.instance-8cad"),
            ("a.b.instance-8cad", "a.b.instance-8cad"),
        ] {
            assert_eq!(instance(executor), id, "{executor}");
        }
    }

    #[test]
    fn a_cgroup_is_the_containers_own_or_nobodys() {
        let docker = "0123456789abcdef".repeat(4);
        assert_eq!(own_cgroup("/mesos/c1/leaf", "c1"), Some("/mesos/c1"));
        assert_eq!(own_cgroup("/sim/node1/mesos/c1", "c1"), Some("/sim/node1/mesos/c1"));
        let scope = format!("/system.slice/docker-{docker}.scope");
        assert_eq!(own_cgroup(&scope, "c1"), Some(scope.as_str()));
        let bare = format!("/docker/{docker}");
        assert_eq!(own_cgroup(&format!("{bare}/init"), "c1"), Some(bare.as_str()));
        for shared in ["/", "", "/system.slice/dcos-mesos-slave.service", "/mesos/c2/leaf", "/mesos"] {
            assert_eq!(own_cgroup(shared, "c1"), None, "{shared}");
        }
    }
}
