//! A captured connection without HTTP: to one endpoint, byte by byte, each direction closed on its own.

use crate::config::{Config, Tcp};
use crate::core::balance::Ask;
use crate::core::hash::source_ip;
use crate::pod::Guest;
use crate::telemetry::tcp::Open;
use rand::Rng;
use tokio::net::TcpStream;

/// Serves a connection to its end.
pub async fn serve(guest: Guest, mut stream: TcpStream, config: &Config, tcp: &Tcp) {
    let pod = guest.pod();
    let metrics = &pod.shared.metrics;
    let total: u64 = tcp.targets.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut point = pod.with_rng(|rng| rng.random_range(0..total.max(1)));
    let chosen = tcp.targets.iter().find(|(_, weight)| match point.checked_sub(u64::from(*weight)) {
        Some(rest) => {
            point = rest;
            false
        }
        None => true,
    });
    let Some(cluster) = chosen.and_then(|(name, _)| config.clusters.get(name)) else {
        return metrics.refuse("no_cluster");
    };
    let (Ok(client), Ok(original)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let ask = Ask { hash: tcp.hash_source_ip.then(|| source_ip(client.ip())), original };
    let upstream = pod.upstream(&cluster.name);
    for _ in 0..tcp.connect_attempts {
        let Some(address) = pod.with_rng(|rng| upstream.pick(cluster, &ask, &[], 0, rng)) else {
            return metrics.refuse(mesh_common::reason::Reason::NoBackend.label());
        };
        // Counts the connection at the endpoint while it lasts.
        let Some(_lease) = upstream.occupy(cluster, address) else {
            return metrics.refuse("overflow");
        };
        match upstream.connect_tcp(pod, cluster, address).await {
            Ok(mut server) => {
                let open = Open::new(pod, config, (&cluster.name, address), stream.local_addr().ok(), tcp.access_log.clone());
                let (received, sent) = tokio::io::copy_bidirectional(&mut stream, &mut server).await.unwrap_or_default();
                open.close(received, sent);
                return;
            }
            Err(error) => tracing::debug!(%address, %error, "endpoint refused"),
        }
    }
    metrics.refuse("upstream_connect");
}
