//! From a request to the one route that decides its fate: virtual host by name, then the first route that matches.

mod host;
#[cfg(test)]
mod tests;

use super::fault::Fault;
use super::hash::HashPolicy;
use super::headers::HeaderOps;
use super::matching::{HeaderMatch, QueryMatch, RequestView, StringMatch};
use super::retry::RetryPolicy;
use super::rewrite::{PathRewrite, Redirect};
use bytes::Bytes;
pub use host::DuplicateDomain;
use http::{HeaderValue, StatusCode};
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
    /// Changes of the request, in order: route, virtual host, table.
    pub request: Vec<Arc<HeaderOps>>,
    /// Changes of the response, in the same order.
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
}

/// A condition on the path.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// A plain string condition: prefix, exact or regex.
    String(StringMatch),
    /// A prefix that ends where the path ends or at a slash.
    Segments(String),
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
    /// For the whole request; `None`: as long as it takes.
    pub timeout: Option<Duration>,
    /// When to try again; `None`: never.
    pub retry: Option<RetryPolicy>,
    /// Another path.
    pub path: Option<PathRewrite>,
    /// Another host.
    pub host: Option<HeaderValue>,
    /// What the balancer's hash is made of.
    pub hash: Vec<HashPolicy>,
}

/// A cluster and its share.
#[derive(Debug)]
pub struct Target {
    /// Its name; the cluster need not exist.
    pub cluster: Arc<str>,
    /// Relative to the sum.
    pub weight: u32,
    /// Injected instead of the route's.
    pub fault: Option<Fault>,
    /// Changes of the request, before the route's.
    pub request: Option<Arc<HeaderOps>>,
    /// Changes of the response, before the route's.
    pub response: Option<Arc<HeaderOps>>,
}

impl RouteTable {
    /// Builds a table.
    ///
    /// # Errors
    /// If a domain occurs twice.
    pub fn new(name: String, virtual_hosts: Vec<VirtualHost>) -> Result<Self, DuplicateDomain> {
        let hosts = host::Index::new(virtual_hosts.iter().map(|host| host.domains.as_slice()))?;
        Ok(Self { name, hosts, virtual_hosts })
    }

    /// The route for a request; `None`: 404. `labels` are those of the pod that asks.
    #[must_use]
    pub fn find(&self, request: &RequestView<'_>, labels: &dyn Labels) -> Option<(&VirtualHost, &Route)> {
        let host = &self.virtual_hosts[self.hosts.find(request.authority)?];
        let route = host.routes.iter().find(|route| route.when.holds(request, labels))?;
        Some((host, route))
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
}

impl Labels for std::collections::BTreeMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl When {
    fn holds(&self, request: &RequestView<'_>, labels: &dyn Labels) -> bool {
        self.path.matches(request.path)
            && self.headers.iter().all(|header| header.matches(request))
            && self.query.iter().all(|query| query.matches(request.query))
            && self.source_labels.iter().all(|(name, value)| labels.label(name) == Some(value))
    }
}

impl PathMatch {
    /// Decides.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::String(test) => test.matches(path),
            Self::Segments(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// How much of a matching path a prefix rewrite replaces.
    #[must_use]
    pub fn matched(&self, path: &str) -> usize {
        use super::matching::Pattern;
        match self {
            Self::String(StringMatch { pattern: Pattern::Prefix(prefix), .. }) | Self::Segments(prefix) => prefix.len(),
            Self::String(_) => path.len(),
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
