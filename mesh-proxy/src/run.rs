//! `mesh-proxy run`: prepares what needs privilege, then wires broker, control plane, workers and admin together.
//!
//! SIGTERM is a planned stop ([`crate::drain`]): /ready says `draining`, requests in flight finish, and each client connection ends with the
//! answer to its next request. New connections are taken as long as old ones are open, because the next process may not start before this
//! one ends (one task per node); what comes afterwards waits in the listeners, which the agent holds. The process ends as soon as no
//! connection is left, at the latest after `--drain-time`.

use crate::admin::Admin;
use crate::broker::{self, Event};
use crate::gateway::{self, Gateway};
use crate::logging::LogLevel;
use crate::privilege::{self, Identity};
use crate::shared::Shared;
use crate::spread::{self, Owners, Share};
use crate::telemetry::zipkin;
use crate::worker::{self, Command, Entrance};
use crate::xds;
use anyhow::Context;
use mesh_common::broker::{Family, Role, Workload};
use mesh_xds::node::{Node, Role as NodeRole};
use mesh_xds::stream::Connection;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How often a stopping process looks whether connections are left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How long an ending process waits for the reader of its access log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Carry the captured connections of every enrolled pod of this node.
///
/// mesh-agent hands over listening sockets and unconnected sockets inside the pods; mesh-control tells where requests go (Envoy's v3
/// resources, see docs/xds.md for what is taken). Gives up every privilege at start and refuses to run with any. Without mesh-control or
/// mesh-agent it goes on with what it has.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The control plane's xDS port.
    #[arg(long, env = "MESH_CONTROL", value_name = "HOST:PORT")]
    pub control: String,
    /// File with the token that proves this node to the control plane. Read before privileges are given up.
    #[arg(long, env = "MESH_TOKEN_FILE", value_name = "FILE", default_value = "/etc/mesh/node.token")]
    pub token_file: PathBuf,
    /// File with the certificate (PEM) of the authority that signed the control plane's.
    #[arg(long, env = "MESH_CA_FILE", value_name = "FILE", default_value = "/etc/mesh/ca.crt")]
    pub ca_file: PathBuf,
    /// Address (or name) of this node, as Mesos knows it.
    #[arg(long, env = "MESH_NODE_ADDRESS", value_name = "ADDRESS")]
    pub node_address: String,
    /// Name of this node in the control plane's log; the host's name by default.
    #[arg(long, env = "MESH_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// The agent's unix socket.
    #[arg(long, env = "MESH_BROKER", value_name = "SOCKET", default_value = mesh_common::broker::SOCKET)]
    pub broker: PathBuf,
    /// Unix socket for operators: `mesh-proxy clusters`, `stats`, `ready`, `drain` and the like ask there, and so does whoever scrapes /metrics. Only
    /// root and --uid may open it.
    #[arg(long, env = "MESH_PROXY_ADMIN_SOCKET", value_name = "SOCKET", default_value = "/run/mesh/proxy-admin.sock")]
    pub admin_socket: PathBuf,
    /// Serve the node's ports of Gateways whose `selector` matches these labels (KEY=VALUE, repeatable or separated by commas; Istio's:
    /// istio=ingressgateway). mesh-agent opens the ports, as far as its --gateway-ports allow.
    #[arg(long, env = "MESH_GATEWAY_LABELS", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = gateway::label)]
    pub gateway_labels: Vec<(String, String)>,
    /// Threads that the gateway is spread over. Each takes its turn of the connections, and has its part of every limit of connectionPool
    /// (rounded up), balancers and ejections of its own. A pod with the label mesh.io/proxy-threads is spread likewise. Not more than --threads.
    #[arg(long, env = "MESH_GATEWAY_THREADS", value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub gateway_threads: u16,
    /// Threads that own pods; one per core by default.
    #[arg(long, env = "MESH_PROXY_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Seconds that SIGTERM leaves to open connections. Marathon kills 3 s after SIGTERM unless the app says otherwise: its
    /// `taskKillGracePeriodSeconds` must be longer than this. A second SIGTERM ends at once.
    #[arg(long, env = "MESH_PROXY_DRAIN_TIME", value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u16).range(0..=3600))]
    pub drain_time: u16,
}

/// Runs until SIGTERM or SIGINT and what is left then is done. Must be called before any thread is started.
///
/// # Errors
/// If the arguments or files cannot be used, or a privilege is left; later nothing ends it.
pub fn run(args: Args, identity: Identity, log: LogLevel) -> anyhow::Result<()> {
    let connection = connection(&args)?;
    let admin = bind(&args.admin_socket, identity)?;
    raise_descriptor_limit();
    let report = privilege::drop(identity)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args.threads.map_or(cores, usize::from);
    tracing::info!(?report, threads, node = %connection.node, control = connection.endpoint, "proxy starts without privilege");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let limit = Duration::from_secs(args.drain_time.into());
    let gateway_threads = args.gateway_threads.into();
    let shared = Shared { gateway: gateway::workload(&connection.node.labels), gateway_threads, ..Shared::default() };
    let asked = Admin { shared: Arc::new(shared), report, drain: limit, log };
    runtime.block_on(serve(args.broker, connection, admin, Arc::new(asked), threads))
}

async fn serve(
    socket: PathBuf,
    connection: Connection,
    listening: UnixListener,
    admin: Arc<Admin>,
    threads: usize,
) -> anyhow::Result<()> {
    let shared = Arc::clone(&admin.shared);
    shared.telemetry.set_node(connection.node.to_string());
    shared.telemetry.log.start(std::io::stdout()).context("cannot start the thread of the access log")?;
    let stop = stop(Arc::clone(&shared), admin.drain)?;
    listening.set_nonblocking(true)?;
    let listening = tokio::net::UnixListener::from_std(listening)?;
    tokio::select! {
        ended = pods(socket, threads, Arc::clone(&shared)) => ended?,
        () = xds::follow(connection, Arc::clone(&shared)) => {}
        () = admin.serve(listening) => {}
        () = zipkin::run(Arc::clone(&shared)) => {}
        () = stop => {}
    }
    shared.telemetry.log.end(LAST_LINES);
    tracing::info!(connections_cut = shared.metrics.open.get(), "proxy ends");
    Ok(())
}

/// The first signal begins the stop; returns at the second.
fn stop(shared: Arc<Shared>, limit: Duration) -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if shared.drain.is_begun() {
                return;
            }
            tracing::info!(?limit, connections = shared.metrics.open.get(), "proxy stops: it accepts no more");
            shared.drain.begin(limit);
        }
    })
}

/// Hands what the agent sends to the threads that own the pods; returns when a planned stop is over. Public for tests: this is the proxy
/// without main, admin and xDS.
///
/// # Errors
/// If a thread cannot be started or has ended.
pub async fn pods(socket: PathBuf, threads: usize, shared: Arc<Shared>) -> anyhow::Result<()> {
    let (client, mut events) = broker::start(socket, Role::Proxy);
    let mut workers = Vec::new();
    for index in 0..threads {
        workers.push(worker::start(index, client.clone(), Arc::clone(&shared)).context("cannot start a thread")?);
    }
    *shared.workers.lock() = workers.iter().map(mpsc::Sender::downgrade).collect();
    let mut owners = Owners::new(threads);
    let drained = drained(&shared, &workers);
    tokio::pin!(drained);
    let mut changed = shared.changed.subscribe();
    let mut gateway = Gateway::default();
    loop {
        gateway.follow(&shared, &client);
        let event = tokio::select! {
            event = events.next() => event,
            // The sender lives as long as we do.
            _ = changed.changed() => continue,
            ended = &mut drained => return ended,
        };
        match event {
            Event::PodAdded { slot, workload, listeners } => {
                let owners = owners.settle(slot, spread::wanted(&workload.labels));
                tracing::info!(slot, workload = workload.id, threads = ?owners, "pod enrolled");
                let entrances = listeners.into_iter().filter_map(|(listener, socket)| Entrance::captured(listener, socket));
                enter(&workers, owners, (slot, &workload), entrances.collect()).await?;
            }
            Event::Gateway { slot, listeners, refused } => {
                let owners = owners.settle(slot, shared.gateway_threads);
                gateway::told(&shared, &listeners, &refused);
                let entrances = listeners.into_iter().map(|(address, socket)| Entrance::gateway(address, socket));
                enter(&workers, owners, (slot, &shared.gateway), entrances.collect()).await?;
            }
            Event::PodGone { slot } => {
                for owner in owners.forget(slot) {
                    tracing::info!(slot, thread = owner, "pod gone");
                    tell(&workers[owner], Command::Gone(slot)).await?;
                }
            }
            Event::Sockets { slot, family, sockets } => {
                let owners = owners.of(slot);
                for (owner, sockets) in owners.iter().zip(spread::deal(sockets, owners.len())) {
                    tell(&workers[*owner], Command::Sockets(slot, family, sockets)).await?;
                }
            }
            Event::Ready => {
                gateway.ask_again();
                {
                    let mut progress = shared.progress.lock();
                    progress.broker_ready = true;
                    progress.broker_lost = None;
                }
                for worker in &workers {
                    tell(worker, Command::BrokerReady).await?;
                }
            }
            // Only the DNS process asks for it; the broker's client refuses it in our role.
            Event::Learned { .. } => {}
            Event::Lost { reason } => shared.progress.lock().broker_lost = Some(reason),
        }
    }
}

/// Tells a pod's threads that it is there. The first accepts, so it is told last: the others know the pod when connections come.
async fn enter(
    workers: &[mpsc::Sender<Command>],
    owners: &[usize],
    (slot, workload): (u32, &Workload),
    mut entrances: Vec<Entrance>,
) -> anyhow::Result<()> {
    let families: Vec<Family> = entrances.iter().map(Entrance::family).collect();
    let threads = u32::try_from(owners.len()).unwrap_or(u32::MAX);
    for (place, owner) in owners.iter().enumerate().rev() {
        let others = if place == 0 { owners[1..].iter().map(|owner| workers[*owner].clone()).collect() } else { Vec::new() };
        let entrances = if place == 0 { std::mem::take(&mut entrances) } else { Vec::new() };
        let share = Share { threads, families: families.clone(), others };
        tell(&workers[*owner], Command::Pod(slot, workload.clone(), entrances, share)).await?;
    }
    Ok(())
}

/// Once a stop begins: returns when nobody accepts any more and no client connection is open, or the time is over.
async fn drained(shared: &Shared, workers: &[mpsc::Sender<Command>]) -> anyhow::Result<()> {
    shared.drain.begun().await;
    tokio::select! {
        () = empty(shared) => {}
        () = shared.drain.handover() => {}
    }
    let (sender, mut done) = mpsc::channel(1);
    for worker in workers {
        tell(worker, Command::Drain(sender.clone())).await?;
    }
    drop(sender);
    // Ends when the last thread has dropped its sender.
    let _ = done.recv().await;
    tokio::select! {
        () = empty(shared) => {}
        () = shared.drain.over() => {}
    }
    Ok(())
}

/// Returns when no client connection is open.
async fn empty(shared: &Shared) {
    while shared.metrics.open.get() > 0 {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

async fn tell(worker: &mpsc::Sender<Command>, command: Command) -> anyhow::Result<()> {
    worker.send(command).await.map_err(|_gone| anyhow::anyhow!("a worker thread has ended"))
}

fn connection(args: &Args) -> anyhow::Result<Connection> {
    let read = |what: &str, path: &Path| std::fs::read(path).with_context(|| format!("cannot read {what} {}", path.display()));
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    let token = String::from_utf8(read("--token-file", &args.token_file)?).context("--token-file is not text")?;
    Ok(Connection {
        endpoint: args.control.clone(),
        ca_pem: read("--ca-file", &args.ca_file)?,
        token: token.trim().to_owned(),
        node: Node {
            role: NodeRole::Node,
            address: node_address(&args.node_address)?,
            name,
            labels: args.gateway_labels.iter().cloned().collect(),
        },
    })
}

fn node_address(text: &str) -> anyhow::Result<IpAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let found = (text, 0).to_socket_addrs().with_context(|| format!("--node-address {text:?}"))?.next();
    found.map(|address| address.ip()).with_context(|| format!("--node-address {text:?} has no address"))
}

/// Listens in place of a former process's socket, and gives the file to whom we will be, who must replace it at the next start.
fn bind(path: &Path, identity: Identity) -> anyhow::Result<UnixListener> {
    let context = || format!("cannot listen on the admin socket {}", path.display());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(context),
        _ => {}
    }
    // Nobody else may open it, not even for the moment before its mode could be changed.
    let usual = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(usual);
    let listener = listener.with_context(context)?;
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(identity.uid), Some(identity.gid)).with_context(context)?;
    }
    Ok(listener)
}

/// Every connection is two descriptors and each pod has a stock; the usual soft limit of 1024 is below our own limits.
pub fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
