//! The agent at work: opens everything, then one loop that hears of changes and has the node follow. The only module that knows all
//! others.

use crate::admin::Admin;
use crate::broker::{Broker, Gateway};
use crate::cli::Run;
use crate::egress::Book;
use crate::kernel::{self, Kernel};
use crate::metrics::Metrics;
use crate::node::{Node, OnHost, Sources};
use crate::places::Places;
use crate::ready::{self, Ready};
use crate::served::Roster;
use crate::status::Shared;
use crate::{admit, cgroup, events, mesos};
use anyhow::{Context, Result};
use mesh_xds::agent as wire;
use mesh_xds::node::{Node as NodeId, Role};
use mesh_xds::stream::{Connection, Updates};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

/// Between two looks while a wanted pod is missing: what shows a container's addresses is not announced by any event.
const HURRY: Duration = Duration::from_millis(100);
/// Between two looks when all is well: for what no event told us.
const CALM: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If something that must be there at start is not.
pub async fn run(config: Run) -> Result<()> {
    kernel::check_object()?;
    let detected;
    let cgroup_root = match &config.cgroup_root {
        Some(root) => root,
        None => {
            detected = cgroup::detect()?;
            &detected
        }
    };
    let connection = connection(&config)?;
    // What needs no kernel first: a wrong flag must not change anything.
    let admin_socket = Admin::listen(&config.admin_socket).context("--admin-socket")?;
    let broker_socket = Broker::listen(&config.socket, config.proxy_uid).context("--socket")?;
    let places = Places::new(&config.mesos_runtime_dir)?;
    let mesos_agent = mesos::Address::new(&config.mesos, config.node_address)?;
    let cni_socket = admit::listen(&config.cni_socket).context("--cni-socket")?;

    let kernel = Arc::new(Kernel::open_logging(&config.bpffs, cgroup_root, config.kernel_log)?);
    kernel::fires(cgroup_root)?;
    kernel::fires_here()?;
    let depth = kernel.depth_of(cgroup_root)?;
    info!(cgroup = %cgroup_root.display(), "the programs are attached, and the connect hook fires");

    let roster = Arc::new(Roster::default());
    let status = Arc::new(Shared::new(connection.node.to_string()));
    let metrics = Arc::new(Metrics::new(Arc::clone(&kernel), Arc::clone(&status)));
    status.update(|status| status.hooks_attached = true);
    let book = Arc::new(Book::open(Arc::clone(&kernel), Arc::clone(&metrics), Arc::clone(&roster))?);
    let admin = Admin {
        status: Arc::clone(&status),
        metrics: Arc::clone(&metrics),
        book: Arc::clone(&book),
        kernel: Arc::clone(&kernel),
    };
    tokio::spawn(admin.serve(admin_socket));
    tokio::spawn(events::log(kernel.events()?, Arc::clone(&roster), Arc::clone(&book)));
    if let Some(lines) = kernel.lines() {
        tokio::spawn(events::follow(lines));
    }
    let gateway = Arc::new(Gateway::new(config.gateway_ports));
    let broker = Broker {
        kernel: Arc::clone(&kernel),
        roster: Arc::clone(&roster),
        metrics: Arc::clone(&metrics),
        book: Arc::clone(&book),
        gateway: Arc::clone(&gateway),
        proxy_uid: config.proxy_uid,
    };
    tokio::spawn(Arc::new(broker).serve(broker_socket));

    let (to_loop, admissions) = mpsc::channel(admit::WAITING);
    tokio::spawn(admit::serve(cni_socket, mesos_agent.clone(), to_loop));
    let ((said, hearing), bell) = (watch::channel(None), Arc::new(Notify::new()));
    let asker = mesos::Asker {
        address: mesos_agent,
        node: config.node_address,
        runtime_dir: config.mesos_runtime_dir.clone(),
        cgroup_root: cgroup_root.clone(),
        depth,
        said,
        bell: Arc::clone(&bell),
    };
    tokio::spawn(asker.run());
    let sources = Sources { places, on_host: OnHost::new(hearing, bell)?, bypass_file: config.bypass_file };
    let node = Node::new(Arc::clone(&kernel), roster, metrics, status, book, sources, &connection.node);
    let updates = mesh_xds::stream::start(connection, &[wire::MESH, wire::WORKLOAD, wire::SERVICE, wire::EGRESS]);
    follow(node, updates, admissions, &gateway).await?;

    if config.detach_on_exit {
        kernel.detach()?;
        info!("the kernel half is removed: the pods of this node are outside the mesh");
    } else {
        info!("stopping; the kernel half goes on");
    }
    Ok(())
}

fn connection(config: &Run) -> Result<Connection> {
    let name = match &config.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.into_string().map_err(|name| anyhow::anyhow!("host name {name:?} is no text"))?,
    };
    let read = |path: &Path, flag: &str| std::fs::read(path).with_context(|| format!("{flag} {}", path.display()));
    let token = String::from_utf8(read(&config.token_file, "--token-file")?).context("--token-file is no text")?;
    Ok(Connection {
        endpoint: config.control.clone(),
        ca_pem: read(&config.ca_file, "--ca-file")?,
        token: token.trim().to_owned(),
        node: NodeId { role: Role::Agent, address: config.node_address, name, labels: BTreeMap::new() },
    })
}

/// How long it looks so often after a container has come or gone: what Mesos says of it comes in parts.
const STIR: Duration = Duration::from_secs(2);

/// The loop. Deliveries are answered once they are in force; the look at the containers follows whatever has happened.
async fn follow(
    mut node: Node,
    mut updates: Updates,
    mut admissions: mpsc::Receiver<admit::Admission>,
    gateway: &Gateway,
) -> Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut watch = Watch::new(node.containers());
    let mut mesos = node.mesos();
    // Whatever ran before us.
    node.ask_mesos();
    let (mut settled, mut calm_from) = (false, Instant::now());
    loop {
        tokio::select! {
            delivery = updates.next() => {
                match tokio::task::block_in_place(|| node.take(&delivery)) {
                    Ok(()) => updates.ack(&delivery).await,
                    Err(reason) => {
                        warn!(resource = delivery.type_url, reason, "a delivery was refused");
                        updates.nack(&delivery, &reason).await;
                    }
                }
            }
            () = watch.changed() => {
                calm_from = Instant::now() + STIR;
                node.ask_mesos();
            }
            Some(admission) = admissions.recv() => tokio::task::block_in_place(|| node.admit(admission, Instant::now())),
            // The asker lives as long as we do.
            Ok(()) = mesos.changed() => {}
            () = tokio::time::sleep(if settled && Instant::now() > calm_from { CALM } else { HURRY }) => {
                if watch.renew(node.containers()) {
                    calm_from = Instant::now() + STIR;
                }
                if Instant::now() < calm_from {
                    node.ask_mesos();
                }
            }
            _ = term.recv() => return Ok(()),
            _ = int.recv() => return Ok(()),
        }
        settled = tokio::task::block_in_place(|| node.settle(Instant::now()));
        if let Some(report) = node.news() {
            updates.report(report).await;
        }
        match gateway.revive() {
            Ok(0) => {}
            Ok(count) => warn!(count, "listeners of the gateway were shut down; they listen again"),
            Err(error) => warn!(%error, "a listener of the gateway is dead"),
        }
    }
}

/// inotify on the directory of containers: it may not exist yet, and may be replaced.
struct Watch {
    inotify: Option<Ready<Inotify>>,
    watched: Option<WatchDescriptor>,
}

impl Watch {
    fn new(containers: &Path) -> Self {
        let open = || ready::watch(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?);
        let inotify = open().inspect_err(|error| warn!(%error, "no inotify: containers are looked for once a second")).ok();
        let mut watch = Self { inotify, watched: None };
        watch.renew(containers);
        watch
    }

    /// Watches the directory if it has appeared. An existing watch is renewed by the kernel. True if it was not watched before: what has happened in
    /// it until now, nobody has heard.
    fn renew(&mut self, containers: &Path) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_TO;
        let watched = inotify.get_ref().add_watch(containers, flags).ok();
        let is_new = watched.is_some() && watched != self.watched;
        self.watched = watched;
        is_new
    }

    /// Something was created or removed. Cancel safe: what is read is only a hint to look again.
    async fn changed(&mut self) {
        let Some(inotify) = self.inotify.as_ref().filter(|_| self.watched.is_some()) else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
            match ready.try_io(|inotify| Ok(inotify.get_ref().read_events()?)) {
                // The directory comes before its `pid` file: the look that follows may be too early, the next is HURRY or CALM later.
                Ok(_events) => return,
                Err(_would_block) => {}
            }
        }
    }
}
