//! From a request to the one route that decides its fate: virtual host by name, then the first route that matches.

mod host;
mod paths;
#[cfg(test)]
mod tests;

use super::cors::Cors;
use super::fault::{Fault, PerMillion};
use super::hash::HashPolicy;
use super::headers::HeaderOps;
use super::matching::{HeaderMatch, QueryMatch, RequestView, StringMatch};
use super::retry::RetryPolicy;
use super::rewrite::{HostRewrite, PathRewrite, Redirect};
use super::timeouts::Timeouts;
use bytes::Bytes;
pub use host::{DuplicateDomain, Ports};
use http::{HeaderValue, StatusCode};
use paths::Paths;
use rand::{Rng, RngCore};
use std::sync::Arc;
use std::time::Duration;

/// All virtual hosts of a RouteConfiguration.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Its name.
    pub name: String,
    hosts: host::Index,
    virtual_hosts: Vec<VirtualHost>,
    /// Of each virtual host with more than a few routes.
    paths: Vec<Option<Paths>>,
    /// A virtual host wants TLS.
    any_tls: bool,
}

/// A host and its routes.
#[derive(Debug)]
pub struct VirtualHost {
    /// For logs.
    pub name: String,
    /// `exact`, `*suffix`, `prefix*` or `*`, in lower case.
    pub domains: Vec<String>,
    /// In order.
    pub routes: Vec<Route>,
    /// The upstream sees the number of the attempt.
    pub attempt_count: bool,
    /// Requests that are not `https` are sent there.
    pub require_tls: bool,
}

/// A rule: when, and what then.
#[derive(Debug)]
pub struct Route {
    /// For logs.
    pub name: Arc<str>,
    /// When.
    pub when: When,
    /// What.
    pub action: Action,
    /// Injected before the action, unless the cluster chosen has its own.
    pub fault: Option<Fault>,
    /// For cross-origin requests, unless the cluster chosen has its own.
    pub cors: Option<Cors>,
    /// Changes of a response that no cluster gives, in order.
    pub response: Vec<Arc<HeaderOps>>,
}

/// The conditions of a route; all must hold.
#[derive(Debug)]
pub struct When {
    /// On the path, without the query.
    pub path: PathMatch,
    /// On headers.
    pub headers: Vec<HeaderMatch>,
    /// On query parameters.
    pub query: Vec<QueryMatch>,
    /// On the labels of the pod that asks: one proxy serves many pods, so these cannot be resolved by the control plane.
    pub source_labels: Vec<(String, String)>,
    /// On its namespace.
    pub source_namespaces: Vec<String>,
    /// The share of requests that it takes.
    pub share: Option<PerMillion>,
}

/// A condition on the path.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// A plain string condition: prefix, exact or regex.
    String(StringMatch),
    /// A prefix that ends where the path ends or at a slash; true: ASCII case is ignored.
    Segments(String, bool),
    /// Any CONNECT request, and nothing else.
    Connect,
}

/// What becomes of the request.
#[derive(Debug)]
pub enum Action {
    /// It is sent to a cluster.
    Forward(Box<Forward>),
    /// It is answered with another address.
    Redirect(Redirect),
    /// It is answered here.
    Respond(StatusCode, Bytes),
}

/// How a request is sent on.
#[derive(Debug)]
pub struct Forward {
    /// To one of these; never empty.
    pub targets: Vec<Target>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Nothing may pass in either direction for this long; `None`: the listener's.
    pub idle_timeout: Option<Option<Duration>>,
    /// When to try again; `None`: never.
    pub retry: Option<RetryPolicy>,
    /// Another path.
    pub path: Option<PathRewrite>,
    /// Another host.
    pub host: Option<HostRewrite>,
    /// `x-forwarded-host` gets the host that was rewritten.
    pub append_forwarded_host: bool,
    /// What the balancer's hash is made of.
    pub hash: Vec<HashPolicy>,
    /// Copies go there too.
    pub mirrors: Vec<Mirror>,
    /// Upgrades that may pass or not, whatever the listener says. In lower case.
    pub upgrades: Vec<(String, bool)>,
    /// A CONNECT request ends here: its payload goes over TCP.
    pub connect: bool,
}

/// A cluster and its share.
#[derive(Debug)]
pub struct Target {
    /// Its name; the cluster need not exist.
    pub cluster: Arc<str>,
    /// Relative to the sum.
    pub weight: u32,
    /// Another host, unless the route has one.
    pub host: Option<HeaderValue>,
    /// Injected instead of the route's.
    pub fault: Option<Fault>,
    /// Instead of the route's.
    pub cors: Option<Cors>,
    /// Changes of the request by all levels, in order.
    pub request: Vec<Arc<HeaderOps>>,
    /// Changes of the response by all levels, in order.
    pub response: Vec<Arc<HeaderOps>>,
}

/// A cluster that gets copies of requests.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Its name; the cluster need not exist.
    pub cluster: Arc<str>,
    /// The share of requests that is copied.
    pub share: PerMillion,
    /// The host is marked by `-shadow`.
    pub suffix: bool,
    /// Another host.
    pub host: Option<HeaderValue>,
}

impl RouteTable {
    /// Builds a table.
    ///
    /// # Errors
    /// If a domain occurs twice.
    pub fn new(name: String, virtual_hosts: Vec<VirtualHost>, ports: Ports) -> Result<Self, DuplicateDomain> {
        let hosts = host::Index::new(virtual_hosts.iter().map(|host| host.domains.as_slice()), ports)?;
        let paths = virtual_hosts.iter().map(|host| Paths::new(host.routes.iter().map(|route| &route.when.path))).collect();
        let any_tls = virtual_hosts.iter().any(|host| host.require_tls);
        Ok(Self { name, hosts, virtual_hosts, paths, any_tls })
    }

    /// The route for a request; `None`: 404. `labels` are those of the pod that asks; `dice` is one throw for all routes, as in Envoy.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>, labels: &dyn Labels, dice: u64) -> Option<(&VirtualHost, &Route)> {
        let position = self.hosts.find(request.authority)?;
        let host = &self.virtual_hosts[position];
        let holds = |route: &Route| route.when.holds(request, labels, dice);
        let found = self.paths[position].as_ref().map(|paths| paths.first(request.path, |at| holds(&host.routes[at])));
        let route = match found {
            Some(Ok(found)) => found.map(|at| &host.routes[at]),
            // Few, or nested too deeply.
            None | Some(Err(())) => host.routes.iter().find(|route| holds(route)),
        };
        Some((host, route?))
    }

    /// Where a request must go instead, before any route is looked at, because its virtual host wants TLS.
    #[must_use]
    pub fn to_tls(&self, request: &RequestView<'_>) -> Option<String> {
        if !self.any_tls {
            return None;
        }
        let host = &self.virtual_hosts[self.hosts.find(request.authority)?];
        let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
        let insecure = host.require_tls && request.scheme != "https";
        insecure.then(|| format!("https://{}{}{query}", request.authority, request.path))
    }

    /// For `/config_dump`.
    #[must_use]
    pub fn virtual_hosts(&self) -> &[VirtualHost] {
        &self.virtual_hosts
    }
}

/// The labels of a workload.
pub trait Labels {
    /// The value of a label.
    fn label(&self, name: &str) -> Option<&str>;

    /// Istio's namespace of the workload.
    fn namespace(&self) -> &str {
        self.label("istio.io/namespace").unwrap_or("default")
    }
}

impl Labels for std::collections::BTreeMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl When {
    fn holds(&self, request: &RequestView<'_>, labels: &dyn Labels, dice: u64) -> bool {
        let connect = matches!(self.path, PathMatch::Connect);
        // The target of a CONNECT is no path: no other condition on paths holds for it.
        connect == (request.method == "CONNECT")
            && (connect || self.path.matches(request.path))
            && self.share.is_none_or(|share| share.takes(dice))
            && self.headers.iter().all(|header| header.matches(request))
            && self.query.iter().all(|query| query.matches(request.query))
            && self.source_labels.iter().all(|(name, value)| labels.label(name) == Some(value))
            && self.source_namespaces.iter().all(|namespace| labels.namespace() == namespace)
    }
}

impl PathMatch {
    /// Decides.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::String(test) => test.matches(path),
            Self::Segments(prefix, fold) => {
                let same = |head: &str| if *fold { head.eq_ignore_ascii_case(prefix) } else { head == prefix };
                path.split_at_checked(prefix.len())
                    .is_some_and(|(head, rest)| same(head) && (rest.is_empty() || rest.starts_with('/')))
            }
            Self::Connect => false,
        }
    }

    /// How much of a matching path a prefix rewrite replaces.
    #[must_use]
    pub fn matched(&self, path: &str) -> usize {
        use super::matching::Pattern;
        match self {
            Self::String(StringMatch { pattern: Pattern::Prefix(prefix), .. }) | Self::Segments(prefix, _) => prefix.len(),
            Self::String(_) | Self::Connect => path.len(),
        }
    }
}

impl Forward {
    /// Throws the dice over the weights.
    pub fn choose(&self, rng: &mut dyn RngCore) -> &Target {
        if let [only] = self.targets.as_slice() {
            return only;
        }
        let total: u64 = self.targets.iter().map(|target| u64::from(target.weight)).sum();
        let mut point = rng.random_range(0..total.max(1));
        for target in &self.targets {
            match point.checked_sub(u64::from(target.weight)) {
                Some(rest) => point = rest,
                None => return target,
            }
        }
        // Only if all weights are 0, which conversion refuses.
        &self.targets[0]
    }
}
