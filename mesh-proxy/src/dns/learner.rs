//! Asks the agent to let addresses pass, and holds a pod's answer until it does. What needs to be learned is decided in
//! [`super::core::learn`]; the agent's answers come by way of [`super::pods`].

use crate::broker::Client;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

/// How long an answer may be held, the agent's return included: a client's own patience is 5 s, for all of it.
const WAIT: Duration = Duration::from_secs(1);

/// Questions to the agent. Their number is bounded by the permits of those who wait here.
#[derive(Debug)]
pub(super) struct Learner {
    client: OnceLock<Client>,
    there: watch::Sender<bool>,
    waiting: Mutex<Waiting>,
    pub(super) wait: Duration,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    answers: HashMap<u64, oneshot::Sender<()>>,
}

/// Why addresses are not known to be in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NotLearned {
    /// There is no agent.
    Away,
    /// It went away with the question.
    Lost,
    /// There is one, and it does not answer.
    Timeout,
}

impl Default for Learner {
    fn default() -> Self {
        Self { client: OnceLock::new(), there: watch::Sender::new(false), waiting: Mutex::default(), wait: WAIT }
    }
}

impl Learner {
    /// The way to the agent. Before it is set there is no agent.
    pub(super) fn set_client(&self, client: Client) {
        // Set once at the start; a second would be the same agent.
        let _ = self.client.set(client);
    }

    /// Is there an agent now?
    pub(super) fn is_there(&self) -> bool {
        *self.there.borrow()
    }

    /// The agent is there.
    pub(super) fn connected(&self) {
        self.there.send_replace(true);
    }

    /// The agent is gone, and with it what it was asked.
    pub(super) fn lost(&self) {
        self.there.send_replace(false);
        self.waiting.lock().answers.clear();
    }

    /// The agent has answered.
    pub(super) fn acknowledged(&self, id: u64) {
        if let Some(waiter) = self.waiting.lock().answers.remove(&id) {
            // Who waited may have given up just now.
            let _ = waiter.send(());
        }
    }

    /// Tells the agent names and addresses that nothing depends on. What finds no room is not told.
    pub(super) fn tell(&self, heard: Vec<(String, Vec<IpAddr>)>) {
        let Some(client) = self.client.get().filter(|_| !heard.is_empty() && self.is_there()) else { return };
        for (name, addresses) in heard {
            client.heard(name, addresses);
        }
    }

    /// Returns once the agent has these addresses in force; waits for an absent agent, too.
    pub(super) async fn learn(&self, name: &str, addresses: &[IpAddr], ttl_seconds: u32) -> Result<(), NotLearned> {
        let mut id = None;
        let learned = timeout(self.wait, async {
            let mut there = self.there.subscribe();
            // The sender is ours: it cannot be gone.
            let _ = there.wait_for(|there| *there).await;
            let client = self.client.get().ok_or(NotLearned::Away)?;
            let (sender, answer) = oneshot::channel();
            let number = {
                let mut waiting = self.waiting.lock();
                waiting.next += 1;
                let number = waiting.next;
                waiting.answers.insert(number, sender);
                number
            };
            id = Some(number);
            client.learned(number, name.to_owned(), addresses.to_vec(), ttl_seconds).await;
            answer.await.map_err(|_gone| NotLearned::Lost)
        });
        match learned.await {
            Ok(learned) => learned,
            Err(_elapsed) => {
                let Some(id) = id else { return Err(NotLearned::Away) };
                self.waiting.lock().answers.remove(&id);
                Err(NotLearned::Timeout)
            }
        }
    }
}
