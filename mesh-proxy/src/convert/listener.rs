//! Listener, with HttpConnectionManager or TcpProxy in its only filter chain.

use super::access_log::access_log;
use super::at::{At, Invalid};
use super::common::{address, unpack};
use super::hcm::{self, Http};
use crate::config::Tcp;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use std::mem::take;
use std::net::SocketAddr;
use std::sync::Arc;

const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// A listener whose route table may still be elsewhere.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Of the original destination.
    pub address: SocketAddr,
    /// How its connections are served.
    pub serve: Serve,
}

/// How connections are served.
#[derive(Clone, Debug)]
pub enum Serve {
    /// As HTTP.
    Http(Box<Http>),
    /// As TCP.
    Tcp(Tcp),
}

/// Reads a listener.
///
/// # Errors
/// Names the field that is not taken.
pub fn listener(at: &At<'_>, mut message: pb::Listener) -> Result<Listener, Invalid> {
    let name = take(&mut message.name);
    let address = address(at, message.address.take())?;
    // What the sockets are is the agent's to decide; statistics and metadata change no decision.
    message.stat_prefix.clear();
    message.metadata = None;
    message.traffic_direction = 0;
    message.bind_to_port = None;
    message.transparent = None;
    let chains = at.field("filter_chains");
    let [mut chain] = <[pb::FilterChain; 1]>::try_from(take(&mut message.filter_chains))
        .map_err(|chains_| chains.value(format_args!("{} chains; exactly one is supported", chains_.len())))?;
    at.nothing_else(&message)?;
    let at = chains.index(0);
    chain.name.clear();
    chain.metadata = None;
    if let Some(condition) = chain.filter_chain_match.take() {
        at.field("filter_chain_match").nothing_else(&condition)?;
    }
    let filters = at.field("filters");
    let [filter] = <[pb::Filter; 1]>::try_from(take(&mut chain.filters))
        .map_err(|given| filters.value(format_args!("{} filters; exactly one is supported", given.len())))?;
    at.nothing_else(&chain)?;
    let at = filters.index(0);
    let Some(pb::filter::ConfigType::TypedConfig(any)) = filter.config_type else {
        return Err(at.field("typed_config").missing());
    };
    let at = at.field("typed_config");
    let serve = match any.type_url.rsplit('/').next() {
        Some(TCP_PROXY) => Serve::Tcp(tcp_proxy(&at, unpack(&at, &any, TCP_PROXY)?)?),
        _ => Serve::Http(Box::new(hcm::connection_manager(&at, &any)?)),
    };
    Ok(Listener { name, address, serve })
}

fn tcp_proxy(at: &At<'_>, mut message: tcp::TcpProxy) -> Result<Tcp, Invalid> {
    use tcp::tcp_proxy::ClusterSpecifier as Spec;
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
    let hash_source_ip = super::hash::of_connection(&at.field("hash_policy"), take(&mut message.hash_policy))?;
    let connect_attempts = message.max_connect_attempts.take().map_or(1, |attempts| attempts.value.max(1));
    let access_log = access_log(&at.field("access_log"), take(&mut message.access_log))?;
    at.nothing_else(&message)?;
    Ok(Tcp { targets, connect_attempts, hash_source_ip, access_log })
}
