//! The rules. Each takes one file and returns what it breaks; paths decide whom a rule concerns. Pure.

use super::{Complaint, File};

pub(super) const RULES: [fn(&File) -> Vec<Complaint>; 9] = [
    opens_with_doc,
    size,
    no_mod_rs,
    only_kernel_imports_aya,
    core_is_pure,
    edges,
    no_machine_path,
    lock_names_one_registry,
    no_ignored_test,
];

const LINES_WARN: usize = 300;
const LINES_MOST: usize = 500;

fn fatal(line: usize, text: impl Into<String>) -> Complaint {
    Complaint { line, text: text.into(), fatal: true }
}

/// Lines of Rust that are not wholly comment, numbered from 1.
fn code(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines = file.text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn is_rust(file: &File) -> bool {
    file.path.ends_with(".rs")
}

fn opens_with_doc(file: &File) -> Vec<Complaint> {
    // `tests.rs` is the tests of the module that it lies under; there is nothing to add to its name.
    if !is_rust(file) || file.text.starts_with("//!") || file.path.ends_with("/tests.rs") {
        return Vec::new();
    }
    vec![fatal(1, "opens without `//!`: what the module owns, who calls it, what it never does")]
}

fn size(file: &File) -> Vec<Complaint> {
    let lines = file.text.lines().count();
    if !is_rust(file) || lines <= LINES_WARN {
        return Vec::new();
    }
    vec![Complaint {
        line: lines,
        text: format!("{lines} lines; the aim is {LINES_WARN}, the end {LINES_MOST}"),
        fatal: lines > LINES_MOST,
    }]
}

fn no_mod_rs(file: &File) -> Vec<Complaint> {
    // Except where cargo would take a file directly under tests/ for a test program.
    if file.path.ends_with("/mod.rs") && file.path.contains("/src/") {
        vec![fatal(1, "foo.rs beside foo/, not foo/mod.rs: tabs of an editor tell them apart")]
    } else {
        Vec::new()
    }
}

fn only_kernel_imports_aya(file: &File) -> Vec<Complaint> {
    const MAY: [&str; 5] = ["mesh-agent/src/kernel", "mesh-agent/tests/", "mesh-common/src/abi", "mesh-ebpf/", "xtask/src/tidy/"];
    if !is_rust(file) || MAY.iter().any(|prefix| file.path.starts_with(prefix)) {
        return Vec::new();
    }
    uses(file, &["aya", "aya_log"])
        .map(|(line, name)| fatal(line, format!("only mesh-agent's kernel module speaks {name}")))
        .collect()
}

/// Pure: `core` of every crate, and all of mesh-common.
fn core_is_pure(file: &File) -> Vec<Complaint> {
    let is_core =
        file.path.contains("/src/core/") || file.path.ends_with("/src/core.rs") || file.path.starts_with("mesh-common/src/");
    if !is_rust(file) || !is_core {
        return Vec::new();
    }
    let aya = if file.path.starts_with("mesh-common/src/abi") { None } else { Some("aya") };
    let names: Vec<&str> = ["tokio", "hyper", "hyper_util", "tonic"].into_iter().chain(aya).collect();
    let imports = uses(file, &names)
        .map(|(line, name)| fatal(line, format!("core is pure: no {name}; take it as an argument, return an effect")));
    let clocks = ["Instant::now(", "SystemTime::now(", "Timestamp::now(", "rand::rng("];
    let reads = code(file).filter_map(|(line, text)| Some((line, clocks.iter().find(|clock| text.contains(**clock))?)));
    let reads = reads.map(|(line, clock)| fatal(line, format!("core is pure: time and randomness are arguments, not {clock})")));
    imports.chain(reads).collect()
}

/// Lines that name one of these crates as a path's first segment.
fn uses<'a>(file: &'a File, crates: &'a [&str]) -> impl Iterator<Item = (usize, &'a str)> {
    let named = |text: &str, name: &str| {
        let starts = text.match_indices(name).map(|(at, _)| at);
        starts.into_iter().any(|at| {
            let before = text[..at].chars().next_back();
            let after = &text[at + name.len()..];
            let begins = before.is_none_or(|char| !char.is_alphanumeric() && !"_:\"-.`/".contains(char));
            begins && (after.starts_with("::") || (after.starts_with(';') && text.contains("use ")))
        })
    };
    code(file).filter_map(move |(line, text)| Some((line, *crates.iter().find(|name| named(text, name))?)))
}

/// Which crates of ours a crate may depend on.
fn edges(file: &File) -> Vec<Complaint> {
    const MAY: [(&str, &[&str]); 10] = [
        ("bookinfo/Cargo.toml", &[]),
        ("tests/marathon-sim/Cargo.toml", &[]),
        ("xtask/Cargo.toml", &[]),
        ("mesh-common/Cargo.toml", &[]),
        ("mesh-ebpf/Cargo.toml", &["mesh-common"]),
        ("mesh-xds/Cargo.toml", &["mesh-common"]),
        ("tests/Cargo.toml", &["mesh-common"]),
        ("mesh-agent/Cargo.toml", &["mesh-common", "mesh-xds"]),
        ("mesh-control/Cargo.toml", &["mesh-common", "mesh-xds"]),
        ("mesh-proxy/Cargo.toml", &["mesh-common", "mesh-proxy-mutants", "mesh-xds"]),
    ];
    let Some((_, may)) = MAY.iter().find(|(path, _)| *path == file.path) else { return Vec::new() };
    let ours = ["mesh-", "marathon-sim", "bookinfo", "xtask"];
    let mut in_dependencies = false;
    let mut complaints = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        }
        let name = line.split([' ', '=', '.']).next().unwrap_or_default();
        if in_dependencies && ours.iter().any(|prefix| name.starts_with(prefix)) && !may.contains(&name) {
            complaints.push(fatal(index + 1, format!("no edge to {name}: crates meet in mesh-xds and mesh-common only")));
        }
    }
    complaints
}

/// Absolute paths of somebody's machine. The patterns are put together here, or this file would break its own rule.
fn no_machine_path(file: &File) -> Vec<Complaint> {
    let roots = ["root", "home", "work", "Users"].map(|dir| format!("/{dir}/"));
    let starts = |text: &str, at: usize| text[..at].chars().next_back().is_none_or(|char| " \t\"'`=(:[,".contains(char));
    let found = |text: &str| roots.iter().any(|root| text.match_indices(root.as_str()).any(|(at, _)| starts(text, at)));
    let lines = file.text.lines().enumerate().filter(|(_, text)| found(text));
    lines.map(|(index, _)| fatal(index + 1, "a path of one machine; nobody else has it")).collect()
}

/// Where a lock file's packages come from: crates.io's own index, whatever mirror the machine uses.
fn lock_names_one_registry(file: &File) -> Vec<Complaint> {
    if !file.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    const INDEX: &str = r#"source = "registry+https://github.com/rust-lang/crates.io-index""#;
    let foreign = file.text.lines().enumerate().filter(|(_, line)| line.starts_with("source = ") && *line != INDEX);
    foreign.map(|(index, _)| fatal(index + 1, "a package from elsewhere than crates.io")).collect()
}

fn no_ignored_test(file: &File) -> Vec<Complaint> {
    if !is_rust(file) {
        return Vec::new();
    }
    let attribute = format!("#[{}", "ignore");
    let found = code(file).filter(|(_, text)| text.trim_start().starts_with(&attribute));
    found.map(|(line, _)| fatal(line, "a test that does not run shows nothing: mend it or remove it")).collect()
}
