//! The environment that Marathon and Mesos give to a task. Pure.

use std::collections::BTreeMap;

use super::instance::{Instance, Task};
use super::spec::{Container, Kind, Network};

pub(crate) fn environment(instance: &Instance, container: &Container, task: &Task) -> BTreeMap<String, String> {
    let spec = &instance.spec;
    let mut env = BTreeMap::new();
    let mut set = |key: &str, value: &str| env.insert(key.to_owned(), value.to_owned());
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    set("HOST", &instance.hostname);
    set("MARATHON_APP_ID", &spec.id);
    set("MARATHON_APP_VERSION", &spec.version);
    set("MESOS_TASK_ID", &task.id);
    set("MESOS_SANDBOX", "/mnt/mesos/sandbox");
    set("MESOS_CONTAINER_NAME", &format!("mesos-{}", task.uuid));
    if let Some(image) = &container.image {
        set("MARATHON_APP_DOCKER_IMAGE", image);
    }
    for key in ["cpus", "mem", "disk", "gpus"] {
        if let Some(amount) = container.resources.get(key).and_then(serde_json::Value::as_f64) {
            set(&format!("MARATHON_APP_RESOURCE_{}", key.to_uppercase()), &format!("{amount:?}"));
        }
    }
    let labels: Vec<String> = spec.labels.keys().map(|k| upper(k)).collect();
    set("MARATHON_APP_LABELS", &labels.join(" "));
    for (key, value) in &spec.labels {
        set(&format!("MARATHON_APP_LABEL_{}", upper(key)), value);
    }
    if let Some(ip) = instance.addresses().first() {
        set("MESOS_CONTAINER_IP", &ip.to_string());
        if spec.network != Network::Host {
            set("LIBPROCESS_IP", &ip.to_string());
        }
    }
    match spec.kind {
        Kind::App => app_ports(instance, container, &mut env),
        Kind::Pod => pod_ports(instance, container, &mut env),
    }
    env.extend(container.env.clone());
    env
}

/// Labels become variable names: upper case, all but letters and digits to `_`.
fn upper(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn app_ports(instance: &Instance, container: &Container, env: &mut BTreeMap<String, String>) {
    let mut all = Vec::new();
    for (index, endpoint) in container.endpoints.iter().enumerate() {
        let host = instance.host_ports.get(&(container.name.clone(), index)).copied();
        let Some(port) = host.or(endpoint.container_port) else { continue };
        env.insert(format!("PORT{}", all.len()), port.to_string());
        if let Some(declared) = endpoint.container_port.filter(|p| *p != 0).or_else(|| endpoint.host_port.filter(|p| *p != 0)) {
            env.insert(format!("PORT_{declared}"), port.to_string());
        }
        if !endpoint.name.is_empty() {
            env.insert(format!("PORT_{}", upper(&endpoint.name)), port.to_string());
        }
        all.push(port.to_string());
    }
    if let Some(first) = all.first() {
        env.insert("PORT".into(), first.clone());
        env.insert("PORTS".into(), all.join(","));
    }
}

/// Each container of a pod learns the endpoints of all of them.
fn pod_ports(instance: &Instance, container: &Container, env: &mut BTreeMap<String, String>) {
    env.insert("MARATHON_CONTAINER_ID".into(), container.name.clone());
    for each in &instance.spec.containers {
        for (index, endpoint) in each.endpoints.iter().enumerate() {
            let name = upper(&endpoint.name);
            let host = instance.host_ports.get(&(each.name.clone(), index)).copied();
            if let Some(port) = host {
                env.insert(format!("EP_HOST_{name}"), port.to_string());
            }
            if let Some(port) = endpoint.container_port.filter(|p| *p != 0).or(host) {
                env.insert(format!("EP_CONTAINER_{name}"), port.to_string());
            }
            if let Some(port) = host.or(endpoint.container_port) {
                env.insert(format!("ENDPOINT_{name}"), port.to_string());
            }
        }
    }
}
