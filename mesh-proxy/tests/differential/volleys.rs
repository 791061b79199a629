//! The cases in which requests meet, one volley after another: how many requests got which answer.

use super::client::{Answer, Client};
use super::limits::Limited;
use super::stage::Stage;
use futures::future::join;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Cases at the same time: each has a cluster of its own.
const LANES: usize = 6;
/// A request that has neither arrived nor been answered by then is waiting for a connection: nobody tells the client so.
const QUEUED: Duration = Duration::from_millis(25);
/// One that must arrive or be answered.
const LONG: Duration = Duration::from_secs(10);
/// On a busy machine a request may meet others than it should. Many at once leave no trace in a cluster, so they are asked again.
const TRIES: usize = 5;

/// How often each answer came: status, whether it says overloaded, body.
type Answers = BTreeMap<(u16, bool, String), usize>;

/// The disagreements, as text.
pub async fn run(stage: &Stage) -> Vec<String> {
    let lane = |lane: usize| async move {
        let mut found = Vec::new();
        for (number, case) in stage.limited.iter().enumerate().skip(lane).step_by(LANES) {
            found.extend(disagreement(stage, number, case).await);
        }
        found
    };
    futures::future::join_all((0..LANES).map(lane)).await.concat()
}

async fn disagreement(stage: &Stage, number: usize, case: &Limited) -> Option<String> {
    for volley in 0..case.volleys.len() {
        let tries = if case.volleys[volley].len() > 1 { TRIES } else { 1 };
        let (mut expected, mut got) = Default::default();
        for again in 0..tries {
            let id = format!("v{number}-{volley}-{again}");
            let envoy = answers(stage, stage.envoy_port, case, volley, format!("e{id}"));
            (expected, got) = join(envoy, answers(stage, stage.our_port(), case, volley, format!("m{id}"))).await;
            if expected == got {
                break;
            }
        }
        stage.envoy.settled().await;
        if expected != got {
            let scripts: Vec<_> = case.volleys.iter().map(|volley| (volley.len(), &volley[0].script)).collect();
            let cluster = &case.cluster;
            return Some(format!(
                "limited {number}: {cluster:#?}\nvolley {volley} of {scripts:?}\nEnvoy: {expected:?}\nours: {got:?}"
            ));
        }
    }
    None
}

/// One after another: a connection that is still being made counts as a waiting request in Envoy and not with us (docs/design/0009), so each
/// finds the one before it connected, refused, or waiting. When all are there the backends answer.
async fn answers(stage: &Stage, port: u16, case: &Limited, volley: usize, group: String) -> Answers {
    let answered = Arc::new(AtomicUsize::new(0));
    let mut all = Vec::new();
    for (number, ask) in case.volleys[volley].iter().enumerate() {
        let (before, id) = (answered.load(Ordering::SeqCst), format!("{group}/{number}"));
        let hangs = ask.script.split(',').position(|step| step == "hang");
        let (task, answered_too) = ((ask.clone(), id.clone()), Arc::clone(&answered));
        all.push(tokio::spawn(async move {
            let (ask, id) = task;
            let answer = Client::new(port).send(&ask, &id).await;
            answered_too.fetch_add(1, Ordering::SeqCst);
            answer
        }));
        let Some(attempts) = hangs.map(|steps| steps + 1) else { continue };
        // The first attempt of those that may be queued; later ones never are.
        let patience = if attempts == 1 { QUEUED } else { LONG };
        let since = Instant::now();
        while stage.seen.count(&id) < attempts && answered.load(Ordering::SeqCst) == before && since.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    stage.seen.open(&group);
    let mut answers = Answers::new();
    for answer in all {
        let Answer { status, headers, body } = answer.await.expect("no panic");
        let overloaded = headers.iter().any(|(name, _)| name == "x-envoy-overloaded");
        *answers.entry((status, overloaded, if body.starts_with("port ") { "port".to_owned() } else { body })).or_default() += 1;
    }
    answers
}
