//! The initial RAM disk of a kernel under test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{PROGRAMS, absolute, agent};
use crate::cargo::{self, find, read};
use crate::install::{self, Kernel};
use crate::ui::step;

/// What comes before the exit code of a test program that has ended.
pub(super) const ENDED: &str = "the test program has ended: ";

/// Drivers that Debian's kernels have as modules, in the order in which they need each other.
const MODULES: [&str; 8] = ["inet_diag", "tcp_diag", "udp_diag", "raw_diag", "veth", "dummy", "sch_ingress", "cls_bpf"];

/// Programs of this machine that tests call, beside what busybox has.
const TOOLS: [&str; 2] = ["ip", "setpriv"];

/// Names by which busybox is called.
const BUSYBOX: [&str; 8] = ["sh", "mount", "insmod", "poweroff", "sleep", "timeout", "cat", "env"];

pub(super) struct Disk {
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
}

pub(super) fn build(kernel: &Kernel, programs: &BTreeMap<String, PathBuf>) -> Result<Disk> {
    let unpacked = install::kernel(kernel)?;
    let boot = only(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    let initrd = cargo::target().join(format!("kernels/{}.cpio", kernel.version));
    step(&format!("a RAM disk for Linux {}", kernel.version), || {
        let root = initrd.with_extension("root");
        let _ = fs::remove_dir_all(&root);
        for dir in ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tests", "tmp"] {
            fs::create_dir_all(root.join(dir))?;
        }
        fs::copy(find("busybox").context("busybox is not there")?, root.join("bin/busybox"))?;
        for name in BUSYBOX {
            symlink("busybox", root.join("bin").join(name))?;
        }
        for tool in TOOLS {
            let path = find(tool).with_context(|| format!("{tool} is not there"))?;
            place(&root, &path, &Path::new("bin").join(tool))?;
        }
        place(&root, &agent(), &absolute(&agent()))?;
        for (name, _) in PROGRAMS {
            place(&root, programs.get(name).with_context(|| format!("{name} was not built"))?, &Path::new("tests").join(name))?;
        }
        modules(&unpacked.join("lib/modules"), &root.join("modules"))?;
        // The agent's control plane goes by this name, as in its certificate.
        fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
        fs::write(root.join("init"), init())?;
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
        let pack = format!("cd {} && find . | cpio --quiet -o -H newc > {}", root.display(), initrd.display());
        read(Command::new("sh").args(["-c", &pack]))?;
        Ok(fs::remove_dir_all(&root)?)
    })?;
    Ok(Disk { kernel: boot, initrd })
}

/// A program without what only debuggers read, and the libraries that it is linked with.
fn place(root: &Path, program: &Path, name: &Path) -> Result<()> {
    let into = root.join(name);
    fs::create_dir_all(into.parent().context("a directory")?)?;
    read(Command::new("strip").arg("-o").arg(&into).arg(program))?;
    for library in libraries(&read(Command::new("ldd").arg(program))?) {
        let into = root.join(absolute(&library));
        if !into.exists() {
            fs::create_dir_all(into.parent().context("a directory")?)?;
            fs::copy(&library, &into).with_context(|| format!("cannot copy {}", library.display()))?;
        }
    }
    Ok(())
}

/// The files that `ldd` names.
fn libraries(text: &str) -> BTreeSet<PathBuf> {
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// The modules, without compression and numbered in their order.
fn modules(from: &Path, into: &Path) -> Result<()> {
    let listed = read(Command::new("find").arg(from).args(["-name", "*.ko*"]))?;
    for (number, module) in MODULES.iter().enumerate() {
        let is_it = |line: &&str| {
            Path::new(line).file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next()) == Some(module)
        };
        let found = listed.lines().find(is_it).with_context(|| format!("this kernel has no module {module}"))?;
        let out = into.join(format!("{number}-{module}.ko"));
        if found.ends_with(".xz") {
            read(Command::new("sh").args(["-c", &format!("xz -dc {found} > {}", out.display())]))?;
        } else {
            fs::copy(found, out)?;
        }
    }
    Ok(())
}

/// The first process. All directories are those of the RAM disk, also /run and /tmp: the build may be below either.
fn init() -> String {
    let mut script = "#!/bin/sh\nexport PATH=/bin\n\
        mount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n\
        mount -t cgroup2 cgroup2 /sys/fs/cgroup\nmount -t bpf bpf /sys/fs/bpf\n\
        for module in /modules/*; do insmod $module; done\nip link set lo up\ncat /proc/version\n"
        .to_owned();
    for (name, skipped) in PROGRAMS {
        let skipped: Vec<String> = skipped.iter().map(|test| format!(" --skip {test}")).collect();
        let _ =
            write!(script, "echo 'program: {name}'\n/tests/{name} --test-threads=1{}\necho \"{ENDED}$?\"\n", skipped.concat());
    }
    script + "poweroff -f\n"
}

fn only(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut found = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.filter_map(Result::ok);
    let found = found.find(|entry| entry.file_name().to_str().is_some_and(&wanted));
    Ok(found.with_context(|| format!("nothing of that name in {}", dir.display()))?.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_ldd_names() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let found: Vec<_> = libraries(text).into_iter().collect();
        assert_eq!(found, [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]);
        assert!(libraries("\tstatically linked\n").is_empty());
    }

    #[test]
    fn the_first_process_runs_each_program_and_says_how_it_ended() {
        let script = init();
        assert_eq!(script.matches(ENDED).count(), PROGRAMS.len());
        assert!(script.ends_with("poweroff -f\n"));
    }
}
