//! `cargo xtask build-ebpf`: finds a compiler that has `core`'s source, builds mesh-ebpf for the kernel, says which way it took.
//! The object is `target/ebpf/bpfel-unknown-none/release/mesh-ebpf`; mesh-agent embeds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cargo::{find, foreign, read, root, show};
use crate::install::{self, LLVM, Package};
use crate::ui::{note, step};

/// A way to compile for `bpfel-unknown-none`, in the order of preference.
#[derive(Debug, PartialEq)]
enum Route {
    /// rustup's nightly with the component rust-src.
    Nightly,
    /// Debian's rustc-web, cargo-web and rust-web-src, beside whatever rustup has.
    Debian,
}

const CORE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

pub(crate) fn object() -> PathBuf {
    root().join("target/ebpf/bpfel-unknown-none/release/mesh-ebpf")
}

pub(crate) fn build() -> Result<()> {
    let (route, how) = route()?;
    install::bpf_linker()?;
    step(&format!("building the eBPF programs with {how}"), || {
        let mut command = match route {
            Route::Nightly => {
                let mut command = foreign("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Route::Debian => {
                let mut command = foreign("/usr/bin/cargo");
                command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.args(["build", "--release", "--locked", "--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
        command.current_dir(root().join("mesh-ebpf")).env("CARGO_TARGET_DIR", root().join("target/ebpf"));
        if find("bpf-linker").is_none() {
            command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", install::cargo_bin("bpf-linker"));
        }
        show(&mut command)
    })?;
    let size =
        std::fs::metadata(object()).with_context(|| format!("cargo ended well, but {} is missing", object().display()))?.len();
    note(&format!("target/ebpf/bpfel-unknown-none/release/mesh-ebpf, {} KiB", size / 1024));
    Ok(())
}

fn route() -> Result<(Route, String)> {
    let nightly = nightly();
    if let Ok(how) = &nightly {
        return Ok((Route::Nightly, how.clone()));
    }
    if debian().is_err() && find("apt-get").is_some() && nix::unistd::geteuid().is_root() {
        install::packages(&[
            Package("rustc-web", "a Rust compiler whose core library can be built for the kernel"),
            Package("cargo-web", "belongs to it"),
            Package("rust-web-src", "the source of its core library"),
        ])?;
    }
    match (nightly, debian()) {
        (_, Ok(how)) => Ok((Route::Debian, how)),
        (Ok(how), _) => Ok((Route::Nightly, how)),
        (Err(nightly), Err(debian)) => bail!(
            "no Rust compiler here has the source of its core library, which eBPF needs.\n  rustup's nightly: {nightly:#}\n  Debian's: {debian:#}\n\
             One of these installs one:\n  apt-get install rustc-web cargo-web rust-web-src      (as root, Debian)\n  \
             rustup toolchain install nightly --profile minimal --component rust-src"
        ),
    }
}

fn nightly() -> Result<String> {
    let rustup = find("rustup").context("rustup is not there")?;
    let rustc = |arguments: &[&str]| read(foreign(&rustup).args(["run", "nightly", "rustc"]).args(arguments));
    let sysroot = rustc(&["--print", "sysroot"]).context("there is no nightly")?;
    if !Path::new(sysroot.trim()).join(CORE).is_file() {
        bail!("it lacks the component rust-src");
    }
    fits(&rustc(&["-vV"])?).map(|version| format!("rustup's nightly and its rust-src ({version})"))
}

fn debian() -> Result<String> {
    if !Path::new("/usr/bin/rustc").is_file() || !Path::new("/usr/bin/cargo").is_file() {
        bail!("rustc-web and cargo-web are not installed");
    }
    if !Path::new("/usr").join(CORE).is_file() {
        bail!("rust-web-src is not installed");
    }
    fits(&read(foreign("/usr/bin/rustc").arg("-vV"))?).map(|version| format!("Debian's rustc-web and rust-web-src ({version})"))
}

/// bpf-linker reads the compiler's bitcode, so its LLVM must not be older than the compiler's.
fn fits(verbose: &str) -> Result<String> {
    let field = |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:").context("rustc -vV names no LLVM")?;
    let major: u32 = llvm.split('.').next().unwrap_or_default().parse().context("rustc -vV names a strange LLVM")?;
    let release = field("release:").unwrap_or("of unknown release");
    if major > LLVM {
        bail!("rustc {release} has LLVM {major}, newer than bpf-linker's {LLVM}");
    }
    Ok(format!("rustc {release}, LLVM {major}"))
}

/// Whether the object is there and newer than everything that it is made from; a no-op build costs seconds, this nothing.
pub(crate) fn is_fresh() -> bool {
    let Ok(built) = std::fs::metadata(object()).and_then(|object| object.modified()) else { return false };
    let mut sources =
        vec![root().join("mesh-ebpf/Cargo.toml"), root().join("mesh-ebpf/Cargo.lock"), root().join("mesh-common/Cargo.toml")];
    for dir in ["mesh-ebpf/src", "mesh-ebpf/.cargo", "mesh-common/src"] {
        collect(&root().join(dir), &mut sources);
    }
    let older = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).is_ok_and(|changed| changed < built);
    sources.iter().all(older)
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() { collect(&path, into) } else { into.push(path) }
    }
}

/// Used by the shop and the tests: builds only when a source is newer. The toolchain may be another one than last time; that
/// does not change the object's meaning.
pub(crate) fn ensure() -> Result<()> {
    if is_fresh() {
        note("the eBPF programs are up to date");
        return Ok(());
    }
    build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_newer_than_the_linker_does_not_fit() {
        let verbose = |llvm: &str| format!("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: {llvm}\n");
        assert_eq!(fits(&verbose("22.1.8")).unwrap(), "rustc 1.96.0, LLVM 22");
        assert!(fits(&verbose("21.0")).is_ok());
        assert!(fits(&verbose("23.0")).unwrap_err().to_string().contains("newer than bpf-linker's 22"));
        assert!(fits("rustc 1.96.0").is_err());
    }
}
