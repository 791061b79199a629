//! Connections of a pod, one after another, each with its time and its answer.

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::world::World;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// By the clock that the recorder in the pod reads too.
pub(super) fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

/// One connection.
struct Seen {
    began: u128,
    ended: u128,
    code: u16,
    line: String,
}

#[derive(Default)]
struct Log {
    seen: Vec<Seen>,
    over: bool,
}

pub(super) struct Recorder {
    child: Child,
    stdin: Option<ChildStdin>,
    log: Arc<(Mutex<Log>, Condvar)>,
}

impl Recorder {
    pub(super) fn start(world: &World, pod: &str, port: u16, path: &str) -> Result<Self> {
        let (program, port) = (world.echo_program(), port.to_string());
        let mut command = world.exec_command(pod, &[&program, "record", "flips", &port, path])?;
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("no stdout")?);
        let log = Arc::<(Mutex<Log>, Condvar)>::default();
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            let (log, changed) = &*written;
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let seen = parse(&line);
                log.lock().unwrap_or_else(PoisonError::into_inner).seen.push(seen);
                changed.notify_all();
            }
            log.lock().unwrap_or_else(PoisonError::into_inner).over = true;
            changed.notify_all();
        });
        Ok(Self { child, stdin, log })
    }

    /// Until a connection that began after this has ended.
    pub(super) fn until_began(&self, after: u128, limit: Duration) -> Result<()> {
        let (log, changed) = &*self.log;
        let log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let early = |log: &mut Log| !log.over && log.seen.last().is_none_or(|last| last.began < after);
        let (log, waited) = changed.wait_timeout_while(log, limit, early).unwrap_or_else(PoisonError::into_inner);
        ensure!(!log.over, "the recorder has ended");
        ensure!(!waited.timed_out(), "no connection began and ended in {limit:?}");
        Ok(())
    }

    /// Connections that began and ended between these had this answer.
    pub(super) fn all_between(&self, from: u128, to: u128, code: u16) -> Result<()> {
        let log = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut within = log.seen.iter().rev().take_while(|seen| seen.began >= from).filter(|seen| seen.ended <= to);
        match within.find(|seen| seen.code != code) {
            Some(other) => bail!("{code} is wanted from {from} to {to}: {}", other.line),
            None => Ok(()),
        }
    }

    /// Ends it; every connection at any time had the one or the other answer.
    pub(super) fn finish(mut self, at_least: u64) -> Result<()> {
        drop(self.stdin.take());
        self.child.wait()?;
        let log = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lost: Vec<&str> =
            log.seen.iter().filter(|seen| ![200, 403].contains(&seen.code)).map(|seen| seen.line.as_str()).collect();
        ensure!(lost.is_empty(), "{} of {} connections were lost: {:?}", lost.len(), log.seen.len(), &lost[..lost.len().min(5)]);
        ensure!(log.seen.len() as u64 >= at_least, "only {} connections", log.seen.len());
        let slowest = log.seen.iter().max_by_key(|seen| seen.ended.saturating_sub(seen.began));
        println!("{} connections recorded, the slowest: {}", log.seen.len(), slowest.map_or("", |seen| &seen.line));
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Seen {
    let mut fields = line.split(' ');
    let (began, ended) = (fields.next().and_then(|f| f.parse().ok()), fields.next().and_then(|f| f.parse().ok()));
    let code = fields.next().and_then(|f| f.parse().ok()).unwrap_or(0);
    Seen { began: began.unwrap_or(0), ended: ended.unwrap_or(0), code, line: line.to_owned() }
}
