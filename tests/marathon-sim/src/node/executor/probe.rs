//! Makes the attempts of health checks: from inside the task's network namespace to its loopback, as Mesos does, or as a command beside
//! the task.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::Executor;
use crate::core::Event;
use crate::core::health::{Attempt, Target};
use crate::node::netns::NetNs;

impl Executor {
    /// Returns at once; the result comes as an event.
    pub(super) fn probe(self: &Arc<Self>, attempt: Attempt) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let timeout = Duration::from_millis(u64::try_from(attempt.timeout_ms).unwrap_or(0));
            let result = match tokio::time::timeout(timeout, this.attempt(&attempt)).await {
                Ok(result) => result.map_err(|error| format!("{error:#}")),
                Err(_elapsed) => Err(format!("no answer within {timeout:?}")),
            };
            this.report(Event::Probed { task: attempt.task, check: attempt.check, result });
        });
    }

    async fn attempt(&self, attempt: &Attempt) -> Result<()> {
        let netns = self.instances.lock().get(&attempt.instance).map(|live| live.netns.clone());
        let netns = netns.context("the instance is gone")?;
        match &attempt.target {
            Target::Tcp { port } => netns.connect(loopback(*port)).await.map(drop),
            Target::Http { port, path } => http(&netns, *port, path).await,
            Target::Exec(argv) => {
                let pid = self.tasks.lock().get(&attempt.task).map(|process| process.pid).context("the task has ended")?;
                let mut command = Command::new("/proc/self/exe");
                command.arg("__enter").arg(self.layout.container(&attempt.uuid).join("task.json")).arg(pid.to_string());
                command.arg("--").args(argv).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let status = command.kill_on_drop(true).status().await?;
                if status.success() { Ok(()) } else { bail!("the command ended with {status}") }
            }
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn http(netns: &NetNs, port: u16, path: &str) -> Result<()> {
    let mut stream = netns.connect(loopback(port)).await?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: marathon-sim\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(tokio::io::AsyncReadExt::take(stream, 4096)).read_line(&mut line).await?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(code) => bail!("status {code}"),
        None => bail!("no HTTP status in the answer"),
    }
}
