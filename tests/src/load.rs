//! A load inside a pod, held for as long as something happens to the mesh or to a service.

use crate::world::World;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

/// A running load; it ends by [`Load::finish`], and with the test in any case.
pub struct Load {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    started: Instant,
    rate: u32,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Answers of 2xx.
    pub good: u64,
    /// Everything else.
    pub bad: u64,
    /// All that the load says.
    pub said: Value,
}

impl Load {
    /// Starts and waits for the first answer.
    ///
    /// # Errors
    /// If there is no first answer.
    pub fn start(world: &World, pod: &str, target: [&str; 3], rate: u32, more: &[&str]) -> Result<Self> {
        let program = world.echo_program();
        let rate_text = rate.to_string();
        let arguments = [&[program.as_str(), "load"], &target[..], &["--rate", &rate_text], more].concat();
        let mut child = world.exec_command(pod, &arguments)?.stdin(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(line.trim() == "started", "the load in {pod} did not start: {line:?}");
        Ok(Self { child, stdin, stdout, started: Instant::now(), rate })
    }

    /// Goes on until this many requests were due, so that what happened lies in the midst of them.
    pub fn until_requests(&self, requests: u32) {
        let due = Duration::from_secs(u64::from(requests)) / self.rate;
        if let Some(wait) = due.checked_sub(self.started.elapsed()) {
            std::thread::sleep(wait);
        }
    }

    /// Ends the load and counts.
    ///
    /// # Errors
    /// If the load does not say what came of it.
    pub fn finish(mut self) -> Result<Outcome> {
        drop(self.stdin.take());
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        self.child.wait()?;
        let said: Value = serde_json::from_str(text.trim()).with_context(|| format!("the load said {text:?}"))?;
        let number = |field: &str| said[field].as_u64().unwrap_or_default();
        Ok(Outcome { good: number("good"), bad: number("other") + number("errors"), said })
    }

    /// Ends the load; nothing may have failed, and enough must have been asked.
    ///
    /// # Errors
    /// If something failed, or too little was asked; it says what.
    pub fn finish_without_failure(self, at_least: u64) -> Result<Outcome> {
        let outcome = self.finish()?;
        ensure!(outcome.bad == 0, "failed requests: {}", outcome.said);
        ensure!(outcome.good >= at_least, "only {} requests, {at_least} are wanted: {}", outcome.good, outcome.said);
        println!("{}", outcome.said);
        Ok(outcome)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
