//! Suite `kernels`: the loaded programs on Debian's kernels, emulated by qemu, so that it runs on any machine. Each kernel boots with nothing but
//! an initial RAM disk: busybox, `ip`, mesh-agent and its test programs; nothing of it reaches a network or a disk.

mod disk;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::report::{Tally, parse};
use crate::cargo::{self, spell};
use crate::install::{self, Kernel};

/// The kernels that docs/kernels.md tells of.
const KERNELS: [Kernel; 2] = [
    Kernel { version: "6.1", package: "linux-image-cloud-amd64" },
    Kernel { version: "6.12", package: "linux-image-6.12-cloud-amd64" },
];

/// Test programs of mesh-agent, and what of each is left out under emulation (as libtest's `--skip` reads it).
pub(super) const PROGRAMS: [(&str, &[&str]); 5] = [
    // Programs that load, hooks that fire, hand-over, datagrams, refusals.
    ("node_flows", &[]),
    // Captured ports: sockops callbacks, bind hooks, sk_lookup of what comes in.
    ("node_inbound", &[]),
    // What sockops counts of connections in kernel mode, through the real agent.
    ("node_edges", &[]),
    // What a kernel gives the guard of a veth differs most: TCX or filters, and which packets still have a socket.
    ("node_guard", &[]),
    // Left out are sizes, which no kernel changes, and which take a minute each here.
    ("node_vips", &["a_mesh_of_50_000_backends_fits", "each_full_table_of_services", "weights_come_out_over_20_000"]),
];

/// Seconds, for a machine that is busy with other things: a kernel that hangs is a failure, and must not take the other suites with it.
const LIMIT: &str = "900";

/// Runs the programs on each kernel, both at a time: each has one processor.
pub(super) fn run(programs: &BTreeMap<String, PathBuf>) -> Result<Tally> {
    install::packages(&install::KERNELS)?;
    let disks = KERNELS.iter().map(|kernel| Ok((kernel, disk::build(kernel, programs)?))).collect::<Result<Vec<_>>>()?;
    let outcomes: Vec<Result<Tally>> = std::thread::scope(|scope| {
        let running: Vec<_> = disks.iter().map(|(kernel, disk)| scope.spawn(move || boot(kernel, disk))).collect();
        running.into_iter().map(|one| one.join().unwrap_or_else(|_panic| bail!("a thread panicked"))).collect()
    });
    let mut total = Tally::default();
    for outcome in outcomes {
        total.add(outcome?);
    }
    Ok(total)
}

fn boot(kernel: &Kernel, disk: &disk::Disk) -> Result<Tally> {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", LIMIT, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "2048", "-smp", "1"]);
    command.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(&disk.kernel).arg("-initrd").arg(&disk.initrd);
    command.args(["-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", spell(&command)))?;
    let (mut tally, mut ended) = (Tally::default(), 0);
    for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        println!("{}: {line}", kernel.version);
        if let Some(found) = parse(line) {
            tally.add(found);
        }
        if let Some(code) = line.strip_prefix(disk::ENDED) {
            ended += 1;
            // One that dies before it has counted is a failure all the same.
            if code.trim() != "0" && tally.failed == 0 {
                tally.failed = 1;
            }
        }
    }
    child.wait()?;
    if ended != PROGRAMS.len() {
        println!("{}: {ended} of {} test programs came to an end", kernel.version, PROGRAMS.len());
        tally.failed += 1;
    }
    Ok(tally)
}

/// Where cargo has put mesh-agent: its tests start it by this very path.
fn agent() -> PathBuf {
    cargo::target().join("debug/mesh-agent")
}

fn absolute(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}
