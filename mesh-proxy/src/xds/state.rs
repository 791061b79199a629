//! What the control plane has sent, and the snapshot that follows from it. Pure: deliveries in, configuration and complaints out.

use super::clusters::Clusters;
use super::listeners::Listeners;
use super::secrets::Secrets;
use crate::config::{self, Config};
use crate::convert::at::{At, Invalid};
use crate::convert::{cluster, listener, route, tls};
use crate::core::balance::Members;
use crate::core::route::RouteTable;
use envoy_types::pb::envoy::config as pb;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use mesh_xds::client::{Delivery, Resource};
use mesh_xds::names::{CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The last good version of every resource.
#[derive(Default)]
pub struct State {
    listeners: Listeners,
    routes: BTreeMap<String, Arc<RouteTable>>,
    clusters: Clusters,
    secrets: Secrets,
    endpoints: BTreeMap<String, Members>,
    versions: BTreeMap<String, BTreeMap<String, String>>,
    /// Type and name of what was answered with nothing that can be taken, and has no last good version: it is not waited for.
    absent: BTreeSet<(String, String)>,
    /// Types of which at least one delivery has come.
    seen: BTreeSet<String>,
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
                    self.nothing_usable(&delivery.type_url, &resource.name);
                    complaints.push(invalid);
                }
            }
        }
        for name in &delivery.removed {
            self.nothing_usable(&delivery.type_url, name);
            match delivery.type_url.as_str() {
                LISTENER => drop(self.listeners.given.remove(name)),
                CLUSTER => drop(self.clusters.given.remove(name)),
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
        self.secrets.keep(&secrets);
        self.routes.retain(|name, _| routes.contains(name));
        self.absent.retain(|(type_url, name)| match type_url.as_str() {
            ENDPOINT => endpoints.contains(name),
            ROUTE => routes.contains(name),
            _ => false,
        });
        complaints
    }

    /// It is not waited for.
    fn nothing_usable(&mut self, type_url: &str, name: &str) {
        match type_url {
            SECRET => drop(self.secrets.absent.insert(name.to_owned())),
            _ => drop(self.absent.insert((type_url.to_owned(), name.to_owned()))),
        }
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
                self.clusters.given.insert(name, cluster);
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
                self.secrets.put(name, secret);
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
        self.clusters.wanted_endpoints()
    }

    /// Names that listeners mention.
    #[must_use]
    pub fn wanted_routes(&self) -> BTreeSet<String> {
        self.listeners.wanted_routes()
    }

    /// Names of the Secrets that are mentioned.
    #[must_use]
    pub fn wanted_secrets(&self) -> BTreeSet<String> {
        let mut wanted = self.listeners.wanted_secrets();
        wanted.extend(self.clusters.wanted_secrets().map(str::to_owned));
        wanted
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
                self.wanted_secrets()
                    .into_iter()
                    .find(|name| !self.secrets.is_settled(name))
                    .map(|name| format!("no secret {name} yet"))
            })
    }

    /// Versions in force, by type and name.
    #[must_use]
    pub fn versions(&self) -> &BTreeMap<String, BTreeMap<String, String>> {
        &self.versions
    }

    /// The snapshot, in force from `now` on. As in Envoy, a cluster waits for its endpoints and Secrets, and a listener for its routes and
    /// Secrets.
    pub fn config(&mut self, now: Duration) -> Config {
        self.generation += 1;
        let clusters = self.clusters.build(&self.endpoints, &self.secrets, now);
        let all = self.listeners.build(&self.routes, &self.secrets);
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
