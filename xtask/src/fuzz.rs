//! `cargo xtask fuzz [TARGET]`: inputs that nobody thought of, led by coverage, through what mesh-proxy reads from strangers. libFuzzer on the
//! stable compiler: its counters are inserted by an LLVM pass that needs no nightly. Whatever the inputs break is kept under target/fuzz/findings.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, find, read, root, spell, target};
use crate::install::{self, Package};
use crate::ui::{note, step};

/// The targets, what each reads, and its longest input in bytes: beyond it nothing new can happen, and short inputs are fast.
const TARGETS: [(&str, &str, u32); 6] = [
    ("detect", "first bytes of a connection", 64),
    ("request", "requests of clients, whole and in pieces", 512),
    ("response", "responses of endpoints, whole and in pieces", 512),
    ("sni", "TLS ClientHellos", 1024),
    ("matching", "route tables and requests, beside a naive model", 768),
    ("convert", "xDS resources", 4096),
];

/// What `-Zsanitizer=fuzzer` would do, on stable: edges counted, comparisons told to libFuzzer.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Set for the compiler that cargo calls through this program: see [`compile`].
const COMPILER: &str = "MESH_FUZZ_COMPILER";
/// Crates whose branches are counted. Those of others would lead libFuzzer away from ours, and cost most of the time of an input.
const COUNTED: &str = "mesh-";

/// Between two lines of progress.
const PULSE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// detect, request, response, sni, matching or convert; all of them if none is named.
    targets: Vec<String>,
    /// Inputs for each target.
    #[arg(long, default_value_t = 10_000_000)]
    runs: u64,
    /// Instead: choose the fewest inputs that reach everything, and put them into the corpus that is checked in.
    #[arg(long)]
    distil: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let chosen = chosen(&args.targets)?;
    if find("c++").is_none() {
        install::packages(&[Package("g++", "libFuzzer is written in C++")])?;
    }
    build()?;
    for (name, what, longest) in chosen {
        let inputs = directory("corpus", name)?;
        let kept = root().join("mesh-proxy/fuzz/corpus").join(name);
        std::fs::create_dir_all(&kept)?;
        let mut command = Command::new(target().join("fuzz").join(host()?).join("release").join(name));
        command.current_dir(root()).arg(format!("-max_len={longest}"));
        if args.distil {
            // By edges alone: an input for each count of each edge would be thousands.
            command.args(["-merge=1", "-use_counters=0", "-shuffle=0"]).arg(&kept).arg(&inputs);
            step(&format!("distilling the corpus of {name}"), || read(&mut command).map(drop))?;
        } else {
            let findings = directory("findings", name)?;
            command.arg(format!("-artifact_prefix={}/", findings.display())).arg(format!("-runs={}", args.runs));
            command.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]).arg(&inputs).arg(&kept);
            step(&format!("{name}: {} inputs of {what}", args.runs), || follow(&mut command))
                .with_context(|| format!("{name} found something: {}", findings.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen(names: &[String]) -> Result<Vec<(&'static str, &'static str, u32)>> {
    if names.is_empty() {
        return Ok(TARGETS.into());
    }
    let one = |name: &String| {
        let all = || TARGETS.map(|(name, _, _)| name).join(", ");
        TARGETS.into_iter().find(|(known, _, _)| known == name).with_context(|| format!("no target {name}; there are {}", all()))
    };
    names.iter().map(one).collect()
}

/// Cargo has no flags for single crates, but calls the compiler through a program of one's choice: this one.
fn build() -> Result<()> {
    let dir = root().join("mesh-proxy/fuzz");
    std::fs::copy(root().join("Cargo.lock"), dir.join("Cargo.lock")).context("the lock file cannot be copied")?;
    let mut command = cargo();
    command.current_dir(&dir).args(["build", "--release", "--bins", "--target", &host()?]);
    command.env("RUSTC_WRAPPER", std::env::current_exe()?).env(COMPILER, "1");
    command.env("CARGO_TARGET_DIR", target().join("fuzz")).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    step("building the fuzz targets, with all that they depend on", || crate::cargo::show(&mut command))
}

/// If cargo calls this program in the compiler's place: compiles, with counters if the crate is ours and no build script or macro (those are
/// compiled for no explicit target).
pub(crate) fn compile() -> Option<ExitCode> {
    std::env::var_os(COMPILER)?;
    let mut words = std::env::args_os().skip(1);
    let mut command = Command::new(words.next()?);
    let words: Vec<_> = words.collect();
    let ours = std::env::var("CARGO_PKG_NAME").is_ok_and(|name| name.starts_with(COUNTED));
    if ours && words.iter().any(|word| word == "--target") {
        command.args(FLAGS);
    }
    let status = command.args(words).status();
    let code = status.ok().and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The triple of this machine.
fn host() -> Result<String> {
    let verbose = read(Command::new("rustc").current_dir(root()).arg("-vV"))?;
    let host = verbose.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(host.to_owned())
}

fn directory(kind: &str, name: &str) -> Result<PathBuf> {
    let dir = target().join("fuzz").join(kind).join(name);
    std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    Ok(dir)
}

/// Runs libFuzzer; of its many lines, shows a status now and then, its statistics, and all that a failure prints.
fn follow(command: &mut Command) -> Result<()> {
    let mut child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", spell(command)))?;
    let stderr = child.stderr.take().context("libFuzzer's output is piped")?;
    let mut shown = Instant::now();
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        match kind(&line) {
            Line::Status if shown.elapsed() < PULSE && !line.contains("DONE") => {}
            Line::Status => {
                shown = Instant::now();
                note(&line);
            }
            Line::Chatter => {}
            Line::Other => note(&line),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("libFuzzer ended with {status}");
    }
    Ok(())
}

#[derive(Debug, Eq, PartialEq)]
enum Line {
    /// Inputs so far, edges, inputs kept, inputs a second.
    Status,
    /// What only libFuzzer's authors need.
    Chatter,
    /// The rest: statistics at the end, a panic and what led to it.
    Other,
}

fn kind(line: &str) -> Line {
    let chatter =
        ["INFO: ", "Recommended dictionary", "NEW_FUNC", "###### "].iter().any(|start| line.trim_start().starts_with(start));
    match line.strip_prefix('#').and_then(|rest| rest.split_ascii_whitespace().next()) {
        Some(count) if count.bytes().all(|byte| byte.is_ascii_digit()) => Line::Status,
        _ if chatter || (line.starts_with('"') && line.contains("# Uses:")) => Line::Chatter,
        _ => Line::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_targets_name_is_one_of_those_that_exist() {
        assert_eq!(chosen(&[]).unwrap().len(), TARGETS.len());
        assert_eq!(chosen(&["sni".to_owned()]).unwrap()[0].0, "sni");
        let error = chosen(&["sin".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "no target sin; there are detect, request, response, sni, matching, convert");
        for (name, _, _) in TARGETS {
            assert!(root().join(format!("mesh-proxy/fuzz/targets/{name}.rs")).is_file(), "{name}");
        }
    }

    #[test]
    fn a_failure_is_shown_whole_and_progress_now_and_then() {
        assert_eq!(kind("#4194304\tpulse  cov: 412 ft: 1507 corp: 322/14Kb lim: 64 exec/s: 199728 rss: 392Mb"), Line::Status);
        assert_eq!(kind("INFO: seed corpus: files: 12"), Line::Chatter);
        assert_eq!(kind("\"GET \" # Uses: 12"), Line::Chatter);
        assert_eq!(kind("==1== ERROR: libFuzzer: deadly signal"), Line::Other);
        assert_eq!(kind("stat::average_exec_per_sec:     180000"), Line::Other);
    }
}
