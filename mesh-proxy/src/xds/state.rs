//! What the control plane has sent, and the snapshot that follows from it. Pure: deliveries in, configuration and complaints out.

use super::listeners::Listeners;
use crate::config::{self, Config};
use crate::convert::at::{At, Invalid};
use crate::convert::cluster::{self, Source};
use crate::convert::{listener, route, tls};
use crate::core::balance::{Balancer, Members};
use crate::core::route::RouteTable;
use envoy_types::pb::envoy::config as pb;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use mesh_xds::client::{Delivery, Resource};
use mesh_xds::names::{CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The last good version of every resource.
#[derive(Default)]
pub struct State {
    listeners: Listeners,
    routes: BTreeMap<String, Arc<RouteTable>>,
    clusters: BTreeMap<String, cluster::Cluster>,
    endpoints: BTreeMap<String, Members>,
    versions: BTreeMap<String, BTreeMap<String, String>>,
    /// Type and name of what was answered with nothing that can be taken, and has no last good version: it is not waited for.
    absent: BTreeSet<(String, String)>,
    /// Types of which at least one delivery has come.
    seen: BTreeSet<String>,
    /// Of the last snapshot: what did not change is shared with the next.
    built: HashMap<Arc<str>, (cluster::Cluster, Arc<config::Cluster>)>,
    generation: u64,
}

impl State {
    /// Takes a delivery. What is invalid in it is returned and keeps its last good version; the rest counts.
    pub fn apply(&mut self, delivery: &Delivery) -> Vec<Invalid> {
        let mut complaints = Vec::new();
        for resource in &delivery.resources {
            match self.take(&delivery.type_url, resource) {
                Ok(()) => {
                    let versions = self.versions.entry(delivery.type_url.clone()).or_default();
                    versions.insert(resource.name.clone(), resource.version.clone());
                    self.absent.remove(&(delivery.type_url.clone(), resource.name.clone()));
                }
                Err(invalid) => {
                    self.absent.insert((delivery.type_url.clone(), resource.name.clone()));
                    complaints.push(invalid);
                }
            }
        }
        for name in &delivery.removed {
            self.absent.insert((delivery.type_url.clone(), name.clone()));
            match delivery.type_url.as_str() {
                LISTENER => drop(self.listeners.given.remove(name)),
                CLUSTER => drop(self.clusters.remove(name)),
                ROUTE => drop(self.routes.remove(name)),
                // As Envoy: endpoints go with their cluster, and Secrets with who mentions them. Without this a removal before the
                // cluster's would fail requests.
                _ => {}
            }
            if let Some(versions) = self.versions.get_mut(&delivery.type_url) {
                versions.remove(name);
            }
        }
        self.seen.insert(delivery.type_url.clone());
        let (endpoints, routes, secrets) = (self.wanted_endpoints(), self.wanted_routes(), self.wanted_secrets());
        self.endpoints.retain(|name, _| endpoints.contains(name));
        self.listeners.secrets.retain(|name, _| secrets.contains(name));
        self.routes.retain(|name, _| routes.contains(name));
        self.absent.retain(|(type_url, name)| match type_url.as_str() {
            ENDPOINT => endpoints.contains(name),
            ROUTE => routes.contains(name),
            SECRET => secrets.contains(name),
            _ => false,
        });
        complaints
    }

    fn take(&mut self, type_url: &str, resource: &Resource) -> Result<(), Invalid> {
        let name = resource.name.clone();
        let at = At::resource(&resource.name);
        match type_url {
            LISTENER => {
                let listener = listener::listener(&at, decode(&at, resource)?)?;
                self.listeners.given.insert(name, listener);
            }
            CLUSTER => {
                let cluster = cluster::cluster(&at, decode(&at, resource)?)?;
                self.clusters.insert(name, cluster);
            }
            ROUTE => {
                let table = route::table(&at, decode::<pb::route::v3::RouteConfiguration>(&at, resource)?)?;
                self.routes.insert(name, Arc::new(table));
            }
            ENDPOINT => {
                let endpoints = cluster::load_assignment(&at, decode(&at, resource)?)?;
                self.endpoints.insert(name, endpoints);
            }
            SECRET => {
                let secret = tls::secret(&at, decode::<Secret>(&at, resource)?)?;
                self.listeners.secrets.insert(name, secret);
            }
            other => {
                return Err(Invalid::Unsupported { resource: name, field: format!("type {other}") });
            }
        }
        Ok(())
    }

    /// Names that clusters mention.
    #[must_use]
    pub fn wanted_endpoints(&self) -> BTreeSet<String> {
        let named = self.clusters.values().filter_map(|cluster| match &cluster.endpoints {
            Source::Named(name) => Some(name.clone()),
            Source::Inline(_) => None,
        });
        named.collect()
    }

    /// Names that listeners mention.
    #[must_use]
    pub fn wanted_routes(&self) -> BTreeSet<String> {
        self.listeners.wanted_routes()
    }

    /// Names of the Secrets that are mentioned.
    #[must_use]
    pub fn wanted_secrets(&self) -> BTreeSet<String> {
        self.listeners.wanted_secrets()
    }

    /// Clusters and listeners have come: what they mention is known.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.seen.contains(CLUSTER) && self.seen.contains(LISTENER)
    }

    /// What is still to come before everything mentioned is in force; `None`: nothing.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        for (type_url, what) in [(CLUSTER, "clusters"), (LISTENER, "listeners")] {
            if !self.seen.contains(type_url) {
                return Some(format!("no {what} from mesh-control yet"));
            }
        }
        let answered = |type_url: &str, name: &str| self.absent.contains(&(type_url.to_owned(), name.to_owned()));
        let here = |name: &String| self.endpoints.contains_key(name) || answered(ENDPOINT, name);
        let endpoints = self.wanted_endpoints().into_iter().find(|name| !here(name));
        let here = |name: &String| self.routes.contains_key(name) || answered(ROUTE, name);
        let routes = || self.wanted_routes().into_iter().find(|name| !here(name));
        endpoints
            .map(|name| format!("no endpoints of {name} yet"))
            .or_else(|| routes().map(|name| format!("no routes {name} yet")))
            .or_else(|| {
                let here = |name: &String| self.listeners.secrets.contains_key(name) || answered(SECRET, name);
                self.wanted_secrets().into_iter().find(|name| !here(name)).map(|name| format!("no secret {name} yet"))
            })
    }

    /// Versions in force, by type and name.
    #[must_use]
    pub fn versions(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.versions
    }

    /// The snapshot, in force from `now` on. As in Envoy, a cluster waits for its endpoints and a listener for its routes and certificates.
    pub fn config(&mut self, now: Duration) -> Config {
        self.generation += 1;
        let mut built = HashMap::new();
        for cluster in self.clusters.values() {
            let endpoints = match &cluster.endpoints {
                Source::Inline(endpoints) => endpoints,
                Source::Named(name) => match self.endpoints.get(name) {
                    Some(endpoints) => endpoints,
                    None => continue,
                },
            };
            let before = self.built.get(cluster.name.as_str());
            let entry = match before {
                Some((same, in_force)) if same == cluster && in_force.balancer.members() == endpoints => {
                    (same.clone(), Arc::clone(in_force))
                }
                _ => {
                    let before = before.map(|(_, in_force)| &in_force.balancer);
                    let balancer = Balancer::new(cluster.balance, endpoints.clone(), before, now);
                    (cluster.clone(), Arc::new(build(cluster, balancer)))
                }
            };
            built.insert(Arc::clone(&entry.1.name), entry);
        }
        self.built = built;
        let clusters = self.built.iter().map(|(name, (_, cluster))| (Arc::clone(name), Arc::clone(cluster))).collect();
        let absent = |name: &str| self.absent.contains(&(SECRET.to_owned(), name.to_owned()));
        let all = self.listeners.build(&self.routes, &absent);
        let (inbound, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|listener| listener.inbound);
        let (gateway, listeners): (Vec<_>, Vec<_>) = all.into_iter().partition(|listener| listener.bound);
        let by_address = |all: Vec<Arc<config::Listener>>| all.into_iter().map(|listener| (listener.address, listener)).collect();
        let inbound = inbound.into_iter().next();
        Config { generation: self.generation, listeners: by_address(listeners), gateway: by_address(gateway), inbound, clusters }
    }
}

fn decode<M: Message + Default>(at: &At<'_>, resource: &Resource) -> Result<M, Invalid> {
    M::decode(resource.body.clone()).map_err(|error| at.decode(error))
}

fn build(from: &cluster::Cluster, balancer: Balancer) -> config::Cluster {
    config::Cluster { name: from.name.as_str().into(), service: from.name.parse().ok(), pool: Arc::clone(&from.pool), balancer }
}
