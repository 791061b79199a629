//! Cluster. The parts of it are read in modules of their own; what none of them takes out is refused here.

mod balance;
mod endpoints;
mod limits;
mod outlier;
mod protocol;
mod tls;

use super::at::{At, Invalid};
use super::common::{duration, over_ads, unpack};
use crate::config::{PoolSettings, Protocol};
use crate::core::balance::{Members, Policy, Settings};
use crate::upstream_tls::Sds;
pub use endpoints::load_assignment;
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use protocol::HTTP_OPTIONS;
use std::mem::take;
use std::sync::Arc;

/// A cluster without its endpoints and Secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Where its endpoints are.
    pub endpoints: Source,
    /// How one of them is chosen.
    pub balance: Settings,
    /// See [`crate::config::Cluster`]. As long as Secrets are missing nothing is dialled.
    pub pool: Arc<PoolSettings>,
    /// TLS that Secrets complete.
    pub sds: Option<Arc<Sds>>,
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
    let (pool, sds) = pool(at, &mut message)?;
    at.nothing_else(&message)?;
    Ok(Cluster { name, endpoints, balance, pool: Arc::new(pool), sds: sds.map(Arc::new) })
}

/// Everything about connections.
fn pool(at: &At<'_>, message: &mut pb::Cluster) -> Result<(PoolSettings, Option<Sds>), Invalid> {
    let (mut pool, mut sds) = (PoolSettings::default(), None);
    if let Some(timeout) = message.connect_timeout.take() {
        let timeout = duration(&at.field("connect_timeout"), &timeout)?;
        // As Envoy, which waits for ever nowhere.
        pool.connect_timeout = if timeout.is_zero() { pool.connect_timeout } else { timeout };
    }
    pool.limits = limits::breakers(&at.field("circuit_breakers"), message.circuit_breakers.take())?;
    let options = message.upstream_connection_options.take();
    pool.keepalive = protocol::keepalive(&at.field("upstream_connection_options"), options)?;
    let outlier = message.outlier_detection.take().map(|it| outlier::settings(&at.field("outlier_detection"), it));
    pool.outlier = outlier.transpose()?.map(Arc::new);
    let mut names = tls::Names::default();
    let options = at.field("typed_extension_protocol_options");
    for (kind, any) in take(&mut message.typed_extension_protocol_options) {
        let at = options.field(&kind);
        names = protocol::http_options(&at, unpack(&at, &any, HTTP_OPTIONS)?, &mut pool)?;
    }
    if let Some(socket) = message.transport_socket.take() {
        let tls = match tls::transport_socket(&at.field("transport_socket"), socket, names)? {
            None => None,
            Some(tls::Tls::Ready(tls)) => Some(tls),
            Some(tls::Tls::Sds(given)) => Some(sds.insert(given).incomplete()),
        };
        pool.tls = tls.map(Arc::new);
    }
    if pool.protocol == Protocol::Negotiated && pool.tls.is_none() {
        return Err(options.field(HTTP_OPTIONS).field("auto_config").value("needs TLS, which negotiates"));
    }
    Ok((pool, sds))
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
