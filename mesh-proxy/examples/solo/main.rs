//! The proxy alone on ports of its own, for `cargo xtask bench proxy`: the library as the binary has it, with one worker thread, beside a
//! fake agent that hands over listening and unconnected sockets of this machine, and Envoy resources that are made here. And the backend
//! that answers gRPC. Never a part of any installation.

#![forbid(unsafe_code)]

mod agent;
mod backend;
mod resources;

use anyhow::{Context, ensure};
use clap::Parser;
use mesh_proxy::gateway;
use mesh_proxy::shared::Shared;
use mesh_proxy::xds::state::State;
use mesh_xds::client::{Delivery, Resource};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
enum Cli {
    /// The proxy.
    Proxy(resources::Addresses),
    /// A gRPC service that answers every unary request with the same bytes.
    Backend {
        /// Where it listens.
        listen: SocketAddr,
    },
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli {
        Cli::Proxy(addresses) => runtime.block_on(proxy(&addresses)),
        Cli::Backend { listen } => {
            tokio::task::LocalSet::new().block_on(&runtime, backend::serve(listen)).context("the backend has ended")
        }
    }
}

/// One thread owns everything, as it owns a pod; access log off, metrics on.
async fn proxy(addresses: &resources::Addresses) -> anyhow::Result<()> {
    mesh_proxy::run::raise_descriptor_limit();
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("agent.sock");
    let agent = agent::run(agent::listen(&socket)?);
    let shared = Arc::new(Shared { gateway: gateway::workload(&BTreeMap::new()), ..Shared::default() });
    let mut state = State::default();
    for (type_url, resources) in resources::all(addresses) {
        let resource = |(name, body): (String, Vec<u8>)| Resource { name, version: "1".to_owned(), body: body.into() };
        let resources = resources.into_iter().map(resource).collect();
        let complaints = state.apply(&Delivery { type_url, nonce: "1".to_owned(), resources, removed: Vec::new() });
        ensure!(complaints.is_empty(), "the proxy does not take its own configuration: {complaints:?}");
        shared.publish(&mut state);
    }
    tokio::select! {
        ended = mesh_proxy::run::pods(socket, 1, shared) => ended,
        ended = agent => ended,
    }
}
