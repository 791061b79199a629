//! A connection without HTTP: to one endpoint, byte by byte, each direction closed on its own.

mod copy;

use crate::config::{Config, Inbound, Tcp};
use crate::core::balance::Ask;
use crate::core::flags::Flags;
use crate::core::hash::source_ip;
use crate::pod::{ConnectError, Guest, Pod};
use crate::stream::Stream;
use crate::telemetry::tcp::Open;
use copy::{Ended, copy};
use rand::Rng;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Instant};

/// What became of a connection.
struct Record<'p> {
    /// Counted as open, once it is connected.
    open: Option<Open<'p>>,
    /// The endpoint that was tried last.
    upstream: Option<SocketAddr>,
    /// Bytes from the client.
    received: u64,
    /// Bytes to the client.
    sent: u64,
    /// Envoy's flags.
    flags: Flags,
    /// Why it ended.
    ended: &'static str,
}

/// Serves a connection to its end.
pub async fn serve(guest: Guest, stream: Stream, config: Arc<Config>, tcp: &Tcp, inbound: &Inbound) {
    let pod = guest.pod();
    let mut record = Record { open: None, upstream: None, received: 0, sent: 0, flags: Flags::default(), ended: "no_cluster" };
    let until = tcp.longest.map(|longest| Instant::now() + longest);
    let through = through(pod, stream, config, (tcp, inbound), &mut record);
    let in_time = match until {
        Some(until) => tokio::time::timeout_at(until, through).await.is_ok(),
        None => {
            through.await;
            true
        }
    };
    if !in_time {
        record.ended = "max_duration";
    }
    finish(pod, inbound, record);
}

async fn through<'p>(
    pod: &'p Rc<Pod>,
    mut stream: Stream,
    config: Arc<Config>,
    (tcp, inbound): (&Tcp, &Inbound),
    record: &mut Record<'p>,
) {
    let name = choose(pod, tcp);
    let Some(cluster) = config.clusters.get(name).cloned() else { return record.flags.set(Flags::NO_CLUSTER) };
    let ask = Ask { hash: tcp.hash_source_ip.then(|| source_ip(inbound.source.ip())), original: inbound.destination };
    let upstream = pod.upstream(&cluster.name);
    let client = inbound.listener(&config).filter(|listener| listener.original_source).map(|_| inbound.source);
    record.ended = "upstream_connect";
    for _ in 0..tcp.connect_attempts {
        let Some(address) = pod.with_rng(|rng| upstream.pick(&cluster, &ask, &[], 0, rng)) else {
            record.flags.set(Flags::NO_HEALTHY);
            record.ended = mesh_common::reason::Reason::NoBackend.label();
            return;
        };
        record.upstream = Some(address);
        // Counts the connection at the endpoint while it lasts.
        let Some(_lease) = upstream.occupy(&cluster, address) else {
            record.flags.set(Flags::OVERFLOW);
            record.ended = "overflow";
            return;
        };
        match upstream.connect_tcp(pod, &cluster, (client, address)).await {
            Ok(mut server) => {
                let log = tcp.access_log.clone();
                record.open = Some(Open::new(pod, &config, (&cluster.name, address), inbound, log));
                record.flags = Flags::default();
                // A snapshot is not kept for as long as a connection may last.
                drop((config, cluster));
                return carry(&mut stream, &mut server, tcp.idle_timeout, record).await;
            }
            Err(error) => {
                record.flags.set(Flags::CONNECT_FAILURE);
                record.ended = if matches!(error, ConnectError::NoSecret) { "no_secret" } else { "upstream_connect" };
                tracing::debug!(%address, %error, "endpoint refused");
            }
        }
    }
    record.flags.set(Flags::RETRIES_EXHAUSTED);
}

/// The cluster that the weights choose.
fn choose<'t>(pod: &Pod, tcp: &'t Tcp) -> &'t str {
    let total: u64 = tcp.targets.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut point = pod.with_rng(|rng| rng.random_range(0..total.max(1)));
    let chosen = tcp.targets.iter().find(|(_, weight)| match point.checked_sub(u64::from(*weight)) {
        Some(rest) => {
            point = rest;
            false
        }
        None => true,
    });
    chosen.map_or("", |(name, _)| name)
}

async fn carry<S>(client: &mut Stream, server: &mut S, idle: Option<Duration>, record: &mut Record<'_>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    record.ended = match copy(client, server, idle, (&mut record.received, &mut record.sent)).await {
        Ended::Closed => "closed",
        Ended::Idle => "idle_timeout",
        Ended::Failed(error) => {
            tracing::debug!(%error, "a connection was cut");
            "reset"
        }
    };
}

fn finish(pod: &Pod, inbound: &Inbound, record: Record<'_>) {
    let Record { open, upstream, received, sent, flags, ended } = record;
    tracing::debug!(source = %inbound.source, destination = %inbound.destination, sni = inbound.hello.server_name, ended, "connection ended");
    match open {
        Some(open) => open.close(received, sent),
        None => {
            pod.shared.metrics.refuse(ended);
            let (workload, upstream) = (pod.workload(), upstream.map(tracing::field::display));
            tracing::info!(target: "access", pod = workload.id, destination = %inbound.destination, upstream, %flags, ended, "not connected");
        }
    }
}
