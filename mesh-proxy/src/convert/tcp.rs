//! TcpProxy.

use super::access_log::access_log;
use super::at::{At, Invalid};
use super::common::{duration, limit};
use super::hash;
use crate::config::Tcp;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

pub(super) const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

pub(super) fn tcp_proxy(at: &At<'_>, mut message: pb::TcpProxy) -> Result<Tcp, Invalid> {
    use pb::tcp_proxy::ClusterSpecifier as Spec;
    message.stat_prefix.clear();
    let mut targets = Vec::new();
    match at.field("cluster").required(message.cluster_specifier.take())? {
        Spec::Cluster(name) => targets.push((Arc::from(name), 1)),
        Spec::WeightedClusters(mut weighted) => {
            let at = at.field("weighted_clusters");
            for (index, mut cluster) in take(&mut weighted.clusters).into_iter().enumerate() {
                targets.push((Arc::from(take(&mut cluster.name)), take(&mut cluster.weight)));
                at.field("clusters").index(index).nothing_else(&cluster)?;
            }
            if targets.iter().all(|(_, weight)| *weight == 0) {
                return Err(at.value("the weights add up to 0"));
            }
        }
    }
    let connect_attempts = message.max_connect_attempts.take().map_or(1, |attempts| attempts.value.max(1));
    let idle_timeout = limit(&at.field("idle_timeout"), message.idle_timeout.take(), Some(IDLE_TIMEOUT))?;
    let longest = message.max_downstream_connection_duration.take();
    let at_longest = at.field("max_downstream_connection_duration");
    let longest = longest.map(|longest| duration(&at_longest, &longest)).transpose()?;
    let hash_source_ip = hash::of_connection(&at.field("hash_policy"), take(&mut message.hash_policy))?;
    let access_log = access_log(&at.field("access_log"), take(&mut message.access_log))?;
    at.nothing_else(&message)?;
    Ok(Tcp { targets, connect_attempts, idle_timeout, longest, hash_source_ip, access_log })
}
