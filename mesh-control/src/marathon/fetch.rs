//! Brings a view up to date: the whole of it, or the apps and pods that events named.

use super::client::{Client, Error};
use super::hints::Dirty;
use super::types::{Apps, Info, Lenient, OneApp, Pod, PodStatus, View};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Asks for what is dirty. On an error nothing of it is used.
pub(crate) async fn fetch(client: &Client, before: &View, dirty: &Dirty) -> Result<View, Error> {
    let known = |id: &String| before.apps.contains_key(id) || before.pods.contains_key(id);
    let mut view = if dirty.all || !dirty.ids.iter().all(known) {
        everything(client, before).await?
    } else {
        let mut view = before.clone();
        for id in &dirty.ids {
            one(client, &mut view, id).await?;
        }
        view
    };
    versions(client, &mut view).await?;
    hosts(&mut view).await;
    Ok(view)
}

async fn everything(client: &Client, before: &View) -> Result<View, Error> {
    let info: Info = client.must_get("/v2/info").await?;
    client.set_leader(info.leader_authority());
    tracing::debug!(version = info.version, leader = info.leader, "asking Marathon for everything");
    let apps: Apps = client.must_get("/v2/apps?embed=apps.tasks&embed=apps.deployments&embed=apps.readiness").await?;
    let pods = if info.has_pods() { client.must_get::<Lenient<PodStatus>>("/v2/pods/::status").await?.0 } else { Vec::new() };
    Ok(View {
        apps: apps.apps.into_iter().map(|app| (app.id.clone(), Arc::new(app))).collect(),
        pods: pods.into_iter().map(|pod| (pod.id.clone(), Arc::new(pod))).collect(),
        versions: before.versions.clone(),
        hosts: before.hosts.clone(),
        bridge_name: info.marathon_config.mesos_bridge_name,
    })
}

async fn one(client: &Client, view: &mut View, id: &str) -> Result<(), Error> {
    if view.pods.contains_key(id) {
        let path = format!("/v2/pods{id}::status");
        match client.get::<PodStatus>(&path).await? {
            Some(pod) if pod.id != id => return Err(client.other(&path, &pod.id)),
            Some(pod) => drop(view.pods.insert(id.to_owned(), Arc::new(pod))),
            None => drop(view.pods.remove(id)),
        }
    } else {
        let path = format!("/v2/apps{id}?embed=app.tasks&embed=app.deployments&embed=app.readiness");
        match client.get::<OneApp>(&path).await? {
            Some(one) if one.app.id != id => return Err(client.other(&path, &one.app.id)),
            Some(one) => drop(view.apps.insert(id.to_owned(), Arc::new(one.app))),
            None => drop(view.apps.remove(id)),
        }
    }
    Ok(())
}

/// During a rolling upgrade old instances need their own version's labels. A version never changes, so each is asked for once.
async fn versions(client: &Client, view: &mut View) -> Result<(), Error> {
    let mut wanted = BTreeSet::new();
    for pod in view.pods.values() {
        let old = pod.instances.iter().filter(|instance| !instance.is_newest(&pod.spec));
        wanted.extend(old.map(|instance| instance.spec_reference.clone()));
    }
    view.versions.retain(|reference, _| wanted.contains(reference));
    for reference in wanted.iter().filter(|reference| reference.starts_with("/v2/pods/")) {
        if !view.versions.contains_key(reference)
            && let Some(pod) = client.get::<Pod>(reference).await?
            && reference.strip_prefix("/v2/pods").is_some_and(|of| of.split("::").next() == Some(pod.id.as_str()))
        {
            view.versions.insert(reference.clone(), Arc::new(pod));
        }
    }
    Ok(())
}

/// Plain Mesos may call its agents by host names. An old address is kept if the resolver has none now.
async fn hosts(view: &mut View) {
    let pods = view.pods.values().flat_map(|pod| pod.instances.iter().map(|instance| &instance.agent_hostname));
    let apps = view.apps.values().flat_map(|app| app.tasks.iter().map(|task| &task.host));
    let names: BTreeSet<String> =
        pods.chain(apps).filter(|host| !host.is_empty() && host.parse::<IpAddr>().is_err()).cloned().collect();
    let mut hosts = BTreeMap::new();
    for name in names {
        let found = match view.hosts.get(&name) {
            Some(known) => Some(*known),
            None => resolve(&name).await,
        };
        hosts.extend(found.map(|address| (name, address)));
    }
    view.hosts = hosts;
}

async fn resolve(name: &str) -> Option<IpAddr> {
    let lookup = tokio::time::timeout(std::time::Duration::from_secs(5), tokio::net::lookup_host((name, 0))).await;
    let Ok(Ok(addresses)) = lookup else {
        tracing::warn!(host = name, "the host name of a Mesos agent does not resolve; what runs there has no endpoint");
        return None;
    };
    let addresses: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
    addresses.iter().find(|address| address.is_ipv4()).or_else(|| addresses.first()).copied()
}
