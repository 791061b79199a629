//! The mesh's DNS: its own process, so that hostile datagrams cannot stop the proxy and a proxy's restart is no DNS outage.
//!
//! Pods' questions arrive on sockets that mesh-agent opened in their namespaces ([`pods`], [`udp`], [`tcp`]); names of the mesh come
//! from mesh-control ([`xds`]); the rest is asked of the node's resolvers ([`upstream`]), and where an egress rule names it the agent
//! learns the addresses before the pod does ([`learner`]). What is decided is in [`core`], without I/O.
//! One thread is enough: an answer from memory takes microseconds.

mod admin;
mod args;
mod core;
mod learner;
mod metrics;
mod pods;
mod server;
mod tcp;
mod udp;
mod upstream;
mod xds;

pub use args::Args;

use crate::privilege::{self, Identity};
use anyhow::Context;
use mesh_common::broker::Role;
use mesh_xds::node::{Node, Role as NodeRole};
use mesh_xds::stream::Connection;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Takes what may need the privilege of the start (files, the admin socket), gives the privilege up, and runs.
///
/// # Errors
/// If the arguments or files cannot be used or privilege is left; later nothing ends it.
pub fn start(args: Args, identity: Identity) -> anyhow::Result<()> {
    let prepared = Prepared::new(args)?;
    prepared.give_to(identity)?;
    let report = privilege::drop(identity)?;
    tracing::info!(?report, "DNS runs without privilege");
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(prepared.serve())
}

/// What was taken at the start. From here on nothing needs privilege.
struct Prepared {
    upstreams: Vec<SocketAddr>,
    connection: Connection,
    admin: UnixListener,
    admin_socket: PathBuf,
    broker: PathBuf,
    drain_time: Duration,
    registry_only: bool,
}

impl Prepared {
    fn new(args: Args) -> anyhow::Result<Self> {
        let (upstreams, connection) = (args.upstreams()?, connection(&args)?);
        let admin = admin::bind(&args.admin_socket)
            .with_context(|| format!("cannot listen on the admin socket {}", args.admin_socket.display()))?;
        raise_descriptor_limit();
        Ok(Self {
            upstreams,
            connection,
            admin,
            admin_socket: args.admin_socket,
            broker: args.broker,
            drain_time: Duration::from_secs(args.drain_time.into()),
            registry_only: args.registry_only,
        })
    }

    /// Gives the admin socket's file to whom we will be, who must replace it at the next start.
    fn give_to(&self, identity: Identity) -> anyhow::Result<()> {
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&self.admin_socket, Some(identity.uid), Some(identity.gid))
                .with_context(|| format!("cannot give away {}", self.admin_socket.display()))?;
        }
        Ok(())
    }

    /// Runs until SIGTERM or SIGINT, and until the questions under way then are answered.
    async fn serve(self) -> anyhow::Result<()> {
        let Self { upstreams, connection, admin: listener, broker, drain_time, registry_only, .. } = self;
        tracing::info!(?upstreams, node = %connection.node, control = connection.endpoint, "DNS starts");
        let server = Arc::new(server::Server::new(upstream::Upstreams::new(&upstreams)));
        server.core.lock().registry_only = registry_only;
        let pods = Arc::new(pods::Pods::default());
        let admin = admin::Admin { server: Arc::clone(&server), pods: Arc::clone(&pods) };
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let (client, events) = crate::broker::start(broker, Role::Dns);
        server.learner.set_client(client);
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if server.drain.is_begun() {
                    return;
                }
                tracing::info!(?drain_time, "DNS stops: what arrives from now on waits for the next process");
                server.drain.begin(drain_time);
            }
        };
        tokio::select! {
            () = pods::follow(Arc::clone(&server), Arc::clone(&pods), events) => {}
            () = pods::drained(&server, &pods) => {}
            () = stop => {}
            () = xds::follow(Arc::clone(&server), connection) => {}
            () = admin::serve(listener, admin) => {}
        }
        tracing::info!("DNS ends");
        Ok(())
    }
}

fn connection(args: &Args) -> anyhow::Result<Connection> {
    let name = match &args.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
    };
    Ok(Connection {
        endpoint: args.control.clone(),
        ca_pem: args::read("--ca-file", &args.ca_file)?.into_bytes(),
        token: args::read("--token-file", &args.token_file)?.trim().to_owned(),
        node: Node { role: NodeRole::Dns, address: args.node_ip()?, name, labels: BTreeMap::new() },
    })
}

/// Each waiting question holds a descriptor, and the usual soft limit of 1024 is below our own limits.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
