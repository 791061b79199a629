//! `cargo xtask bookinfo`: from nothing to the shop through the mesh. The order of the steps is this file; what a step does is below it.

pub(crate) mod bare;
mod images;
mod mesh;
mod sim;
mod state;
pub(crate) mod tools;
mod words;
mod zipkin;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::ui::{note, step};
use crate::{cargo, ebpf, install};
use state::{Session, State};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Come back when the shop is up, and leave it running.
    #[arg(long)]
    detach: bool,
    /// Start no Zipkin: the proxies trace nothing then.
    #[arg(long)]
    no_zipkin: bool,
    /// Number of simulated nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Where the simulated nodes keep their files.
    #[arg(long, global = true, default_value = state::DEFAULT)]
    state: PathBuf,
}

#[derive(Subcommand)]
enum Action {
    /// Print the shop's address and KUBECONFIG again.
    Status,
    /// End the shop and everything it started.
    Down,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let state = State::new(&args.state);
    match args.action {
        Some(Action::Status) => status(&state),
        Some(Action::Down) => sim::down(&state),
        None => up(args, &state),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn status(state: &State) -> Result<()> {
    let session = state.session()?;
    mesh::status(state, &session)?;
    words::welcome(&session);
    Ok(())
}

fn up(args: &Args, state: &State) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("simulated nodes are namespaces, cgroups and eBPF programs, which need root: sudo -E cargo xtask bookinfo");
    }
    if state.session().is_ok() {
        note("the shop is up already; `cargo xtask bookinfo down` ends it");
        return status(state);
    }
    prepare()?;
    ebpf::ensure()?;
    let zipkin = zipkin::Zipkin::fetch(!args.no_zipkin);
    let binaries = build(state)?;
    let sim = sim::Sim::start(state, args, &binaries)?;
    let session = serve(state, args, &binaries).with_context(|| words::where_to_look(state, args.detach))?;
    let session = Session { zipkin: zipkin.start(state, &binaries, &session.marathon), ..session };
    state.save(&session)?;
    words::welcome(&session);
    if args.detach {
        words::detached();
        return Ok(());
    }
    sim.hold()
}

fn prepare() -> Result<()> {
    install::packages(&install::NODES)?;
    install::kubectl()?;
    Ok(())
}

fn build(state: &State) -> Result<images::Binaries> {
    // All of the workspace, as the tests build it: then each dependency is compiled once, with one set of features.
    step("building the binaries", || cargo::show(cargo::cargo().args(["build", "--workspace", "--bins"])))?;
    sim::clear(state)?;
    images::place(state, "debug", &images::PROGRAMS)
}

/// Everything that Marathon is asked for, once it answers.
fn serve(state: &State, args: &Args, binaries: &images::Binaries) -> Result<Session> {
    let (marathon, nodes) = sim::ready(state)?;
    let api = sim::free_port()?;
    let kubeconfig = mesh::credentials(state, binaries, &nodes, api)?;
    mesh::install(&marathon, args.nodes)?;
    mesh::wait(state, &nodes)?;
    sim::forward(state, binaries, api, "mesh-control", mesh::API_PORT)?;
    mesh::post_pods(&marathon)?;
    let page = sim::port(9080)?;
    sim::forward(state, binaries, page, "productpage", 9080)?;
    mesh::wait_page(page)?;
    Ok(Session { page: format!("http://127.0.0.1:{page}/productpage"), kubeconfig, marathon, nodes, zipkin: None })
}
