//! What the control plane has sent, and the snapshot that follows from it. Pure: deliveries in, configuration and complaints out.

use crate::config::{self, Config};
use crate::convert::at::{At, Invalid};
use crate::convert::cluster::{self, Source};
use crate::convert::hcm::Routes;
use crate::convert::listener::{self, Serve};
use crate::convert::route;
use crate::core::balance::{Balancer, Members};
use crate::core::route::RouteTable;
use envoy_types::pb::envoy::config as pb;
use mesh_xds::client::{Delivery, Resource};
use mesh_xds::names::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The last good version of every resource.
#[derive(Default)]
pub struct State {
    listeners: BTreeMap<String, listener::Listener>,
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
                LISTENER => drop(self.listeners.remove(name)),
                CLUSTER => drop(self.clusters.remove(name)),
                ROUTE => drop(self.routes.remove(name)),
                // As Envoy: endpoints go with their cluster. Without this a removal before the cluster's would fail requests.
                _ => {}
            }
            if let Some(versions) = self.versions.get_mut(&delivery.type_url) {
                versions.remove(name);
            }
        }
        self.seen.insert(delivery.type_url.clone());
        let (endpoints, routes) = (self.wanted_endpoints(), self.wanted_routes());
        self.endpoints.retain(|name, _| endpoints.contains(name));
        self.routes.retain(|name, _| routes.contains(name));
        self.absent.retain(|(type_url, name)| match type_url.as_str() {
            ENDPOINT => endpoints.contains(name),
            ROUTE => routes.contains(name),
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
                self.listeners.insert(name, listener);
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
        self.listeners.values().filter_map(|listener| route_name(listener).map(str::to_owned)).collect()
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
    }

    /// Versions in force, by type and name.
    #[must_use]
    pub fn versions(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.versions
    }

    /// The snapshot, in force from `now` on. As in Envoy, a cluster waits for its endpoints and a listener for its routes.
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
        let listeners = self.listeners.values().filter_map(|listener| self.listener(listener));
        let listeners = listeners.map(|listener| (listener.address, Arc::new(listener))).collect();
        Config { generation: self.generation, listeners, clusters }
    }

    fn listener(&self, from: &listener::Listener) -> Option<config::Listener> {
        let serve = match &from.serve {
            Serve::Tcp(tcp) => config::Serve::Tcp(tcp.clone()),
            Serve::Http(http) => config::Serve::Http(config::Http {
                routes: match &http.routes {
                    Routes::Inline(table) => Arc::clone(table),
                    Routes::Named(name) => Arc::clone(self.routes.get(name)?),
                },
                options: Arc::clone(&http.options),
            }),
        };
        Some(config::Listener { name: from.name.clone(), address: from.address, serve })
    }
}

fn decode<M: Message + Default>(at: &At<'_>, resource: &Resource) -> Result<M, Invalid> {
    M::decode(resource.body.clone()).map_err(|error| at.decode(error))
}

fn route_name(listener: &listener::Listener) -> Option<&str> {
    match &listener.serve {
        Serve::Http(http) => match &http.routes {
            Routes::Named(name) => Some(name),
            Routes::Inline(_) => None,
        },
        Serve::Tcp(_) => None,
    }
}

fn build(from: &cluster::Cluster, balancer: Balancer) -> config::Cluster {
    config::Cluster { name: from.name.as_str().into(), service: from.name.parse().ok(), pool: Arc::clone(&from.pool), balancer }
}
