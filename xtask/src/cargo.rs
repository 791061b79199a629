//! Where things are, and how other programs are called: the workspace's root, the target directory, cargo and foreign toolchains.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root: where this crate's manifest was when it was compiled, unless the tree has moved since.
pub(crate) fn root() -> PathBuf {
    let compiled = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."));
    match std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).as_deref().and_then(Path::parent) {
        Some(now) if now.join("xtask").is_dir() => now.to_owned(),
        _ => compiled.to_owned(),
    }
}

pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that runs this program, in the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
        command.env_remove(name);
    }
    command
}

/// A command of another toolchain: without what rustup and `cargo run` put into the environment for this one, or that
/// toolchain would call this one's compiler.
pub(crate) fn foreign(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(belongs_to_this_toolchain) {
            command.env_remove(&name);
        }
    }
    command
}

fn belongs_to_this_toolchain(name: &str) -> bool {
    const STAYS: [&str; 5] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    const GOES: [&str; 5] = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTUP_TOOLCHAIN", "RUST_RECURSION_COUNT"];
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    (starts(&GOES) && !starts(&STAYS)) || name == "LD_LIBRARY_PATH"
}

/// Runs it with its output shown.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", spell(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", spell(command));
    }
    Ok(())
}

/// Runs it silently and returns what it printed; on failure its last words are part of the error.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", spell(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.trim().lines().collect();
        bail!("{} failed ({}):\n{}", spell(command), output.status, lines[lines.len().saturating_sub(12)..].join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn spell(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Is there an executable of this name in PATH?
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_toolchain_keeps_the_registry_and_loses_the_compiler() {
        for goes in
            ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR", "RUSTC", "RUSTC_WRAPPER", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH"]
        {
            assert!(belongs_to_this_toolchain(goes), "{goes}");
        }
        for stays in ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_PROXY", "RUSTUP_HOME", "PATH", "HOME"] {
            assert!(!belongs_to_this_toolchain(stays), "{stays}");
        }
    }

    #[test]
    fn a_failure_carries_the_commands_last_words() {
        let error = read(Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("no such luck"), "{error}");
    }

    #[test]
    fn the_root_is_the_workspace() {
        assert!(root().join("Cargo.toml").is_file() && root().join("xtask").is_dir());
    }
}
