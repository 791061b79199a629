//! What a Mesos agent says of its containers (`GET_CONTAINERS`), and which Marathon instance each is.

use serde::Deserialize;

/// An outermost container of this node. Nested ones share its cgroup and network.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Container {
    /// Mesos' id of it: the name of its directories and cgroups.
    pub id: String,
    /// Marathon's instance id, as the control plane knows the workload.
    pub instance: String,
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

/// Reads the answer. What is no executor's (standalone containers) is nobody's workload.
///
/// # Errors
/// Names the field that is not as Mesos has it.
pub fn containers(json: &[u8]) -> Result<Vec<Container>, serde_json::Error> {
    let answer: Answer = serde_json::from_slice(json)?;
    let read = |item: Item| {
        let status = item.container_status.unwrap_or_default();
        Some(Container {
            id: item.container_id.value,
            instance: instance(&item.executor_id?.value),
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
            pid: Some(5577),
            class: Some(0x0010_0001),
        };
        let pod = Container { id: "a67c4246".to_owned(), instance: "shop_web.instance-beef".to_owned(), ..Container::default() };
        assert_eq!(read, [web, pod]);
        assert_eq!(containers(br#"{"get_containers":{}}"#).expect("valid"), []);
        let error = containers(br#"{"get_containers":{"containers":[{}]}}"#).expect_err("no id").to_string();
        assert!(error.contains("container_id"), "{error}");
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
