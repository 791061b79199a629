//! The commands that talk to a running stand-in through its socket.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::json;

use crate::faults::Faults;
use crate::node::{cgroup, layout, logs, sweep, task};

mod http;
mod select;

pub(crate) fn exec(state: &Path, pod: &str, container: Option<&str>, argv: &[String]) -> Result<()> {
    let instances = http::get(state, "/instances")?;
    let (_, container) = select::container(&instances, pod, container)?;
    let pid = container["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.with_context(|| format!("container {} does not run: {}", container["name"], container["status"]))?;
    let spec = std::fs::read_to_string(container["spec"].as_str().unwrap_or_default()).context("read the task's definition")?;
    match task::enter_and_exec(&serde_json::from_str(&spec)?, pid, argv)? {}
}

pub(crate) fn netns_exec(state: &Path, namespace: &str, argv: &[String]) -> Result<()> {
    let known: BTreeMap<String, String> = serde_json::from_value(http::get(state, "/namespaces")?)?;
    let names: Vec<&str> = known.keys().map(String::as_str).collect();
    let path = known.get(namespace).with_context(|| format!("no namespace {namespace}; there are {}", names.join(", ")))?;
    nix::sched::setns(std::fs::File::open(path)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let (program, arguments) = argv.split_first().context("nothing to execute")?;
    Err(std::process::Command::new(program).args(arguments).exec()).with_context(|| format!("execute {program}"))
}

pub(crate) fn instances(state: &Path, json: bool) -> Result<()> {
    let instances = http::get(state, "/instances")?;
    if json {
        println!("{instances:#}");
        return Ok(());
    }
    println!("{:<24} {:<6} {:<16} {:<11} {:<28} INSTANCE", "APP", "NODE", "ADDRESS", "CONDITION", "CONTAINERS");
    for i in instances.as_array().into_iter().flatten() {
        let text = |key: &str| i[key].as_str().unwrap_or("-").to_owned();
        let containers = i["containers"].as_array().into_iter().flatten();
        let containers: Vec<String> = containers.map(|c| format!("{}:{}", c["name"].as_str().unwrap_or("-"), c["pid"])).collect();
        println!(
            "{:<24} {:<6} {:<16} {:<11} {:<28} {}",
            text("app"),
            text("node"),
            text("address"),
            text("condition"),
            containers.join(","),
            text("id")
        );
        if let (false, Some(why)) = (i["running"] == true, i["lastFailure"].as_str()) {
            println!("    {why}");
        }
    }
    Ok(())
}

pub(crate) fn forward(state: &Path, app: &str, port: u16, listen: SocketAddr) -> Result<()> {
    let answer = http::post(state, "/forwards", &json!({"listen": listen, "app": app, "port": port}))?;
    println!("{}", answer["listen"].as_str().context("an address")?);
    Ok(())
}

pub(crate) fn faults(state: &Path, wanted: Option<Faults>) -> Result<()> {
    let answer = match wanted {
        Some(faults) => http::post(state, "/faults", &json!(faults))?,
        None => http::get(state, "/faults")?,
    };
    println!("{answer}");
    Ok(())
}

pub(crate) fn logs(state: &Path, pod: &str, container: Option<&str>, follow: bool) -> Result<()> {
    let instances = http::get(state, "/instances")?;
    let (_, container) = select::container(&instances, pod, container)?;
    let paths = ["stdout", "stderr"].map(|key| std::path::PathBuf::from(container[key].as_str().unwrap_or_default()));
    let mut positions = [0; 2];
    for path in &paths {
        let _ = std::fs::File::open(logs::older(path)).and_then(|mut file| std::io::copy(&mut file, &mut std::io::stdout()));
    }
    loop {
        for (path, position) in paths.iter().zip(&mut positions) {
            *position = copy_from(path, *position)?;
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Prints what is after `position`; from the start if the file was begun anew.
fn copy_from(path: &Path, position: u64) -> Result<u64> {
    let Ok(mut file) = std::fs::File::open(path) else { return Ok(0) };
    let position = if file.metadata()?.len() < position { 0 } else { position };
    file.seek(SeekFrom::Start(position))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let mut stdout = std::io::stdout();
    match stdout.write_all(&text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result?,
    }
    Ok(position + text.len() as u64)
}

/// Without a live run it removes what a killed one left.
pub(crate) fn down(state: &Path) -> Result<()> {
    let stopped = match http::post(state, "/shutdown", &json!({})) {
        Ok(answer) => answer,
        Err(_) if std::os::unix::net::UnixStream::connect(layout::socket(state)).is_err() => {
            sweep::dead_runs()?;
            let _ = std::fs::remove_file(layout::socket(state));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let pid = stopped["pid"].as_u64().and_then(|p| u32::try_from(p).ok()).context("the answer names no process")?;
    let start = layout::start_time(pid);
    let until = Instant::now() + Duration::from_secs(60);
    while start.is_some() && layout::start_time(pid) == start && !is_zombie(pid) {
        if Instant::now() > until {
            bail!("process {pid} does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let prefix = format!("{}{pid}-", layout::PREFIX);
    let root = layout::cgroup2_root()?;
    for entry in std::fs::read_dir(&root)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) && !cgroup::pids(&entry.path()).is_empty() {
            return Err(anyhow!("processes are left in {}", entry.path().display()));
        }
    }
    Ok(())
}

/// Ended, but its parent has not asked yet.
fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| s.rsplit_once(") ").is_some_and(|(_, r)| r.starts_with('Z')))
}
