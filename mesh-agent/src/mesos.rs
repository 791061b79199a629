//! Asking the node's Mesos agent which containers it runs, and the kernel what tells their processes apart.
//!
//! There is no stream of task events: the agent is asked when a container directory comes or goes, and again as long as somebody waits.
//! What was said last holds while it does not answer.

use crate::cgroup;
use crate::core::enrol::host::{Mark, Task};
use crate::core::mesos::{self, Container, Identity};
use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// Between two questions, however many wait: Mesos collects usage of every container for each.
const PAUSE: Duration = Duration::from_millis(200);
/// After a question that was not answered.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(2);
/// The question for all outermost containers.
const CONTAINERS: &str = r#"{"type":"GET_CONTAINERS","get_containers":{"show_nested":false}}"#;
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A container takes about 2 kB; a node has hundreds.
const ANSWER_MAX: usize = 16 << 20;

/// What was said last; `None` before the first answer.
pub(crate) type Said = Option<Arc<Vec<Task>>>;

/// Where the Mesos agent is.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    authority: String,
}

impl Address {
    /// `http://HOST:PORT`.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let Some(authority) = url.strip_prefix("http://") else {
            bail!("{url:?} does not begin with http://: the Mesos agent is asked over the node's own network, without TLS");
        };
        let authority = authority.trim_end_matches('/');
        ensure!(!authority.is_empty() && !authority.contains('/'), "{url:?} is not http://HOST:PORT");
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        Ok(Self {
            authority: if has_port { authority.to_owned() } else { format!("{authority}:{}", mesh_common::ports::MESOS_AGENT) },
        })
    }
}

impl Address {
    /// Who a container is that has been made and does not run yet; `None` if it is no executor's.
    pub(crate) async fn identify(&self, container: &str) -> Result<Option<Identity>> {
        let ask = async {
            let Some(executor) = mesos::executor(&self.call(CONTAINERS).await?, container)? else { return Ok(None) };
            Ok(Some(mesos::identity(&self.call(r#"{"type":"GET_STATE"}"#).await?, &executor)?))
        };
        tokio::time::timeout(PATIENCE, ask).await.context("no answer in time").flatten()
    }

    async fn call(&self, question: &'static str) -> Result<Bytes> {
        let stream = TcpStream::connect(&self.authority).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::post("/api/v1").header(HOST, &self.authority);
        let request = request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "application/json");
        let response = sender.send_request(request.body(Full::new(Bytes::from_static(question.as_bytes())))?).await?;
        ensure!(response.status().is_success(), "{question} is answered with {}", response.status());
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        connection.abort();
        Ok(body.to_bytes())
    }
}

/// The one who asks.
pub(crate) struct Asker {
    pub(crate) address: Address,
    /// Mesos' runtime directory.
    pub(crate) runtime_dir: PathBuf,
    /// Where the programs are attached, and how deep that lies in the machine's tree.
    pub(crate) cgroup_root: PathBuf,
    pub(crate) depth: u32,
    pub(crate) said: watch::Sender<Said>,
    /// Rung when there is reason to ask.
    pub(crate) bell: Arc<Notify>,
}

impl Asker {
    /// Asks whenever the bell is rung, for ever.
    pub(crate) async fn run(self) {
        let mut failed = false;
        loop {
            self.bell.notified().await;
            match tokio::time::timeout(PATIENCE, self.ask()).await.context("no answer in time").flatten() {
                Ok(containers) => {
                    if std::mem::take(&mut failed) {
                        info!(agent = self.address.authority, "the Mesos agent answers again");
                    }
                    let tasks = Arc::new(tokio::task::block_in_place(|| self.resolve(containers)));
                    self.said.send_if_modified(|said| {
                        let changed = said.as_ref() != Some(&tasks);
                        *said = Some(tasks);
                        changed
                    });
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        let error = format!("{error:#}");
                        warn!(agent = self.address.authority, error, "the Mesos agent cannot be asked (--mesos-agent)");
                    }
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    async fn ask(&self) -> Result<Vec<Container>> {
        Ok(mesos::containers(&self.address.call(CONTAINERS).await?)?)
    }

    fn resolve(&self, containers: Vec<Container>) -> Vec<Task> {
        containers.into_iter().map(|container| self.task(container)).collect()
    }

    fn task(&self, container: Container) -> Task {
        // Mesos' own file is there before Mesos says so; Docker's containers have none.
        let file = self.runtime_dir.join("containers").join(&container.id).join("pid");
        let filed = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        let pid = filed.or(container.pid);
        let mut marks = BTreeSet::new();
        marks.extend(pid.and_then(|pid| cgroup_of(pid, &container.id, &self.cgroup_root, self.depth)));
        if cgroup::has_classes() {
            marks.extend(container.class.map(Mark::Class));
        }
        Task { instance: container.instance, pid, marks }
    }
}

/// The cgroup that is this container's alone.
fn cgroup_of(pid: u32, container: &str, root: &Path, depth: u32) -> Option<Mark> {
    let path = cgroup::path_of(pid)?;
    let own = mesos::own_cgroup(&path, container)?;
    let directory = cgroup::mount_of(root).join(own.trim_start_matches('/'));
    let below = directory.strip_prefix(root).ok()?.components().count();
    let id = cgroup::id(&directory).ok()?;
    Some(Mark::Cgroup { id, level: depth + u32::try_from(below).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_an_address_without_tls() {
        let authority = |url| Address::parse(url).map(|address| address.authority).map_err(|error| error.to_string());
        assert_eq!(authority("http://192.0.2.11:5051/").expect("valid"), "192.0.2.11:5051");
        assert_eq!(authority("http://agent.example").expect("valid"), "agent.example:5051");
        assert_eq!(authority("http://[fd01::1]").expect("valid"), "[fd01::1]:5051");
        assert!(authority("https://192.0.2.11:5051").expect_err("TLS").contains("without TLS"));
        assert!(authority("http://a/b").is_err() && authority("http://").is_err());
    }
}
