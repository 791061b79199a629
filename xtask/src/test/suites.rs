//! The suites. Every cargo call selects the whole workspace, so that dependencies are compiled once with one set of features, and
//! the node suites run test programs that one call has built.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::report::{Tally, parse};
use crate::cargo::{self, cargo, read, show};
use crate::{ebpf, install, tidy};

pub(super) struct Suite {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Seconds, cold, on two cores.
    pub(super) budget: u64,
    pub(super) run: fn(&Context) -> Result<Tally>,
}

pub(super) const SUITES: &[Suite] = &[
    Suite { name: "install", what: "what the machine lacks", budget: 180, run: |_| super::install().map(|()| Tally::CHECK) },
    Suite { name: "fmt", what: "rustfmt", budget: 15, run: |_| check(cargo().args(["fmt", "--all", "--check"])) },
    Suite { name: "tidy", what: "rules of ARCHITECTURE.md", budget: 15, run: |_| tidy::check().map(|()| Tally::CHECK) },
    Suite { name: "deny", what: "licences, sources and bans of dependencies", budget: 30, run: deny },
    Suite { name: "ebpf", what: "the programs for the kernel", budget: 180, run: |_| ebpf::ensure().map(|()| Tally::CHECK) },
    Suite { name: "clippy", what: "lints, warnings are errors", budget: 420, run: clippy },
    Suite { name: "unit", what: "cargo test --workspace, without any privilege", budget: 720, run: unit },
    Suite { name: "build", what: "the binaries and the node suites' test programs", budget: 180, run: build },
    Suite { name: "sim", what: "the stand-in Marathon with real namespaces", budget: 90, run: |c| node(c, "marathon-sim", &[]) },
    Suite { name: "control", what: "mesh-control with the real kubectl", budget: 120, run: |c| node(c, "mesh-control", &[]) },
    Suite {
        name: "agent",
        what: "the loaded kernel programs",
        budget: 150,
        run: |c| node(c, "mesh-agent", &["--test-threads=1"]),
    },
    Suite {
        name: "e2e",
        what: "the real binaries on two nodes",
        budget: 300,
        run: |c| node(c, "mesh-tests", &["--test-threads=1"]),
    },
];

/// What cargo knows of the workspace.
pub(super) struct Context {
    metadata: Value,
}

impl Context {
    pub(super) fn new() -> Result<Self> {
        let text = read(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        Ok(Self { metadata: serde_json::from_str(&text)? })
    }

    /// `--features mesh-agent/node,…`: of each crate that has a feature `node`.
    fn features(&self) -> Vec<String> {
        let packages = self.metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let with = packages.iter().filter(|package| package["features"]["node"].is_array());
        let names: Vec<String> = with.filter_map(|package| Some(format!("{}/node", package["name"].as_str()?))).collect();
        if names.is_empty() { Vec::new() } else { vec!["--features".into(), names.join(",")] }
    }

    /// Where a package's manifest is.
    fn dir(&self, package: &str) -> Result<PathBuf> {
        let packages = self.metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let manifest = packages.iter().find(|found| found["name"] == package).and_then(|found| found["manifest_path"].as_str());
        Ok(Path::new(manifest.with_context(|| format!("there is no package {package}"))?)
            .parent()
            .unwrap_or_else(|| Path::new("/"))
            .to_owned())
    }
}

fn check(command: &mut Command) -> Result<Tally> {
    show(command).map(|()| Tally::CHECK)
}

fn deny(_: &Context) -> Result<Tally> {
    install::cargo_deny()?;
    const WHAT: [&str; 4] = ["check", "bans", "licenses", "sources"];
    check(cargo().args(["deny", "--all-features"]).args(WHAT))?;
    check(cargo().args(["deny", "--manifest-path", "mesh-ebpf/Cargo.toml"]).args(WHAT))
}

fn clippy(context: &Context) -> Result<Tally> {
    let mut command = cargo();
    command.args(["clippy", "--workspace", "--all-targets"]).args(context.features());
    check(command.args(["--", "-D", "warnings"]))
}

/// Without capabilities even as root, so that a test which needs privilege fails here and not on a contributor's machine.
fn unit(_: &Context) -> Result<Tally> {
    let cargo = cargo();
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"]).arg(cargo.get_program());
        command.current_dir(cargo::root());
        command
    } else {
        cargo
    };
    counted(command.args(["test", "--workspace", "--no-fail-fast"]))
}

fn build(context: &Context) -> Result<Tally> {
    show(cargo().args(["build", "--workspace", "--bins"]))?;
    programs(context).map(|_| Tally::CHECK)
}

/// The test programs with the crates' feature `node`: (package, program).
fn programs(context: &Context) -> Result<Vec<(String, PathBuf)>> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]).args(context.features());
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the test programs do not compile");
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(program).collect())
}

/// One line of cargo's JSON: a test program, if it is one.
fn program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let id = message["package_id"].as_str().filter(|_| is_test)?;
    let name = id.rsplit_once('#').map_or(id, |(path, rest)| match rest.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    });
    Some((name.to_owned(), message["executable"].as_str()?.into()))
}

fn node(context: &Context, package: &str, arguments: &[&str]) -> Result<Tally> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this suite makes namespaces and loads kernel programs, which need root: sudo -E cargo xtask test");
    }
    ebpf::ensure()?;
    let kubectl = install::kubectl()?;
    let dir = context.dir(package)?;
    let mut total = Tally::default();
    for (_, program) in programs(context)?.into_iter().filter(|(name, _)| name == package) {
        let mut command = Command::new(&program);
        command.args(arguments).current_dir(&dir).env("CARGO_MANIFEST_DIR", &dir);
        command.env("MESH_KUBECTL", &kubectl).env("MESH_BIN_DIR", cargo::target().join("debug"));
        total.add(counted(&mut command)?);
    }
    if total == Tally::default() {
        bail!("{package} has no test");
    }
    Ok(total)
}

/// Shows the output line by line and counts its result lines. A program that fails without saying so is one failure.
fn counted(command: &mut Command) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", cargo::spell(command)))?;
    let mut tally = Tally::default();
    for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        if let Some(found) = parse(&line) {
            tally.add(found);
        }
    }
    if !child.wait()?.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budgets_are_forty_minutes() {
        assert_eq!(SUITES.iter().map(|suite| suite.budget).sum::<u64>(), 40 * 60);
    }

    #[test]
    fn test_programs_are_found_in_cargos_messages() {
        let message = |id: &str, test: bool| {
            serde_json::json!({ "reason": "compiler-artifact", "package_id": id, "profile": { "test": test }, "executable": "/t/x" }).to_string()
        };
        let found = |id| program(&message(id, true)).map(|(name, _)| name);
        assert_eq!(found("path+file:///w/mesh-agent#0.1.0").as_deref(), Some("mesh-agent"));
        assert_eq!(found("path+file:///w/tests#mesh-tests@0.1.0").as_deref(), Some("mesh-tests"));
        assert_eq!(program(&message("path+file:///w/mesh-agent#0.1.0", false)), None);
        assert_eq!(program("not json"), None);
    }

    #[test]
    fn a_program_that_dies_silently_is_a_failure() {
        let tally =
            counted(Command::new("sh").args(["-c", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 9"])).unwrap();
        assert_eq!(tally, Tally { passed: 2, failed: 1, ignored: 0 });
    }
}
