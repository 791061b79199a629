//! Asks the Mesos master which agents there are. What it said last stays while it does not answer.

use crate::core::mesos::{Agent, Slaves};
use crate::marathon::client::Client;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Agents come and go with machines. A large cluster's answer is some megabytes, so that it is not asked for more often than needed.
const PAUSE: Duration = Duration::from_secs(10);
/// The master's list; `/master/slaves` is the same.
const PATH: &str = "/slaves";

/// What the master said last; `None` before its first answer, or if there is none to ask.
pub(crate) type Said = Option<Arc<Vec<Agent>>>;

/// The one who asks.
pub(crate) struct Follower {
    pub(crate) client: Client,
    pub(crate) said: watch::Sender<Said>,
}

impl Follower {
    /// Asks for ever. A master that does not lead sends elsewhere, so all of them are tried in turns until the leader is found.
    pub(crate) async fn run(self) -> Infallible {
        let mut failed = false;
        loop {
            match self.client.get::<Slaves>(PATH).await {
                Ok(Some(slaves)) => {
                    failed = false;
                    let agents = slaves.agents();
                    self.said.send_if_modified(|said| {
                        let changed = said.as_deref() != Some(&agents);
                        if changed {
                            *said = Some(Arc::new(agents));
                        }
                        changed
                    });
                }
                other => {
                    let error = other.err().map_or_else(|| format!("it has no {PATH}"), |error| error.to_string());
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!(master = self.client.url(), error, "the Mesos master cannot be asked (--mesos-master)");
                    }
                    self.client.rotate();
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marathon::auth::Auth;
    use crate::marathon::client::no_tls;
    use crate::marathon::tests::fake::Fake;
    use serde_json::json;

    #[tokio::test]
    async fn what_the_master_lists_is_known() {
        let master = Fake::start().await;
        master.put(PATH, json!({"slaves": [{"id": "S0", "hostname": "192.0.2.11", "active": true}]}));
        let (said, mut heard) = watch::channel(None);
        let follower = Follower { client: Client::new(&[master.url()], no_tls(), Auth::NONE).expect("url"), said };
        let task = tokio::spawn(async { match follower.run().await {} });
        let heard = heard.wait_for(Option::is_some).await.expect("open").clone();
        assert_eq!(heard.expect("agents")[0].id, "S0");
        task.abort();
    }
}
