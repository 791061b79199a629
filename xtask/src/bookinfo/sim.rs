//! The stand-in Marathon as a child process: started, waited for, held in the foreground, ended.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};
use serde_json::Value;

use super::images::Binaries;
use super::state::State;
use crate::cargo::read;
use crate::http;
use crate::ui::{self, Poll, note, step};

/// The child. Dropped in the foreground, it is ended and waited for.
pub(crate) struct Sim {
    child: Arc<Mutex<Child>>,
    state: State,
    detached: bool,
}

impl Sim {
    /// In the foreground the child holds a pipe from us: however we end, it ends and cleans up. Detached it has a session of its own.
    pub(crate) fn start(state: &State, args: &super::Args, binaries: &Binaries) -> Result<Self> {
        let log = state.join("sim.log");
        let program = binaries.path("marathon-sim");
        let mut command = if args.detach { Command::new("setsid") } else { Command::new(&program) };
        if args.detach {
            command.arg(&program).stdin(Stdio::null());
        } else {
            command.stdin(Stdio::piped()).process_group(0);
        }
        command.arg("run").arg("--state").arg(&state.dir).args(["--nodes", &args.nodes.to_string()]);
        command.arg("--images").arg(state.join("images.json"));
        // The world outside, a namespace of its own, plays this host: bookinfo/serviceEntry.yaml names it.
        command.args(["--outside-name", "httpbin.org=203.0.113.10"]);
        if !args.detach {
            command.arg("--die-with-stdin");
        }
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = Arc::new(Mutex::new(command.spawn().context("cannot start marathon-sim")?));
        note(&format!("the stand-in Marathon logs to {}", log.display()));
        if !args.detach {
            end_on_signal(&child, State::new(&state.dir))?;
        }
        Ok(Self { child, state: State::new(&state.dir), detached: args.detach })
    }

    /// Until a signal ends the process (see `end_on_signal`), or until the child ends by itself, which is an error.
    pub(crate) fn hold(&self) -> Result<()> {
        note("Ctrl-C ends the shop and leaves nothing behind");
        loop {
            if let Some(status) = lock(&self.child).try_wait()? {
                // `bookinfo down` from elsewhere.
                if status.success() {
                    return remove(&self.state);
                }
                bail!("marathon-sim ended by itself ({status}); its last words:\n{}", last_words(&self.state));
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        if !self.detached && end(&mut lock(&self.child), &self.state).is_err() {
            note("marathon-sim does not end; `cargo xtask bookinfo down` tries again");
        }
    }
}

fn lock(child: &Mutex<Child>) -> MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on Ctrl-C (or SIGTERM, SIGHUP) takes everything down in order, also while the mesh is still coming up.
fn end_on_signal(child: &Arc<Mutex<Child>>, state: State) -> Result<()> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let child = Arc::clone(child);
    std::thread::spawn(move || {
        if set.wait().is_err() {
            return;
        }
        let mut child = lock(&child);
        eprintln!();
        let outcome = step("taking the shop down", || end(&mut child, &state).and_then(|()| remove(&state)));
        if let Err(error) = &outcome {
            eprintln!("error: {error:#}");
        }
        std::process::exit(i32::from(outcome.is_err()));
    });
    Ok(())
}

/// Closes the child's standard input, which ends it, and waits. One that does not end is killed, and its remains are swept up.
fn end(child: &mut Child, state: &State) -> Result<()> {
    drop(child.stdin.take());
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            note("marathon-sim does not end by itself, so it is killed");
            child.kill()?;
            child.wait()?;
            return sweep(state);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// `marathon-sim down`: ends a living run in order, removes what a killed one left.
fn sweep(state: &State) -> Result<()> {
    let program = Binaries::of(state).path("marathon-sim");
    if !program.is_file() {
        bail!("{} is missing, which ends what runs on the nodes; build it and call `marathon-sim down`", program.display());
    }
    read(Command::new(program).arg("down").arg("--state").arg(&state.dir)).map(drop)
}

/// Ends a shop, running or dead.
pub(crate) fn down(state: &State) -> Result<()> {
    if !state.exists() {
        note(&format!("no shop in {}", state.dir.display()));
        return Ok(());
    }
    if !state.is_ours() {
        bail!("{} is not a directory of ours; nothing was touched", state.dir.display());
    }
    // Nothing was started from an empty one, so nothing of it can run.
    if !state.is_empty() {
        step("taking the shop down", || sweep(state))?;
    }
    remove(state)
}

/// The state directory, once nothing is mounted below it: removing through a mount would remove files of the machine.
pub(crate) fn remove(state: &State) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let dir = format!("{}/", state.dir.display());
    if mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| point.starts_with(&dir)) {
        bail!("something is still mounted below {dir}; nothing was removed. `cargo xtask bookinfo down` tries again");
    }
    Binaries::of(state).remove();
    match std::fs::remove_dir_all(&state.dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(format!("cannot remove {dir}")),
        _ => Ok(()),
    }
}

/// Removes what a run that is no longer alive left in the directory: its logs.
pub(crate) fn clear(state: &State) -> Result<()> {
    if state.exists() && state.is_ours() { remove(state) } else { Ok(()) }
}

/// Marathon's API as `host:port`, and the nodes' names, once both are there.
pub(crate) fn ready(state: &State) -> Result<(String, Vec<String>)> {
    let file = state.join("sim.json");
    ui::wait("waiting for the stand-in Marathon and its nodes", Duration::from_secs(60), || {
        let info = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        let Some(info) = info else { return Ok(Poll::Pending("not started yet".into())) };
        let url = info["marathon"].as_str().context("sim.json names no Marathon")?;
        let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let nodes = info["nodes"].as_array().context("sim.json names no nodes")?;
        let nodes = nodes.iter().filter_map(|node| node["name"].as_str().map(str::to_owned)).collect();
        match http::tcp(&address, "GET", "/v2/info", None, Duration::from_secs(2)) {
            Ok(answer) if answer.status == 200 => Ok(Poll::Ready((address, nodes))),
            Ok(answer) => Ok(Poll::Pending(format!("/v2/info answers {}", answer.status))),
            Err(error) => Ok(Poll::Pending(format!("{error:#}"))),
        }
    })
    .with_context(|| format!("marathon-sim did not come up; its last words:\n{}", last_words(state)))
}

/// Makes `127.0.0.1:port` of this machine lead to `to_port` of the first instance of `pod`.
pub(crate) fn forward(state: &State, binaries: &Binaries, port: u16, pod: &str, to_port: u16) -> Result<()> {
    let mut command = Command::new(binaries.path("marathon-sim"));
    command.arg("forward").arg("--state").arg(&state.dir).arg("--listen").arg(format!("127.0.0.1:{port}"));
    read(command.arg(pod).arg(to_port.to_string())).map(drop)
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port on localhost")?.local_addr()?.port())
}

/// The port that people expect, if it is free on this machine.
pub(crate) fn port(usual: u16) -> Result<u16> {
    if TcpListener::bind(("127.0.0.1", usual)).is_ok() { Ok(usual) } else { free_port() }
}

pub(crate) fn last_words(state: &State) -> String {
    let log = std::fs::read_to_string(state.join("sim.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn down_removes_an_empty_directory_and_nothing_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let (empty, others) = (State::new(&dir.path().join("empty")), State::new(&dir.path().join("others")));
        std::fs::create_dir(&empty.dir).unwrap();
        down(&empty).unwrap();
        assert!(!empty.exists());
        std::fs::create_dir(&others.dir).unwrap();
        std::fs::write(others.join("letter.txt"), "dear").unwrap();
        assert!(down(&others).unwrap_err().to_string().contains("is not a directory of ours"));
        assert!(others.join("letter.txt").is_file());
    }
}
