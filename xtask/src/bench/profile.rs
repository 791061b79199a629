//! `--profile`: perf on mesh-proxy while it serves, folded stacks in `target/bench/path.folded` (for any flame graph), and the functions
//! that cost most, by themselves and with what they call.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::stage::{Place, Stage, Variant};
use crate::cargo::{self, read};
use crate::ui::{note, say, step};

const SECONDS: u32 = 10;
const TOP: usize = 25;

pub(super) fn run(stage: &Stage) -> Result<()> {
    let dir = cargo::target().join("bench");
    std::fs::create_dir_all(&dir)?;
    let data = dir.join("path.perf");
    step("perf on mesh-proxy, 32 connections to the other node", || {
        let mut perf = Command::new("perf");
        // The CPU's own counters are missing in many virtual machines; the clock is everywhere.
        perf.args(["record", "--quiet", "-e", "cpu-clock", "-F", "299", "--call-graph", "dwarf,8192", "-o"]).arg(&data);
        perf.args(["-p", &stage.proxy()?.to_string(), "--", "sleep", &SECONDS.to_string()]);
        let mut perf = perf.stdout(Stdio::null()).spawn().context("cannot start perf")?;
        let load = stage.wrk(Variant::Proxy, Place::Far, 32, SECONDS + 2);
        perf.wait()?;
        load.map(drop)
    })?;
    let script = step("reading the samples", || {
        read(Command::new("perf").args(["script", "--no-inline", "-F", "comm,ip,sym", "-i"]).arg(&data))
    })?;
    let stacks = fold(&script);
    let folded: String = stacks.iter().map(|(stack, count)| format!("{stack} {count}\n")).collect();
    std::fs::write(dir.join("path.folded"), folded)?;
    std::fs::remove_file(data)?;
    note(&format!("{}", dir.join("path.folded").display()));
    say(&top("by themselves", &stacks, |stack| stack.rsplit(';').take(1).collect()));
    say(&top("with what they call", &stacks, |stack| stack.split(';').skip(1).filter(|name| *name != "[unknown]").collect()));
    say(&top("by system call", &stacks, |stack| BTreeSet::from([system_call(stack)])));
    Ok(())
}

/// The C library's function through which a stack entered the kernel.
fn system_call(stack: &str) -> &str {
    let frames: Vec<&str> = stack.split(';').collect();
    let entry = frames.iter().position(|name| name.starts_with("entry_SYSCALL"));
    entry.and_then(|entry| frames.get(entry.checked_sub(1)?)).copied().unwrap_or("none: in user space")
}

/// `perf script`'s blocks (a head line, then frames from the inside out) to `thread;outer;…;inner` and how often.
fn fold(script: &str) -> BTreeMap<String, u64> {
    let mut stacks = BTreeMap::new();
    for block in script.split("\n\n") {
        let mut lines = block.lines().filter(|line| !line.trim().is_empty());
        let Some(thread) = lines.next() else { continue };
        let mut frames: Vec<&str> = lines.filter_map(|line| Some(line.trim().split_once(' ')?.1.trim())).collect();
        frames.push(thread.trim());
        frames.reverse();
        *stacks.entry(frames.join(";")).or_default() += 1;
    }
    stacks
}

fn top(what: &str, stacks: &BTreeMap<String, u64>, of: fn(&str) -> BTreeSet<&str>) -> String {
    let all: u64 = stacks.values().sum();
    let mut costs: BTreeMap<&str, u64> = BTreeMap::new();
    for (stack, count) in stacks {
        for name in of(stack) {
            *costs.entry(name).or_default() += count;
        }
    }
    let mut costs: Vec<(&str, u64)> = costs.into_iter().collect();
    costs.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |(name, count): &(&str, u64)| format!("{:>6.1} %  {name}\n", percent(*count, all));
    format!("{all} samples; {what}:\n{}", costs.iter().take(TOP).map(line).collect::<String>())
}

#[expect(clippy::cast_precision_loss, reason = "some thousand samples")]
fn percent(part: u64, all: u64) -> f64 {
    part as f64 * 100.0 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_folded_from_the_outside_in() {
        let script = "proxy-0 \n\t ffff tcp_sendmsg\n\t  55aa main\n\nproxy-0 \n\t ffff tcp_sendmsg\n\t  55aa main\n\nproxy-1 \n\t  55aa a::b<c, d>\n";
        let stacks = fold(script);
        assert_eq!(stacks.get("proxy-0;main;tcp_sendmsg"), Some(&2));
        assert_eq!(stacks.get("proxy-1;a::b<c, d>"), Some(&1));
        let leaves = top("by themselves", &stacks, |stack| stack.rsplit(';').take(1).collect());
        assert!(leaves.contains("66.7 %  tcp_sendmsg"), "{leaves}");
        assert_eq!(system_call("proxy-0;main;writev;entry_SYSCALL_64_after_hwframe;tcp_sendmsg"), "writev");
        assert_eq!(system_call("proxy-0;main"), "none: in user space");
    }
}
