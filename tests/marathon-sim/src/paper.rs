//! `marathon-sim api`: Marathon on paper. The core decides as ever; what it wants done is said to be done, and nothing is. For tests of
//! whoever reads Marathon, which need no privilege then.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api;
use crate::cli::ApiArgs;
use crate::core::health::Attempt;
use crate::core::{Core, Effect, Event, Outcome};
use crate::faults::Faults;
use crate::node::layout;
use crate::run::{end_of_stdin, feed};
use crate::world::World;

pub(crate) fn main(args: &ApiArgs) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve(args))
}

async fn serve(args: &ApiArgs) -> Result<()> {
    std::fs::create_dir_all(&args.state).with_context(|| format!("create {}", args.state.display()))?;
    let mut core = Core::new(args.agent.len(), Box::new(|| uuid::Uuid::new_v4().to_string()));
    for (node, host) in core.nodes.iter_mut().zip(&args.agent) {
        node.hostname.clone_from(host);
    }
    let (effects, wanted) = mpsc::unbounded_channel();
    let (sender, events) = mpsc::unbounded_channel();
    let mut world = World::new(core, effects, std::collections::BTreeMap::default());
    world.heartbeat = Duration::from_millis(args.heartbeat_ms);
    let world = Arc::new(world);
    let listener = tokio::net::TcpListener::bind(args.marathon_listen).await;
    let listener = listener.with_context(|| format!("listen on {}", args.marathon_listen))?;
    let address = listener.local_addr()?;
    api::serve::spawn(listener, api::router(Arc::clone(&world)));
    let socket = layout::socket(&args.state);
    let _ = std::fs::remove_file(&socket);
    let listener = tokio::net::UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
    let router = admin(Arc::clone(&world));
    tokio::spawn(async move { axum::serve(listener, router).await });
    tokio::spawn(pretend(Arc::clone(&world), wanted, sender, Duration::from_millis(args.kill_ms)));
    tokio::spawn(feed(world, events));
    println!("{}", json!({"ready": true, "pid": std::process::id(), "marathon": format!("http://{address}")}));
    let (mut terminate, mut interrupt) = (
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?,
    );
    let stdin = args.die_with_stdin.then(end_of_stdin);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = async { match stdin { Some(end) => drop(end.await), None => std::future::pending().await } } => {}
    }
    let _ = std::fs::remove_file(socket);
    Ok(())
}

fn admin(world: Arc<World>) -> axum::Router {
    let faults = get(async |State(world): State<Arc<World>>| axum::Json(world.faults()));
    let set = async |State(world): State<Arc<World>>, axum::Json(wanted): axum::Json<Faults>| {
        world.set_faults(wanted.clone());
        axum::Json(wanted)
    };
    let flood = async |State(world): State<Arc<World>>, axum::Json(count): axum::Json<u32>| {
        (0..count).for_each(|n| world.publish_stream("event_stream_detached", &n.to_string()));
        axum::Json(count)
    };
    axum::Router::new()
        .route("/faults", faults.post(set))
        .route("/flood", post(flood))
        .route("/asked", get(async |State(world): State<Arc<World>>| axum::Json(Value::from(world.take_asked()))))
        .with_state(world)
}

/// Says of each wish of the core that it came true.
async fn pretend(
    world: Arc<World>,
    mut wanted: mpsc::UnboundedReceiver<Effect>,
    events: mpsc::UnboundedSender<Event>,
    kill: Duration,
) {
    while let Some(effect) = wanted.recv().await {
        let say = |event| drop(events.send(event));
        match effect {
            Effect::Launch(launch) => {
                for (task, _, _) in launch.tasks {
                    say(Event::Spawned { task: task.id.clone(), pid: 1 });
                    say(Event::Running { task: task.id });
                }
            }
            Effect::Terminate { task } => {
                let events = events.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(kill).await;
                    let _ = events.send(Event::Exited { task, outcome: Outcome::Signal(15) });
                });
            }
            Effect::Kill { task } => say(Event::Exited { task, outcome: Outcome::Signal(9) }),
            Effect::Cleanup { instance } => say(Event::Gone { instance }),
            Effect::Probe(attempt) => {
                if let Some(event) = probed(&world, *attempt) {
                    say(event);
                }
            }
            Effect::Publish(_) => {}
        }
    }
}

fn probed(world: &World, Attempt { instance, task, check, .. }: Attempt) -> Option<Event> {
    let faults = world.faults();
    let id = world.core().instances.get(&instance)?.spec.id.clone();
    if faults.unchecked.contains(&id) {
        return None;
    }
    let result = if faults.unhealthy.contains(&id) { Err("made unhealthy by POST /faults".to_owned()) } else { Ok(()) };
    Some(Event::Probed { task, check, result })
}
