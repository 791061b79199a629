//! What all sockets share: the pure core, the resolvers, the limits and the counters.

use super::core::handler::{Core, Outcome, Unanswered, failure};
use super::core::learn::Learning;
use super::core::query::{Question, Transport};
use super::learner::{Learner, NotLearned};
use super::metrics::{Dropped, Metrics};
use super::tcp;
use super::upstream::Upstreams;
use crate::drain::Drain;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Questions of the whole node that may wait for resolvers; each holds a socket.
const NODE_QUESTIONS: usize = 2048;
/// Questions of one pod that may, so that one pod cannot take the node's.
const POD_QUESTIONS: usize = 256;
/// TCP connections of the whole node.
const NODE_CONNECTIONS: usize = 1024;
/// TCP connections of one pod.
const POD_CONNECTIONS: usize = 64;

/// How long a process that has just started lets questions wait for the control plane's names. What waited in the pods' sockets would get
/// the answer of a mesh without names, and resolvers take that for final. Below their patience of 5 s, since names outside need no
/// control plane.
const FIRST: Duration = Duration::from_secs(2);

/// The process.
#[derive(Debug)]
pub(super) struct Server {
    /// What answers depend on.
    pub(super) core: Mutex<Core>,
    /// Whom to ask.
    pub(super) upstreams: Upstreams,
    /// What happened.
    pub(super) metrics: Metrics,
    /// The way to the agent.
    pub(super) learner: Learner,
    /// The planned stop.
    pub(super) drain: Drain,
    /// Permits for TCP connections.
    pub(super) connections: Arc<Semaphore>,
    /// How long a TCP connection may be silent.
    pub(super) tcp_idle: Duration,
    questions: Arc<Semaphore>,
    started: tokio::time::Instant,
    told: watch::Sender<bool>,
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

/// What a message leads to.
#[derive(Debug)]
pub(super) enum Looked {
    /// Nothing.
    Ignore,
    /// This answer.
    Reply(Vec<u8>),
    /// An answer once somebody else has answered.
    Later(Work),
}

/// What an answer waits for.
#[derive(Debug)]
pub(super) enum Work {
    /// For a resolver.
    Ask(Box<Question>),
    /// For the agent.
    Learn(Box<Learning>),
}

impl Work {
    fn question(&self) -> &Question {
        match self {
            Self::Ask(question) => question,
            Self::Learn(learning) => &learning.question,
        }
    }
}

/// The right to ask a resolver or the agent.
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
            learner: Learner::default(),
            drain: Drain::default(),
            connections: Arc::new(Semaphore::new(NODE_CONNECTIONS)),
            tcp_idle: tcp::IDLE,
            questions: Arc::new(Semaphore::new(NODE_QUESTIONS)),
            started: tokio::time::Instant::now(),
            told: watch::Sender::default(),
        }
    }

    /// The control plane has told zones and names.
    pub(super) fn is_told(&self) {
        self.told.send_if_modified(|told| !std::mem::replace(told, true));
    }

    /// Returns once questions may be read: when that is so, or has taken too long.
    pub(super) async fn until_told(&self) {
        let mut told = self.told.subscribe();
        // The sender is ours, so only the time can run out.
        let _ = tokio::time::timeout_at(self.started + FIRST, told.wait_for(|told| *told)).await;
    }

    /// Looks at a message and answers at once if that is possible.
    pub(super) fn look(&self, message: &[u8], transport: Transport) -> Looked {
        let (outcome, heard) = {
            let mut core = self.core.lock();
            (core.handle(message, transport, Instant::now()), core.heard.take())
        };
        self.learner.tell(heard);
        self.count(outcome, transport)
    }

    fn count(&self, outcome: Outcome, transport: Transport) -> Looked {
        match outcome {
            Outcome::Ignore(why) => {
                self.metrics.dropped(transport, Dropped::Ignored(why.label()));
                Looked::Ignore
            }
            Outcome::Reply(answer, answered) => {
                self.metrics.answered(transport, answered);
                Looked::Reply(answer)
            }
            Outcome::Forward(question) => Looked::Later(Work::Ask(question)),
            Outcome::Learn(learning) => Looked::Later(Work::Learn(learning)),
        }
    }

    /// May this pod ask a resolver now?
    pub(super) fn admit(&self, pod: &Pod) -> Result<Permit, Unanswered> {
        let of_pod = Arc::clone(&pod.questions).try_acquire_owned().map_err(|_none| Unanswered::PodLimit)?;
        let of_node = Arc::clone(&self.questions).try_acquire_owned().map_err(|_none| Unanswered::NodeLimit)?;
        Ok(Permit { _node: of_node, _pod: of_pod })
    }

    /// Does what the answer waits for, and gives it. `None` never happens: a question that was taken is answered.
    pub(super) async fn finish(&self, work: Work, transport: Transport, permit: Permit) -> Option<Vec<u8>> {
        self.metrics.waiting.inc();
        let mut work = work;
        let answer = loop {
            let outcome = match &work {
                Work::Ask(question) => {
                    let said = self.upstreams.ask(question, &self.metrics).await;
                    let (outcome, heard) = {
                        let mut core = self.core.lock();
                        (core.complete(question, said, Instant::now()), core.heard.take())
                    };
                    self.learner.tell(heard);
                    outcome
                }
                Work::Learn(learning) => self.learn(learning).await,
            };
            match self.count(outcome, transport) {
                Looked::Ignore => break None,
                Looked::Reply(answer) => break Some(answer),
                Looked::Later(then) => work = then,
            }
        };
        self.metrics.waiting.dec();
        drop(permit);
        answer
    }

    /// Gives the client's answer to a question that nobody could be asked about.
    pub(super) fn fail(&self, work: &Work, why: Unanswered, transport: Transport) -> Option<Vec<u8>> {
        match self.count(failure(work.question(), why), transport) {
            Looked::Reply(answer) => Some(answer),
            Looked::Ignore | Looked::Later(_) => None,
        }
    }

    /// Waits for the agent. If it is away, what it had in force is still in force.
    async fn learn(&self, learning: &Learning) -> Outcome {
        let mut why = Unanswered::LearnAway;
        // Again only if the agent went away with the question.
        for _ in 0..2 {
            if !self.learner.is_there()
                && let Some(answer) = self.core.lock().memory.without_agent(learning)
            {
                return Outcome::Reply(answer, learning.answered);
            }
            why = match self.learner.learn(&learning.name, &learning.addresses, learning.agent_ttl()).await {
                Ok(()) => {
                    self.core.lock().memory.acknowledged(learning, Instant::now());
                    return Outcome::Reply(learning.render(), learning.answered);
                }
                Err(NotLearned::Lost) => continue,
                Err(NotLearned::Away) => Unanswered::LearnAway,
                Err(NotLearned::Timeout) => Unanswered::LearnTimeout,
            };
            break;
        }
        tracing::warn!(name = learning.name, ?why, "the agent does not let the addresses of a name pass; answered SERVFAIL");
        failure(&learning.question, why)
    }

    /// The agent is gone.
    pub(super) fn agent_lost(&self) {
        let mut core = self.core.lock();
        core.memory.agent_lost(Instant::now());
        core.heard.forget();
        drop(core);
        self.learner.lost();
    }

    /// All of the above in a row. `None`: no answer.
    pub(super) async fn answer(&self, message: &[u8], transport: Transport, pod: &Pod) -> Option<Vec<u8>> {
        match self.look(message, transport) {
            Looked::Ignore => None,
            Looked::Reply(answer) => Some(answer),
            Looked::Later(work) => match self.admit(pod) {
                Ok(permit) => self.finish(work, transport, permit).await,
                Err(why) => self.fail(&work, why, transport),
            },
        }
    }
}

#[cfg(test)]
mod tests;
