//! The stand-in Marathon as a child process: started, waited for, held in the foreground, ended.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

use super::images::Binaries;
use super::state::State;
use crate::cargo::read;
use crate::http;
use crate::ui::{self, Poll, note, step};

pub(crate) struct Sim<'a> {
    child: Child,
    state: &'a State,
}

impl<'a> Sim<'a> {
    /// In the foreground the child holds a pipe from us: however we end, it ends and cleans up. Detached it has a session of its own.
    pub(crate) fn start(state: &'a State, args: &super::Args, binaries: &Binaries) -> Result<Self> {
        let log = state.join("sim.log");
        let program = binaries.path("marathon-sim");
        let mut command = if args.detach { Command::new("setsid") } else { Command::new(&program) };
        if args.detach {
            command.arg(&program).stdin(Stdio::null());
        } else {
            command.stdin(Stdio::piped()).process_group(0);
        }
        command.arg("run").arg("--state").arg(&state.dir).args(["--nodes", &args.nodes.to_string()]);
        command.arg("--images").arg(state.join("images.json")).args(["--marathon-listen", "127.0.0.1:0"]);
        if !args.detach {
            command.arg("--die-with-stdin");
        }
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
        let _ = std::fs::remove_file(state.join("marathon.url"));
        note(&format!("the stand-in Marathon logs to {}", log.display()));
        let child = command.spawn().context("cannot start marathon-sim")?;
        Ok(Self { child, state })
    }

    /// Until Ctrl-C (or until the child ends by itself, which is an error); then nothing is left.
    pub(crate) fn hold(&mut self) -> Result<()> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let signals = SignalFd::new(&set)?;
        note("Ctrl-C ends the shop and leaves nothing behind");
        loop {
            let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(500u16))? > 0 {
                break;
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("marathon-sim ended by itself ({status}); its last words:\n{}", last_words(self.state));
            }
        }
        eprintln!();
        step("taking the shop down (Ctrl-C again does not hurry it)", || {
            drop(self.child.stdin.take());
            let start = Instant::now();
            while self.child.try_wait()?.is_none() {
                if start.elapsed() > Duration::from_secs(40) {
                    bail!("marathon-sim does not end; `cargo xtask bookinfo down` tries again");
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        })?;
        remove(self.state)
    }
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
    let program = Binaries::of(state).path("marathon-sim");
    if !program.is_file() {
        bail!("{} is missing, which ends what runs on the nodes; `cargo xtask bookinfo` puts it back", program.display());
    }
    step("taking the shop down", || read(Command::new(program).arg("down").arg("--state").arg(&state.dir)).map(drop))?;
    remove(state)
}

/// The state directory, once nothing is mounted below it: removing through a mount would remove files of the machine.
fn remove(state: &State) -> Result<()> {
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

/// `host:port` of Marathon's API, once it answers.
pub(crate) fn marathon(state: &State) -> Result<String> {
    let file = state.join("marathon.url");
    ui::wait("waiting for the stand-in Marathon", Duration::from_secs(60), || {
        let Ok(url) = std::fs::read_to_string(&file) else { return Ok(Poll::Pending("not started yet".into())) };
        let address = url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
        match http::tcp(&address, "GET", "/v2/info", None, Duration::from_secs(2)) {
            Ok(answer) if answer.status == 200 => Ok(Poll::Ready(address)),
            Ok(answer) => Ok(Poll::Pending(format!("/v2/info answers {}", answer.status))),
            Err(error) => Ok(Poll::Pending(format!("{error:#}"))),
        }
    })
    .with_context(|| format!("marathon-sim did not come up; its last words:\n{}", last_words(state)))
}

/// The nodes' names, once all have a file system.
pub(crate) fn nodes(state: &State, count: u8) -> Result<Vec<String>> {
    ui::wait("waiting for the simulated nodes", Duration::from_secs(30), || {
        let mut names: Vec<String> = std::fs::read_dir(&state.dir)?
            .filter_map(Result::ok)
            .filter(|entry| entry.path().join("root").is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        if names.len() == usize::from(count) {
            return Ok(Poll::Ready(names));
        }
        Ok(Poll::Pending(format!("{} of {count} are there", names.len())))
    })
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

/// The page's own port if it is free on this machine, since that is the one people expect.
pub(crate) fn page_port() -> Result<u16> {
    if TcpListener::bind("127.0.0.1:9080").is_ok() { Ok(9080) } else { free_port() }
}

pub(crate) fn last_words(state: &State) -> String {
    let log = std::fs::read_to_string(state.join("sim.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
