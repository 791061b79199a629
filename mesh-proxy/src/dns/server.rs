//! What all sockets share: the pure core, the resolvers, the limits and the counters.

use super::core::handler::{Core, Outcome, Unanswered};
use super::core::query::{Question, Transport};
use super::metrics::{Dropped, Metrics};
use super::tcp;
use super::upstream::Upstreams;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions of the whole node that may wait for resolvers; each holds a socket.
const NODE_QUESTIONS: usize = 2048;
/// Questions of one pod that may, so that one pod cannot take the node's.
const POD_QUESTIONS: usize = 256;
/// TCP connections of the whole node.
const NODE_CONNECTIONS: usize = 1024;
/// TCP connections of one pod.
const POD_CONNECTIONS: usize = 64;

/// The process.
#[derive(Debug)]
pub(super) struct Server {
    /// What answers depend on.
    pub(super) core: Mutex<Core>,
    /// Whom to ask.
    pub(super) upstreams: Upstreams,
    /// What happened.
    pub(super) metrics: Metrics,
    /// Permits for TCP connections.
    pub(super) connections: Arc<Semaphore>,
    /// How long a TCP connection may be silent.
    pub(super) tcp_idle: Duration,
    questions: Arc<Semaphore>,
}

/// A pod's share of the limits.
#[derive(Debug)]
pub(super) struct Pod {
    /// Marathon's instance id.
    pub(super) id: String,
    /// Permits for TCP connections.
    pub(super) connections: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

impl Pod {
    /// A pod with the usual limits.
    pub(super) fn new(id: String) -> Self {
        Self::with_limits(id, POD_QUESTIONS, POD_CONNECTIONS)
    }

    /// A pod with other limits.
    pub(super) fn with_limits(id: String, questions: usize, connections: usize) -> Self {
        Self { id, connections: Arc::new(Semaphore::new(connections)), questions: Arc::new(Semaphore::new(questions)) }
    }
}

/// The right to ask a resolver.
#[derive(Debug)]
pub(super) struct Permit {
    _node: OwnedSemaphorePermit,
    _pod: OwnedSemaphorePermit,
}

impl Server {
    /// A server that knows nothing yet.
    pub(super) fn new(upstreams: Upstreams) -> Self {
        Self {
            core: Mutex::default(),
            upstreams,
            metrics: Metrics::default(),
            connections: Arc::new(Semaphore::new(NODE_CONNECTIONS)),
            tcp_idle: tcp::IDLE,
            questions: Arc::new(Semaphore::new(NODE_QUESTIONS)),
        }
    }

    /// Looks at a message and answers at once if that is possible.
    pub(super) fn look(&self, message: &[u8], transport: Transport) -> Outcome {
        let outcome = self.core.lock().handle(message, transport, Instant::now());
        match &outcome {
            Outcome::Ignore(why) => self.metrics.dropped(transport, Dropped::Ignored(why.label())),
            Outcome::Reply(_, answered) => self.metrics.answered(transport, *answered),
            Outcome::Forward(_) => {}
        }
        outcome
    }

    /// May this pod ask a resolver now?
    pub(super) fn admit(&self, pod: &Pod) -> Result<Permit, Unanswered> {
        let of_pod = Arc::clone(&pod.questions).try_acquire_owned().map_err(|_none| Unanswered::PodLimit)?;
        let of_node = Arc::clone(&self.questions).try_acquire_owned().map_err(|_none| Unanswered::NodeLimit)?;
        Ok(Permit { _node: of_node, _pod: of_pod })
    }

    /// Asks the resolvers and gives the client's answer.
    pub(super) async fn forward(&self, question: &Question, transport: Transport, permit: Permit) -> Vec<u8> {
        self.metrics.waiting.inc();
        let said = self.upstreams.ask(question, &self.metrics).await;
        self.metrics.waiting.dec();
        drop(permit);
        self.complete(question, said, transport)
    }

    /// Gives the client's answer to a question that was not answered at once.
    pub(super) fn complete(&self, question: &Question, said: Result<Vec<u8>, Unanswered>, transport: Transport) -> Vec<u8> {
        let (answer, answered) = self.core.lock().complete(question, said, Instant::now());
        self.metrics.answered(transport, answered);
        answer
    }

    /// All of the above in a row. `None`: no answer.
    pub(super) async fn answer(&self, message: &[u8], transport: Transport, pod: &Pod) -> Option<Vec<u8>> {
        match self.look(message, transport) {
            Outcome::Ignore(_) => None,
            Outcome::Reply(answer, _) => Some(answer),
            Outcome::Forward(question) => Some(match self.admit(pod) {
                Ok(permit) => self.forward(&question, transport, permit).await,
                Err(why) => self.complete(&question, Err(why), transport),
            }),
        }
    }
}
