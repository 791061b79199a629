//! Listeners on their way into force. As in Envoy, a listener waits for its routes and certificates, and
//! until it has them the one that it replaces goes on.

use super::secrets::Secrets;
use crate::config::{self, Tls};
use crate::convert::chain::{Chain, Serve};
use crate::convert::hcm::Routes;
use crate::convert::listener::Listener;
use crate::core::route::RouteTable;
use crate::tls::Resolved;
use rustls::ServerConfig;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// See the module.
#[derive(Default)]
pub(super) struct Listeners {
    /// As last delivered.
    pub(super) given: BTreeMap<String, Listener>,
    in_force: BTreeMap<String, Arc<config::Listener>>,
    /// By listener and place of the chain; what did not change keeps its sessions.
    handshakes: HashMap<(String, usize), (Resolved, Arc<ServerConfig>)>,
}

impl Listeners {
    /// Names that listeners mention.
    pub(super) fn wanted_routes(&self) -> BTreeSet<String> {
        let chains = self.given.values().flat_map(Listener::all_chains);
        chains.filter_map(|chain| route_name(chain).map(str::to_owned)).collect()
    }

    /// The same for Secrets.
    pub(super) fn wanted_secrets(&self) -> BTreeSet<String> {
        let tls = self.given.values().flat_map(Listener::all_chains).filter_map(|chain| chain.tls.as_ref());
        tls.flat_map(|tls| tls.secrets()).map(str::to_owned).collect()
    }

    /// What is in force now. Chains of which a Secret is not waited for refuse connections, the others serve.
    pub(super) fn build(&mut self, routes: &BTreeMap<String, Arc<RouteTable>>, secrets: &Secrets) -> Vec<Arc<config::Listener>> {
        let given = std::mem::take(&mut self.given);
        let mut before = std::mem::take(&mut self.handshakes);
        for (name, listener) in &given {
            match self.listener(listener, routes, secrets, &mut before) {
                Some(ready) => drop(self.in_force.insert(name.clone(), Arc::new(ready))),
                // What goes on needs its handshakes no more than it has them.
                None => tracing::debug!(listener = name, "waits for routes or certificates"),
            }
        }
        self.in_force.retain(|name, _| given.contains_key(name));
        self.given = given;
        self.in_force.values().cloned().collect()
    }

    fn listener(
        &mut self,
        from: &Listener,
        routes: &BTreeMap<String, Arc<RouteTable>>,
        secrets: &Secrets,
        before: &mut HashMap<(String, usize), (Resolved, Arc<ServerConfig>)>,
    ) -> Option<config::Listener> {
        let mut ready = Vec::new();
        for (index, chain) in from.all_chains().enumerate() {
            let tls = match &chain.tls {
                None => Tls::None,
                Some(spec) => match Resolved::new(spec, &secrets.here) {
                    Some(resolved) => self.handshake((from.name.clone(), index), resolved, before),
                    None if spec.secrets().all(|name| secrets.is_settled(name)) => Tls::NoSecret,
                    None => return None,
                },
            };
            ready.push(config::Chain { name: chain.name.clone(), tls, serve: serve(chain, routes)? });
        }
        let default = from.default.is_some().then(|| ready.pop()).flatten();
        Some(config::Listener {
            name: from.name.clone(),
            address: from.address,
            bound: from.bound,
            inbound: from.inbound,
            original_source: from.original_source,
            inspect: from.inspect,
            conditions: from.conditions.clone(),
            chains: ready,
            default,
        })
    }

    fn handshake(
        &mut self,
        key: (String, usize),
        resolved: Resolved,
        before: &mut HashMap<(String, usize), (Resolved, Arc<ServerConfig>)>,
    ) -> Tls {
        let server = match before.remove(&key) {
            Some((same, server)) if same.is(&resolved) => server,
            _ => match resolved.server() {
                Ok(server) => server,
                Err(error) => {
                    tracing::error!(listener = key.0, error, "TLS cannot be served");
                    return Tls::NoSecret;
                }
            },
        };
        self.handshakes.insert(key, (resolved, Arc::clone(&server)));
        Tls::Server(server)
    }
}

fn serve(from: &Chain, routes: &BTreeMap<String, Arc<RouteTable>>) -> Option<config::Serve> {
    Some(match &from.serve {
        Serve::Tcp(tcp) => config::Serve::Tcp(Arc::clone(tcp)),
        Serve::Http(http) => config::Serve::Http(config::Http {
            routes: match &http.routes {
                Routes::Inline(table) => Arc::clone(table),
                Routes::Named(name) => Arc::clone(routes.get(name)?),
            },
            options: Arc::clone(&http.options),
        }),
    })
}

fn route_name(chain: &Chain) -> Option<&str> {
    match &chain.serve {
        Serve::Http(http) => match &http.routes {
            Routes::Named(name) => Some(name),
            Routes::Inline(_) => None,
        },
        Serve::Tcp(_) => None,
    }
}
