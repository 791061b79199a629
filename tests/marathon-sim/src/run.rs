//! `marathon-sim run`: builds the nodes, connects core, executor and APIs, and takes all down again.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{self, Admin};
use crate::api;
use crate::cli::RunArgs;
use crate::core::{Core, Effect, Event};
use crate::node::executor::Executor;
use crate::node::images::Images;
use crate::node::layout::Layout;
use crate::node::topology::{MASTER, Topology};
use crate::node::{cgroup, dns, sweep};
use crate::world::World;

const TICK: Duration = Duration::from_millis(50);
/// Between SIGTERM and SIGKILL when the stand-in ends.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) fn main(args: &RunArgs) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if !nix::unistd::Uid::effective().is_root() {
        bail!("namespaces and cgroups need root");
    }
    let images = args.images.as_deref().map(Images::load).transpose()?.unwrap_or_default();
    for what in sweep::dead_runs()? {
        tracing::info!("swept {what}");
    }
    let layout = Layout::new(&args.state)?;
    if std::os::unix::net::UnixStream::connect(layout.socket()).is_ok() {
        bail!("{} belongs to a run that is alive; stop it with `marathon-sim down`", layout.state.display());
    }
    // Of the run before: its logs were kept until now.
    remove(&layout.state.join("containers"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve(args, &layout, images));
    // Whatever happened: nothing may stay.
    let cleaned = clean(&layout, usize::from(args.nodes));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.and(cleaned)
}

async fn serve(args: &RunArgs, layout: &Layout, images: Images) -> Result<()> {
    // From here on a signal ends the run in order, also while it is being built.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let outside: BTreeMap<String, Vec<IpAddr>> = args.outside_name.iter().cloned().collect();
    let addresses: Vec<IpAddr> = outside.values().flatten().copied().collect();
    let topology = Topology::build(usize::from(args.nodes), &addresses)?;
    let (effect_sender, effects) = mpsc::unbounded_channel();
    let (event_sender, events) = mpsc::unbounded_channel();
    let executor = Arc::new(Executor::new(layout.clone(), topology, images, event_sender));
    layout.prepare(&executor.node_names)?;
    let core = Core::new(usize::from(args.nodes), Box::new(|| uuid::Uuid::new_v4().to_string()));
    let world = Arc::new(World::new(core, effect_sender, outside));
    let marathon = listen(args, &executor, &world).await?;
    let info = info(layout, &executor, &world, marathon);
    let (shutdown, forwards) = (tokio::sync::Notify::new(), parking_lot::Mutex::default());
    let admin = Admin { world: Arc::clone(&world), executor: Arc::clone(&executor), info: info.clone(), shutdown, forwards };
    let admin = Arc::new(admin);
    let socket = layout.socket();
    let _ = std::fs::remove_file(&socket);
    let listener = tokio::net::UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    let router = admin::router(Arc::clone(&admin));
    tokio::spawn(async move { axum::serve(listener, router).await });
    perform(Arc::clone(&executor), effects);
    tokio::spawn(feed(Arc::clone(&world), events));
    let stdin = args.die_with_stdin.then(end_of_stdin);
    std::fs::write(layout.state.join("sim.json"), info.to_string())?;
    println!("{info}");
    std::io::stdout().flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = hangup.recv() => {}
        () = admin.shutdown.notified() => {}
        () = async { match stdin { Some(end) => drop(end.await), None => std::future::pending().await } } => {}
    }
    executor.stop(GRACE).await;
    Ok(())
}

/// Marathon inside and outside, and the Mesos master; each node's resolver and Mesos agent.
async fn listen(args: &RunArgs, executor: &Executor, world: &Arc<World>) -> Result<SocketAddr> {
    let inside = executor.topology.master.tcp_listener(SocketAddr::new(IpAddr::V4(MASTER), 8080))?;
    let listener = tokio::net::TcpListener::bind(args.marathon_listen).await;
    let listener = listener.with_context(|| format!("listen on {}", args.marathon_listen))?;
    let address = listener.local_addr()?;
    let router = api::router(Arc::clone(world));
    api::serve::spawn(inside, router.clone());
    let master = executor.topology.master.tcp_listener(SocketAddr::new(IpAddr::V4(MASTER), 5050))?;
    api::serve::spawn(master, api::master::router(Arc::clone(world)));
    api::serve::spawn(listener, router);
    let names = Arc::clone(world);
    let lookup: dns::Lookup = Arc::new(move |name: &str| names.resolve(name));
    for (index, node) in executor.topology.nodes.iter().enumerate() {
        dns::serve(node, &lookup)?;
        let agent = node.tcp_listener(SocketAddr::from(([0, 0, 0, 0], 5051)))?;
        api::serve::spawn(agent, api::agent::router(Arc::clone(world), index));
        let dcos_net = node.tcp_listener(SocketAddr::from(([127, 0, 0, 1], 62080)))?;
        api::serve::spawn(dcos_net, api::agent::dcos_net(Arc::clone(world)));
    }
    Ok(address)
}

fn info(layout: &Layout, executor: &Executor, world: &World, marathon: SocketAddr) -> Value {
    let node = |(index, name): (usize, &String)| {
        let core = world.core();
        json!({
            "name": name,
            "address": core.nodes[index].hostname,
            "agentId": core.nodes[index].agent_id,
            "netns": executor.topology.nodes[index].path(),
            "cgroup": layout.cgroup_node(name),
            "bpffs": layout.bpffs(name),
            "root": layout.node_root(name),
        })
    };
    let nodes: Vec<Value> = executor.node_names.iter().enumerate().map(node).collect();
    json!({
        "ready": true, "pid": std::process::id(), "run": layout.run, "state": layout.state,
        "marathon": format!("http://{marathon}"), "nodes": nodes,
    })
}

/// Effects are carried out one after the other on a thread of their own: they block.
fn perform(executor: Arc<Executor>, mut effects: mpsc::UnboundedReceiver<Effect>) {
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let _inside = runtime.enter();
        while let Some(effect) = effects.blocking_recv() {
            executor.perform(effect);
        }
    });
}

pub(crate) async fn feed(world: Arc<World>, mut events: mpsc::UnboundedReceiver<Event>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => world.handle(event),
                None => return,
            },
            _ = tick.tick() => world.handle(Event::Tick),
        }
    }
}

pub(crate) fn end_of_stdin() -> tokio::sync::oneshot::Receiver<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 256];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        let _ = sender.send(());
    });
    receiver
}

/// Processes, cgroups, bpffs directories and the nodes' files. Logs, and the tasks' definitions beside them, stay.
fn clean(layout: &Layout, nodes: usize) -> Result<()> {
    let until = Instant::now();
    let result = cgroup::remove(&layout.cgroup_run(), Duration::from_secs(20));
    for node in 1..=nodes {
        let node = format!("node{node}");
        sweep::remove_bpffs(&layout.bpffs(&node));
        remove(&layout.state.join(&node));
    }
    for entry in std::fs::read_dir(layout.state.join("containers")).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(entry.path().join("scaffold"));
    }
    let _ = std::fs::remove_file(layout.socket());
    let _ = std::fs::remove_file(layout.state.join("sim.json"));
    tracing::info!("clean after {:?}", until.elapsed());
    result
}

fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("remove {}: {error}", directory.display());
    }
}
