//! The suites. Every cargo call selects the whole workspace, so that dependencies are compiled once with one set of features, and
//! the node suites run test programs that one call has built.

use std::collections::BTreeSet;
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
    Suite { name: "install", what: "what the machine lacks", budget: 120, run: |_| super::install().map(|()| Tally::CHECK) },
    Suite { name: "fmt", what: "rustfmt", budget: 15, run: |_| check(cargo().args(["fmt", "--all", "--check"])) },
    Suite { name: "tidy", what: "rules of ARCHITECTURE.md", budget: 15, run: |_| tidy::check().map(|()| Tally::CHECK) },
    Suite { name: "deny", what: "licences, sources and bans of dependencies", budget: 15, run: deny },
    Suite { name: "ebpf", what: "the programs for the kernel", budget: 120, run: |_| ebpf::ensure().map(|()| Tally::CHECK) },
    Suite { name: "clippy", what: "lints, warnings are errors", budget: 210, run: clippy },
    Suite { name: "unit", what: "cargo test --workspace, without any privilege", budget: 360, run: unit },
    Suite { name: "build", what: "the binaries and the node suites' test programs", budget: 210, run: build },
    Suite {
        name: "sim",
        what: "the stand-in Marathon with real namespaces",
        budget: 45,
        run: |c| node(c, "marathon-sim", any, &[]),
    },
    Suite { name: "control", what: "mesh-control with the real kubectl", budget: 45, run: |c| node(c, "mesh-control", any, &[]) },
    Suite {
        name: "agent",
        what: "the loaded kernel programs",
        budget: 150,
        run: |c| node(c, "mesh-agent", any, &["--test-threads=1"]),
    },
    Suite { name: "kernels", what: "the kernel programs on Linux 6.1 and 6.12, emulated", budget: 240, run: kernels },
    Suite {
        name: "envoy",
        what: "the same resources and requests into mesh-proxy and a real Envoy",
        budget: 60,
        run: |c| {
            install::envoy()?;
            node(c, "mesh-proxy", any, &["--test-threads=1"])
        },
    },
    Suite {
        name: "e2e",
        what: "the real binaries on two nodes",
        budget: 720,
        run: |c| {
            install::envoy()?;
            node(c, "mesh-tests", |test| test != "browser", &["--test-threads=1"])
        },
    },
    Suite {
        name: "browser",
        what: "the shop in a real browser; pictures in target/test-artefacts/browser",
        budget: 75,
        run: |c| node(c, "mesh-tests", |test| test == "browser", &[]),
    },
];

/// For one test program, as `timeout` reads it; no suite's budget is larger.
const LIMIT: &str = "15m";

/// What cargo knows of the workspace.
pub(super) struct Context {
    metadata: Value,
}

impl Context {
    pub(super) fn new() -> Result<Self> {
        let text = read(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
        Ok(Self { metadata: serde_json::from_str(&text)? })
    }

    fn packages(&self) -> impl Iterator<Item = &Value> {
        self.metadata["packages"].as_array().into_iter().flatten()
    }

    /// `--features mesh-agent/node,…`: of each crate that has a feature `node`.
    fn features(&self) -> Vec<String> {
        let with = self.packages().filter(|package| package["features"]["node"].is_array());
        let names: Vec<String> = with.filter_map(|package| Some(format!("{}/node", package["name"].as_str()?))).collect();
        if names.is_empty() { Vec::new() } else { vec!["--features".into(), names.join(",")] }
    }

    /// The tests that need the feature `node`: (package, test). All others run in the suite `unit`, and only there.
    fn node_tests(&self) -> Vec<(String, String)> {
        let all =
            self.packages().flat_map(|package| package["targets"].as_array().into_iter().flatten().map(move |t| (package, t)));
        let needs =
            |target: &Value| target["required-features"].as_array().is_some_and(|all| all.iter().any(|one| one == "node"));
        let tests = all.filter(|(_, target)| target["kind"][0] == "test" && needs(target));
        tests.filter_map(|(package, target)| Some((package["name"].as_str()?.into(), target["name"].as_str()?.into()))).collect()
    }

    /// Where a package's manifest is.
    fn dir(&self, package: &str) -> Result<PathBuf> {
        let manifest = self.packages().find(|found| found["name"] == package).and_then(|found| found["manifest_path"].as_str());
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
    programs(context, any).map(|_| Tally::CHECK)
}

/// A test program, built with the crates' feature `node`.
#[derive(Debug, PartialEq)]
struct Program {
    package: String,
    test: String,
    path: PathBuf,
}

/// Those of the packages that are chosen.
fn programs(context: &Context, choose: fn(&str) -> bool) -> Result<Vec<Program>> {
    let wanted: Vec<_> = context.node_tests().into_iter().filter(|(package, _)| choose(package)).collect();
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]).args(context.features());
    for name in wanted.iter().map(|(_, test)| test).collect::<BTreeSet<_>>() {
        command.args(["--test", name]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the test programs do not compile");
    }
    let built = String::from_utf8_lossy(&output.stdout);
    // Two packages may have tests of one name, of which one needs no privilege.
    Ok(built.lines().filter_map(program).filter(|found| wanted.contains(&(found.package.clone(), found.test.clone()))).collect())
}

/// One line of cargo's JSON: a test program, if it is one.
fn program(line: &str) -> Option<Program> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["reason"] == "compiler-artifact" && message["target"]["kind"][0] == "test";
    let id = message["package_id"].as_str().filter(|_| is_test)?;
    let package = id.rsplit_once('#').map_or(id, |(path, rest)| match rest.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    });
    let test = message["target"]["name"].as_str()?;
    Some(Program { package: package.into(), test: test.into(), path: message["executable"].as_str()?.into() })
}

/// Runs those tests of a package that need the feature `node`, by name.
fn node(context: &Context, package: &str, choose: fn(&str) -> bool, arguments: &[&str]) -> Result<Tally> {
    if !nix::unistd::geteuid().is_root() {
        bail!("this suite makes namespaces and loads kernel programs, which need root: sudo -E cargo xtask test");
    }
    super::install()?;
    ebpf::ensure()?;
    let kubectl = install::kubectl()?;
    let dir = context.dir(package)?;
    let mut total = Tally::default();
    for program in programs(context, any)?.into_iter().filter(|found| found.package == package && choose(&found.test)) {
        eprintln!("▸ {package}: {}", program.test);
        // One that hangs must not take the other suites with it. SIGTERM to it alone: what it started ends with it, in order.
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--kill-after=30", LIMIT]).arg(&program.path).args(arguments);
        command.current_dir(&dir).env("CARGO_MANIFEST_DIR", &dir);
        command
            .env("MESH_KUBECTL", &kubectl)
            .env("MESH_ENVOY", install::envoy_path())
            .env("MESH_PROMTOOL", install::promtool_path())
            .env("MESH_BIN_DIR", cargo::target().join("debug"));
        total.add(counted(&mut command)?);
    }
    if total == Tally::default() {
        bail!("{package} has no test");
    }
    Ok(total)
}

/// The same programs on other kernels.
fn kernels(context: &Context) -> Result<Tally> {
    super::install()?;
    ebpf::ensure()?;
    let built = programs(context, |package| package == "mesh-agent")?;
    super::kernels::run(&built.into_iter().map(|program| (program.test, program.path)).collect())
}

fn any(_: &str) -> bool {
    true
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
        let message = |id: &str, kind: &str| {
            let target = serde_json::json!({ "kind": [kind], "name": "flows" });
            serde_json::json!({ "reason": "compiler-artifact", "package_id": id, "target": target, "executable": "/t/x" })
                .to_string()
        };
        let found = |id| program(&message(id, "test")).map(|found| (found.package, found.test));
        assert_eq!(found("path+file:///w/mesh-agent#0.1.0"), Some(("mesh-agent".into(), "flows".into())));
        assert_eq!(found("path+file:///w/tests#mesh-tests@0.1.0"), Some(("mesh-tests".into(), "flows".into())));
        assert_eq!(program(&message("path+file:///w/mesh-agent#0.1.0", "lib")), None);
        assert_eq!(program("not json"), None);
    }

    #[test]
    fn only_tests_that_need_privilege_are_node_tests() {
        let found = Context::new().unwrap().node_tests();
        assert!(found.contains(&("mesh-tests".into(), "browser".into())), "{found:?}");
        assert!(!found.iter().any(|(package, _)| package == "mesh-common"), "{found:?}");
    }

    #[test]
    fn a_program_that_dies_silently_is_a_failure() {
        let tally =
            counted(Command::new("sh").args(["-c", "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; exit 9"])).unwrap();
        assert_eq!(tally, Tally { passed: 2, failed: 1, ignored: 0 });
    }
}
