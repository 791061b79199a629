//! The agent's end of the CNI plugin: a unix socket for root, one question and one answer a connection. Who the container is says the
//! Mesos agent; the main loop enrols it.

use crate::broker::clear;
use crate::core::cni::{Answer, Question, Verb};
use crate::core::mesos::Identity;
use crate::mesos;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::warn;

/// Containers that start at a time, on a node that comes up with all its tasks.
pub(crate) const WAITING: usize = 256;
/// Conversations at a time: the main loop enrols one after the other, so more would only wait here. The next waits in the socket's backlog.
const CONVERSATIONS: usize = 32;
/// A question is an id, a path and some addresses.
const LINE: u64 = 64 * 1024;
/// For the question to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the main loop is asked to do.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Enrol this container before its first instruction.
    Enter(Question, Identity, oneshot::Sender<Answer>),
    /// It has ended.
    Leave(Question, oneshot::Sender<Answer>),
}

/// Opens the socket, for root only.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    clear(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves for ever.
pub(crate) async fn serve(listener: UnixListener, agent: mesos::Address, to_loop: mpsc::Sender<Admission>) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS));
    // The semaphore is never closed, so a place is always had in the end.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (agent, to_loop) = (agent.clone(), to_loop.clone());
                tokio::spawn(async move {
                    converse(stream, agent, to_loop).await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "cni: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, agent: mesos::Address, to_loop: mpsc::Sender<Admission>) {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(read.take(LINE));
    let answer = match tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await {
        Ok(Ok(_)) => match serde_json::from_str(&line) {
            Ok(question) => decide(question, &agent, &to_loop).await,
            Err(error) => Answer::Failed(format!("not a question of this version of mesh-agent cni: {error}")),
        },
        _ => return,
    };
    if let Ok(mut text) = serde_json::to_string(&answer) {
        text.push('\n');
        // A plugin that has gone does not hear it.
        let _ = write.write_all(text.as_bytes()).await;
    }
}

async fn decide(question: Question, agent: &mesos::Address, to_loop: &mpsc::Sender<Admission>) -> Answer {
    let (reply, answer) = oneshot::channel();
    let admission = if question.verb == Verb::Del {
        Admission::Leave(question, reply)
    } else {
        match agent.identify(&question.container).await {
            Ok(Some(identity)) => Admission::Enter(question, identity, reply),
            // A standalone container: nobody's workload.
            Ok(None) => return Answer::NotWanted,
            Err(error) => return Answer::Failed(format!("the Mesos agent does not say who the container is: {error:#}")),
        }
    };
    if to_loop.send(admission).await.is_err() {
        return Answer::Failed("the agent stops".to_owned());
    }
    answer.await.unwrap_or_else(|_dropped| Answer::Failed("the agent stops".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::MesosAgent;

    /// A conversation that lasts until it is hung up: half a question.
    async fn silent(path: &Path) -> UnixStream {
        UnixStream::connect(path).await.expect("connected")
    }

    #[tokio::test]
    async fn conversations_are_bounded_and_the_next_waits_its_turn() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("cni.sock");
        let (to_loop, _admissions) = mpsc::channel(1);
        let nobody = MesosAgent { mesos_agent: Some("http://127.0.0.1:1".to_owned()), ..MesosAgent::default() };
        let agent = mesos::Address::new(&nobody, [192, 0, 2, 11].into()).expect("address");
        tokio::spawn(serve(listen(&path).expect("listens"), agent, to_loop));
        let mut others = Vec::new();
        for _ in 0..CONVERSATIONS {
            others.push(silent(&path).await);
        }
        let mut next = silent(&path).await;
        next.write_all(b"nonsense\n").await.expect("the backlog takes it");
        let mut answer = String::new();
        // Nonsense is answered at once, where there is a place.
        let early = tokio::time::timeout(Duration::from_millis(300), next.read_to_string(&mut answer)).await;
        assert!(early.is_err(), "answered beside {CONVERSATIONS} others: {answer}");
        others.pop();
        next.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.contains("not a question"), "{answer}");
    }
}
