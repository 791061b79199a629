//! Wires the parts: Marathon and the rules flow into one loop that compiles, and out to the nodes.

mod follow;
#[cfg(test)]
mod tests;

use crate::admin::{self, Admin, World};
use crate::api::{self, ApiArgs};
use crate::auth::Tokens;
use crate::backup::database;
use crate::config::ServeArgs;
use crate::core::allot::Allotment;
use crate::core::compile::{self, Abilities, Compiled, Settings, Telemetry};
use crate::core::health::Known;
use crate::core::mesos::places;
use crate::core::names::cluster_zone;
use crate::core::translate::translate;
use crate::marathon::auth::Auth;
use crate::marathon::client::{Client, no_tls};
use crate::marathon::{Views, gather};
use crate::metrics::Metrics;
use crate::serve::Publisher;
use crate::store::Store;
use crate::{mesos, programmed};
use anyhow::{Context, Result};
use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Runs the control plane until a signal ends it or a part of it fails.
pub(crate) async fn serve(args: ServeArgs) -> Result<()> {
    let tls = api::load_tls(&args.tls_cert, &args.tls_key)?;
    let tokens = Tokens::load(&args.token_file)?;
    std::fs::create_dir_all(&args.state).with_context(|| format!("cannot make --state {}", args.state.display()))?;
    let store = Store::open(&database(&args.state))?;
    let xds = bind(args.xds_listen)?;
    let api = bind(args.api_listen)?.listen(1024)?;
    let admin_socket = admin::bind(&args.admin_socket).await;
    let admin_socket = admin_socket.with_context(|| format!("cannot listen on {}", args.admin_socket.display()))?;

    let metrics = Arc::new(Metrics::default());
    let publisher = Arc::new(Publisher::new(tokens.clone(), metrics.clone()));
    let followed = follow::all(&args.marathons, &args.state)?;
    let marathon = followed.iter().map(|one| one.progress()).collect();
    let views = gather(followed.iter().map(follow::Followed::views).collect());
    let (agents, listed) = watch::channel(None);
    let master = if args.mesos_master.is_empty() { None } else { Some(Client::new(&args.mesos_master, no_tls(), Auth::NONE)?) };
    let master = master.map(|client| tokio::spawn(mesos::Follower { client, said: agents }.run()));
    let admin = Arc::new(Admin {
        metrics,
        publisher: publisher.clone(),
        store: store.clone(),
        marathon,
        agents: listed,
        world: Mutex::default(),
    });

    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let compiled = compile_always(settings(&args), views.clone(), store.clone(), admin.clone());
    let mut xds_tls = tls.clone();
    xds_tls.alpn_protocols = vec![b"h2".to_vec()];
    let statuses = programmed::run(store.clone(), publisher.clone());
    let nodes = serve_nodes(xds, Arc::new(xds_tls), publisher, admin.clone(), views);
    let stop = CancellationToken::new();
    let api_metrics = admin.metrics.api.clone();
    let api = ApiArgs {
        listener: api,
        tls,
        store,
        tokens: Arc::new(tokens),
        runs: admin.clone(),
        metrics: api_metrics,
        stop: stop.clone(),
    };
    let mut api = tokio::spawn(api::serve(api));
    tracing::info!(api = %args.api_listen, xds = %args.xds_listen, marathon = ?args.marathons.marathon, "mesh-control starts");
    tokio::select! {
        result = tokio::spawn(follow::run(followed)) => result.context("following Marathon panicked")?,
        result = tokio::spawn(compiled) => result.context("compiling panicked")?,
        never = async { match master { Some(task) => task.await, None => std::future::pending().await } } => never.map(|never| match never {}).context("asking the Mesos master panicked")?,
        result = tokio::spawn(statuses) => result.context("writing status panicked")?,
        result = tokio::spawn(nodes) => result.context("serving nodes panicked")?.context("serving nodes")?,
        result = tokio::spawn(admin::serve(admin_socket, admin)) => result?.context("serving the admin socket")?,
        result = &mut api => result.context("serving the API panicked")?,
        _ = terminated.recv() => tracing::info!("terminated: nodes go on with what they have"),
        _ = interrupted.recv() => tracing::info!("interrupted: nodes go on with what they have"),
    }
    stop.cancel();
    if !api.is_finished() {
        // It gives its clients a few seconds of its own accord.
        let _ = api.await;
    }
    // The socket is ours alone; a stale one would only confuse.
    let _ = std::fs::remove_file(&args.admin_socket);
    Ok(())
}

/// Translates and compiles whenever Marathon or the rules change. Ends when either is gone, which is the end of the process.
async fn compile_always(settings: Settings, mut views: watch::Receiver<Option<Arc<Views>>>, store: Store, admin: Arc<Admin>) {
    let mut configs = store.config();
    // Who gave way to whom at a collision must not depend on when we were started.
    let vips = store.vips().inspect_err(|error| tracing::error!(%error, "VIPs are allotted afresh"));
    let (mut allotment, mut before) = (Allotment::from_iter(vips.unwrap_or_default()), Arc::new(Compiled::default()));
    let (mut lingers, mut agents) = (admin.publisher.linger(), admin.agents.clone());
    let mut known = Known::default();
    loop {
        let all = views.borrow_and_update().clone();
        let config = configs.borrow_and_update().clone();
        let places = agents.borrow_and_update().as_ref().map(|agents| places(agents)).unwrap_or_default();
        // Before Marathon has answered there is nothing to tell the nodes: what they have is better than nothing.
        if let Some(all) = all {
            let started = Instant::now();
            // Pure work of up to some milliseconds per thousand services: it may take this thread, others serve on.
            let compiled = tokio::task::block_in_place(|| {
                let (mut registry, next) =
                    translate(all.iter().map(Arc::as_ref), &config.service_entries, &settings.vip_domain, &allotment);
                registry.wish(&config.injection);
                registry.locate(&places);
                settings.cluster.iter().for_each(|cluster| registry.call_everywhere(cluster));
                known.settle(&mut registry);
                let registry = Arc::new(registry);
                if allotment != next {
                    if let Err(error) = store.keep_vips(next.rows()) {
                        tracing::error!(%error, "VIPs are not on disk; after a restart a name may get another");
                    }
                    allotment = next;
                }
                loop {
                    let linger = lingers.borrow_and_update().clone();
                    let compiled = Arc::new(compile::compile(&registry, &config, &settings, &linger, &before));
                    // Seldom refused, and never for long: only what is published may add to what lingers.
                    if admin.publisher.publish(&compiled) {
                        break (compiled, registry);
                    }
                }
            });
            let (compiled, registry) = compiled;
            observe(&admin, &compiled, &registry, started.elapsed());
            before = compiled;
        }
        tokio::select! {
            changed = views.changed() => if changed.is_err() { return },
            changed = configs.changed() => if changed.is_err() { return },
            // Kernels have let go of ports that proxies need not serve any more.
            changed = lingers.changed() => if changed.is_err() { return },
            // Gone if no Mesos master is asked.
            Ok(()) = agents.changed() => {}
        }
    }
}

fn observe(admin: &Admin, compiled: &Compiled, registry: &Arc<crate::core::registry::Registry>, took: std::time::Duration) {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let metrics = &admin.metrics;
    metrics.services.set(count(registry.services.len()));
    metrics.workloads.set(count(registry.workloads.len()));
    metrics.problems.set(count(registry.problems.len()));
    metrics.unsupported.set(count(compiled.unsupported.len()));
    metrics.compilations.inc();
    metrics.compile_seconds.inc_by(took.as_secs_f64());
    let mut world = admin.world.lock();
    let known = world.as_ref().map(|world| world.registry.problems.clone()).unwrap_or_default();
    for problem in registry.problems.difference(&known) {
        tracing::warn!(problem, "in what Marathon runs");
    }
    *world = Some(World { registry: registry.clone(), unsupported: compiled.unsupported.clone() });
}

/// Listens for nodes once there is something to tell them. Until then the port is bound, so that it is ours, and refuses: a node that is
/// refused keeps what it has and tries again, and one that were served nothing would drop it.
async fn serve_nodes(
    socket: TcpSocket,
    tls: Arc<rustls::ServerConfig>,
    publisher: Arc<Publisher>,
    admin: Arc<Admin>,
    mut views: watch::Receiver<Option<Arc<Views>>>,
) -> Result<()> {
    views.wait_for(Option::is_some).await?;
    while admin.world.lock().is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    mesh_xds::serve::run(socket.listen(1024)?, tls, publisher).await?;
    Ok(())
}

fn bind(address: SocketAddr) -> Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| format!("cannot bind {address}"))?;
    Ok(socket)
}

/// What workloads must not dial: our ports, on every node's address if we listen on all.
fn settings(args: &ServeArgs) -> Settings {
    let (everywhere, fixed): (Vec<_>, Vec<_>) =
        [args.api_listen, args.xds_listen].into_iter().partition(|a| a.ip().is_unspecified());
    let mut own_addresses = args.advertise.clone();
    if !everywhere.is_empty() {
        own_addresses.extend(interface_addresses());
    }
    Settings {
        vip_domain: args.vip_domain.trim_matches('.').to_ascii_lowercase(),
        outbound: args.outbound_traffic_policy.into(),
        default_lb: args.default_load_balancer,
        retry_on_default: args.retry_on_default,
        system_ca: args.system_ca_file.clone(),
        vip_ranges: args.vip_range.clone(),
        zones: args.zone.iter().cloned().chain(args.dcos_cluster.as_deref().map(cluster_zone)).collect(),
        cluster: args.dcos_cluster.clone(),
        own_ports: everywhere.iter().map(SocketAddr::port).collect(),
        own_addresses,
        protect: args.protect.iter().chain(&fixed).copied().collect(),
        abilities: Abilities::MESH_PROXY,
        detection_timeout: args.protocol_detection_timeout,
        telemetry: Telemetry { zipkin: args.zipkin_address.clone(), sampling: args.trace_sampling, access_log: args.access_log },
        default_retries: None,
        localities: None,
    }
}

/// Addresses of this machine, without loopback: that is decided before the protected endpoints are looked at.
fn interface_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| interface.address);
    let addresses = interfaces.filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
    addresses.filter(|address| !address.is_loopback() && !link_local(address)).collect()
}
