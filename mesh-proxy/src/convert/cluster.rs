//! Cluster. The parts of it are read in modules of their own; what none of them takes out is refused here.

mod balance;
mod endpoints;
mod limits;
mod protocol;

use super::at::{At, Invalid};
use super::common::{duration, over_ads, unpack};
use crate::core::balance::{Members, Policy, Settings};
pub use endpoints::load_assignment;
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use protocol::{HTTP_OPTIONS, IDLE_TIMEOUT};
use std::mem::take;
use std::time::Duration;

/// Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A cluster without its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Where its endpoints are.
    pub endpoints: Source,
    /// How one of them is chosen.
    pub balance: Settings,
    /// See [`crate::config::Cluster`].
    pub connect_timeout: Duration,
    /// See [`crate::config::Cluster`].
    pub idle_timeout: Option<Duration>,
    /// See [`crate::config::Cluster`].
    pub max_requests_per_connection: Option<u32>,
    /// See [`crate::config::Cluster`].
    pub max_requests: Option<u32>,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// From the ClusterLoadAssignment of this name.
    Named(String),
    /// From the cluster itself.
    Inline(Members),
}

/// Reads a cluster.
///
/// # Errors
/// Names the field that is not taken.
pub fn cluster(at: &At<'_>, mut message: pb::Cluster) -> Result<Cluster, Invalid> {
    let name = take(&mut message.name);
    // For the eyes of operators and statistics only.
    message.alt_stat_name.clear();
    message.metadata = None;
    let balance = balance::settings(at, &mut message)?;
    let endpoints = source(at, &name, balance.policy, &mut message)?;
    let timeout = message.connect_timeout.take().map(|timeout| duration(&at.field("connect_timeout"), &timeout));
    let connect_timeout = timeout.transpose()?.filter(|timeout| !timeout.is_zero()).unwrap_or(CONNECT_TIMEOUT);
    let max_requests = limits::breakers(&at.field("circuit_breakers"), message.circuit_breakers.take())?;
    let (mut idle_timeout, mut max_requests_per_connection) = (Some(IDLE_TIMEOUT), None);
    for (kind, any) in take(&mut message.typed_extension_protocol_options) {
        let at = at.field("typed_extension_protocol_options");
        let at = at.field(&kind);
        (idle_timeout, max_requests_per_connection) = protocol::http_options(&at, unpack(&at, &any, HTTP_OPTIONS)?)?;
    }
    at.nothing_else(&message)?;
    Ok(Cluster { name, endpoints, balance, connect_timeout, idle_timeout, max_requests_per_connection, max_requests })
}

fn source(at: &At<'_>, name: &str, policy: Policy, message: &mut pb::Cluster) -> Result<Source, Invalid> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match message.cluster_discovery_type.take() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).map_err(|_unknown| at.field("type").value(kind))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => return Err(at.field("cluster_type").unsupported()),
    };
    if (kind == DiscoveryType::OriginalDst) != (policy == Policy::OriginalDestination) {
        return Err(at.field("lb_policy").value("CLUSTER_PROVIDED goes with type ORIGINAL_DST, and only with it"));
    }
    match kind {
        DiscoveryType::Eds => {
            let at = at.field("eds_cluster_config");
            let mut config = at.required(message.eds_cluster_config.take())?;
            over_ads(&at.field("eds_config"), config.eds_config.take())?;
            let service = take(&mut config.service_name);
            Ok(Source::Named(if service.is_empty() { name.to_owned() } else { service }))
        }
        DiscoveryType::Static => {
            let at = at.field("load_assignment");
            Ok(Source::Inline(load_assignment(&at, message.load_assignment.take().unwrap_or_default())?))
        }
        DiscoveryType::OriginalDst => {
            // How long hosts are remembered that nobody asks for. None are remembered here.
            message.cleanup_interval = None;
            Ok(Source::Inline(Members::default()))
        }
        other => {
            let other = other.as_str_name();
            Err(at.field("type").value(format_args!("{other} is not supported; EDS, STATIC and ORIGINAL_DST are")))
        }
    }
}
