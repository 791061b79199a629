//! Each rule on a file that breaks it and on one that comes close.

use super::rules::RULES;
use super::*;

/// Lines of the complaints about a file.
fn broken(path: &str, text: &str) -> Vec<usize> {
    let file = File { path: path.into(), text: text.into() };
    RULES.iter().flat_map(|rule| rule(&file)).map(|complaint| complaint.line).collect()
}

#[test]
fn modules_open_with_a_doc() {
    assert_eq!(broken("a/src/x.rs", "use std::fmt;\n"), [1]);
    assert_eq!(broken("a/src/x.rs", "//! X.\n"), [0; 0]);
    assert_eq!(broken("README.md", "# X\n"), [0; 0]);
}

#[test]
fn long_files_are_told_and_longer_ones_refused() {
    let file = |lines: usize| File { path: "a/src/x.rs".into(), text: format!("//! X.\n{}", "fn f() {}\n".repeat(lines - 1)) };
    let fatal = |lines| RULES.iter().flat_map(|rule| rule(&file(lines))).map(|complaint| complaint.fatal).collect::<Vec<_>>();
    assert_eq!(fatal(300), [false; 0]);
    assert_eq!(fatal(301), [false]);
    assert_eq!(fatal(501), [true]);
}

#[test]
fn no_mod_files() {
    assert_eq!(broken("a/src/x/mod.rs", "//! X.\n"), [1]);
}

#[test]
fn aya_is_spoken_in_one_place() {
    for text in ["//! X.\nuse aya::Ebpf;\n", "//! X.\nfn f(x: &aya::maps::Map) {}\n", "//! X.\nuse aya;\n"] {
        assert_eq!(broken("mesh-agent/src/run.rs", text), [2], "{text}");
        assert_eq!(broken("mesh-agent/src/kernel/load.rs", text), [0; 0], "{text}");
    }
    for text in ["//! aya::Ebpf\n", "//! X.\nuse aya_ebpf::maps;\n", "//! X.\n// aya::x\n", "//! X.\nuse papaya::x;\n"] {
        assert_eq!(broken("mesh-agent/src/run.rs", text), [0; 0], "{text}");
    }
}

#[test]
fn core_takes_time_and_input_as_arguments() {
    for text in ["//! X.\nuse tokio::time;\n", "//! X.\nlet now = Instant::now();\n", "//! X.\nuse hyper_util::rt;\n"] {
        assert_eq!(broken("mesh-proxy/src/core/route.rs", text), [2], "{text}");
        assert_eq!(broken("mesh-proxy/src/run.rs", text), [0; 0], "{text}");
    }
    assert_eq!(broken("mesh-common/src/vip.rs", "//! X.\nuse tonic::Status;\n"), [2]);
    assert_eq!(broken("mesh-common/src/abi.rs", "//! X.\nunsafe impl aya::Pod for X {}\n"), [0; 0]);
}

#[test]
fn crates_meet_only_where_they_may() {
    assert_eq!(broken("bookinfo/Cargo.toml", "[dependencies]\nmesh-common = { workspace = true }\n"), [2]);
    assert_eq!(broken("mesh-agent/Cargo.toml", "[dependencies]\nmesh-xds.workspace = true\nmesh-proxy = \"0.1\"\n"), [3]);
    assert_eq!(broken("bookinfo/Cargo.toml", "[package]\nname = \"bookinfo\"\n[dependencies]\nbytes = \"1\"\n"), [0; 0]);
}

#[test]
fn paths_of_one_machine() {
    for dir in ["root", "home", "work"] {
        assert_eq!(broken("a.json", &format!("ok\n\"/{dir}/x\"\n")), [2]);
    }
    assert_eq!(broken("a.json", "{state}/node1/root/etc and /run/mesh\n"), [0; 0]);
}

#[test]
fn locks_name_crates_io() {
    let line = |from: &str| format!("source = \"registry+https://{from}\"\n");
    assert_eq!(broken("Cargo.lock", &line("github.com/rust-lang/crates.io-index")), [0; 0]);
    assert_eq!(broken("Cargo.lock", &line("mirror.example/index")), [1]);
}

#[test]
fn no_test_is_switched_off() {
    let text = format!("//! X.\n    #[{} = \"later\"]\n", "ignore");
    assert_eq!(broken("a/src/x.rs", &text), [2]);
}

#[test]
fn this_tree_can_be_read() {
    assert!(files().unwrap().iter().any(|file| file.path == "Cargo.toml"));
}
