//! The kernel half as the rest of the agent sees it: loaded, pinned, attached, filled. Only this module and its children import aya.
//!
//! Everything is pinned under `<bpffs>/mesh`, so that the kernel half goes on without an agent:
//!
//! | path | what |
//! |---|---|
//! | `CONFIG`, `SERVICES`, ... | the maps of `abi::maps` |
//! | `links/connect4`, ... | the programs at the cgroup root |
//! | `links/steer_node` | the sk_lookup program of the node's own namespace, once a workload of it was enrolled |
//! | `guards/COOKIE-IFINDEX-HOOK` | the tc programs at the host's end of this pod's veth |
//! | `pods/COOKIE` | the sk_lookup program of the pod with this namespace cookie |
//!
//! An agent that starts reuses the maps if they are of its own `ABI_VERSION`, and replaces the programs behind the links in place.

mod egress;
mod filter;
mod guard;
mod host;
mod inbound;
mod judge;
mod link;
mod loads;
mod log;
mod maps;
mod probe;
mod refused;
mod tables;

pub use judge::Judge;
pub use log::{KernelLog, Lines};
pub use maps::Maps;
pub use probe::{fires, fires_here};
pub use refused::Refused;

use crate::cgroup;
use crate::netns::Namespace;
use aya::maps::{Map, MapData, RingBuf};
use aya::programs::Program;
use aya::programs::links::FdLink;
use aya::{Ebpf, EbpfLoader};
use mesh_common::abi::{self, Event, Pod};
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

/// The compiled programs, or nothing.
pub const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf.o"));

/// The programs at the cgroup root.
/// What ends a count comes before what begins one, and what shows a hand-over before what makes one.
const HOOKS: [&str; 15] = [
    "release",
    "tcp_events",
    "bind4",
    "bind6",
    "getsockname4",
    "getsockname6",
    "create",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];
/// The program in each pod's namespace.
const STEER: &str = "steer";

/// Why the kernel half is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The crate was compiled without programs.
    #[error("this mesh-agent was built without the eBPF programs; run `cargo xtask build-ebpf` and build again")]
    NoObject,
    /// The programs were compiled from another version of `mesh_common::abi`.
    #[error(
        "the embedded eBPF programs are not of ABI version {ABI_VERSION}; run `cargo xtask build-ebpf` and build again",
        ABI_VERSION = abi::ABI_VERSION
    )]
    StaleObject,
    /// bpffs or the cgroup file system.
    #[error("{path}: {source}")]
    Path {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The object as a whole.
    #[error("the eBPF object does not load: {0}")]
    Object(#[from] aya::EbpfError),
    /// Its log.
    #[error("the log of the eBPF programs: {0}")]
    Log(#[from] aya_log::Error),
    /// One program.
    #[error(
        "eBPF program {name} does not load: {refused}. Nothing was attached in its place, and what a former agent attached goes on. The \
         agent needs the capabilities of a privileged container (BPF, PERFMON, NET_ADMIN, SYS_ADMIN); if it has them, this kernel's \
         verifier refuses the program: report this line with `uname -r`"
    )]
    Program {
        /// Its name.
        name: &'static str,
        /// What aya or the verifier says.
        refused: Refused,
    },
    /// One map.
    #[error("eBPF map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What aya or the kernel says.
        source: aya::maps::MapError,
    },
    /// A link that could not be replaced in place.
    #[error("eBPF link {name}: {source}")]
    Link {
        /// Name of its pin.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The self-check.
    #[error(
        "the connect hook is attached to {0} and does not fire. Is that the machine's own cgroup2 root (a cgroup namespace shows \
         another one: start the agent without), and is Linux at least 5.15 (before, a net_cls cgroup silently disables the hook)?"
    )]
    Silent(PathBuf),
    /// The same, for the agent's own sockets.
    #[error(
        "the connect hook does not fire for the agent's own sockets, so those that it makes for mesh-proxy would not be judged: the agent \
         must itself run in a cgroup below --cgroup-root"
    )]
    Outside,
    /// Workloads' cgroups lie at too many depths.
    #[error("cgroups of workloads lie at more than {LEVELS} depths of the tree, or deeper than the kernel half looks", LEVELS = abi::host::LEVELS)]
    Depths,
    /// The self-check could not be made.
    #[error("the self-check of the connect hook: {0}")]
    Check(io::Error),
}

/// Is there an object, and does it speak this agent's ABI?
///
/// # Errors
/// Says what to run.
pub fn check_object() -> Result<(), Error> {
    if OBJECT.is_empty() {
        return Err(Error::NoObject);
    }
    let speaks = OBJECT.windows(abi::ABI_MARKER.len()).any(|window| window == abi::ABI_MARKER);
    if speaks { Ok(()) } else { Err(Error::StaleObject) }
}

/// The loaded kernel half.
pub struct Kernel {
    pins: PathBuf,
    maps: Mutex<Maps>,
    log: KernelLog,
    lines: Mutex<Option<Lines>>,
}

impl Kernel {
    /// Loads and attaches everything but what belongs to single pods. Pins live in `<bpffs>/mesh`.
    ///
    /// # Errors
    /// Names what did not load. Nothing that worked before is taken away then.
    pub fn open(bpffs: &Path, cgroup: &Path) -> Result<Self, Error> {
        Self::open_logging(bpffs, cgroup, KernelLog::Off)
    }

    /// The same with programs that log.
    ///
    /// # Errors
    /// As above.
    pub fn open_logging(bpffs: &Path, cgroup: &Path, log: KernelLog) -> Result<Self, Error> {
        check_object()?;
        let pins = bpffs.join("mesh");
        if !is_current(&pins) {
            remove_pins(&pins)?;
        }
        for dir in [pins.clone(), pins.join("links"), pins.join("pods"), pins.join("guards")] {
            fs::create_dir_all(&dir).map_err(|source| Error::Path { path: dir, source })?;
        }
        let root = File::open(cgroup).map_err(|source| Error::Path { path: cgroup.to_owned(), source })?;
        let mut object = load(&pins, log, None)?;
        let lines = Lines::take(&mut object)?;
        // Before the hooks: a program that finds no config refuses.
        let maps = Maps::take(&mut object)?;
        // All before any is attached: where one is refused, the others of its kind would not be what they were tested as.
        for name in HOOKS {
            load_hook(&mut object, name)?;
        }
        for name in HOOKS {
            attach_hook(&mut object, name, &root, &pins.join("links").join(name))?;
        }
        Ok(Self { pins, maps: Mutex::new(maps), log, lines: Mutex::new(Some(lines)) })
    }

    /// The tables. Held for the time of a whole update, so that updates do not mix.
    pub fn maps(&self) -> parking_lot::MutexGuard<'_, Maps> {
        self.maps.lock()
    }

    /// Refusals as they happen. May be taken once.
    ///
    /// # Errors
    /// If the pin is gone.
    pub fn events(&self) -> Result<Events, Error> {
        let map = |source| Error::Map { name: abi::maps::EVENTS, source };
        let data = MapData::from_pin(self.pins.join(abi::maps::EVENTS)).map_err(map)?;
        let ring = RingBuf::try_from(Map::from_map_data(data).map_err(map)?).map_err(map)?;
        Ok(Events { ring })
    }

    /// What the programs log. May be taken once.
    pub fn lines(&self) -> Option<Lines> {
        self.lines.lock().take()
    }

    /// Puts the pod's own `steer` program into its namespace, or replaces the one that a former agent put there.
    ///
    /// # Errors
    /// If it does not load or attach.
    pub fn steer(&self, cookie: u64, pod: &Pod, namespace: &Namespace) -> Result<(), Error> {
        let mut object = load(&self.pins, self.log, Some(pod))?;
        let program = |error| Error::Program { name: STEER, refused: Refused::from(error) };
        let Some(Program::SkLookup(steer)) = object.program_mut(STEER) else { return Err(Error::NoObject) };
        steer.load().map_err(program)?;
        let pin = self.pin_of(cookie);
        if link::replace(&pin, steer.fd().map_err(program)?.as_fd())? {
            return Ok(());
        }
        let id = steer.attach(namespace).map_err(program)?;
        link::pin(steer.take_link(id).map_err(program)?.into(), &pin)
    }

    /// Is the pod's `steer` program pinned?
    #[must_use]
    pub fn is_steered(&self, cookie: u64) -> bool {
        self.pin_of(cookie).exists()
    }

    /// Removes the pod's `steer` program. Fine if there is none.
    ///
    /// # Errors
    /// If bpffs refuses.
    pub fn unsteer(&self, cookie: u64) -> Result<(), Error> {
        let path = self.pin_of(cookie);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::Path { path, source }),
            _ => Ok(()),
        }
    }

    /// Takes everything out of the kernel: hooks first, so that nothing is judged by half a table.
    ///
    /// # Errors
    /// If bpffs refuses.
    pub fn detach(&self) -> Result<(), Error> {
        remove_pins(&self.pins)
    }

    fn pin_of(&self, cookie: u64) -> PathBuf {
        self.pins.join("pods").join(cookie.to_string())
    }
}

/// The ring buffer of refusals.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    /// The next refusal, if there is one now.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end; this only pauses")]
    pub fn next(&mut self) -> Option<Event> {
        let item = self.ring.next()?;
        let bytes: &[u8] = &item;
        // SAFETY: Event is plain data of any bit pattern; the length is checked, and the read needs no alignment.
        (bytes.len() >= size_of::<Event>()).then(|| unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<Event>()) })
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor lives as long as the ring, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// Opens the maps by their pins, or creates them; programs are loaded one by one later.
fn load(pins: &Path, log: KernelLog, pod: Option<&Pod>) -> Result<Ebpf, Error> {
    let (mut loader, level) = (EbpfLoader::new(), log.level());
    loader.override_global(log::LEVEL, &level, true);
    for name in abi::maps::ALL {
        loader.map_pin_path(name, pins.join(name));
    }
    if let Some(pod) = pod {
        loader.override_global(abi::POD_GLOBAL, pod, true);
    }
    if cgroup::has_classes() {
        loader.override_global(abi::host::CLASSES_GLOBAL, &1u32, true);
    }
    Ok(loader.load(OBJECT)?)
}

fn load_hook(object: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let loaded = match object.program_mut(name) {
        Some(Program::CgroupSockAddr(program)) => program.load(),
        Some(Program::CgroupSock(program)) => program.load(),
        Some(Program::SockOps(program)) => program.load(),
        _ => return Err(Error::NoObject),
    };
    loaded.map_err(|error| Error::Program { name, refused: Refused::from(error) })
}

fn attach_hook(object: &mut Ebpf, name: &'static str, root: &File, pin: &Path) -> Result<(), Error> {
    let error = |error| Error::Program { name, refused: Refused::from(error) };
    let program = object.program_mut(name).ok_or(Error::NoObject)?;
    if link::replace(pin, program.fd().map_err(error)?.as_fd())? {
        return Ok(());
    }
    // Links are always of the multi kind, whatever the mode says: other programs at the root go on.
    let mode = aya::programs::links::CgroupAttachMode::Single;
    let link: Result<FdLink, _> = match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(root, mode).map_err(error)?;
            program.take_link(id).map_err(error)?.try_into()
        }
        Program::CgroupSock(program) => {
            let id = program.attach(root, mode).map_err(error)?;
            program.take_link(id).map_err(error)?.try_into()
        }
        Program::SockOps(program) => {
            let id = program.attach(root, mode).map_err(error)?;
            program.take_link(id).map_err(error)?.try_into()
        }
        _ => return Err(Error::NoObject),
    };
    let link = link.map_err(|_no_fd| Error::Link {
        name: name.to_owned(),
        source: io::Error::other("this kernel has no cgroup links (Linux 5.7)"),
    })?;
    link::pin(link, pin)
}

/// Takes a pod out of the mesh by its pins, without an agent: first its verdicts, then what only serves them.
///
/// # Errors
/// If bpffs or a table refuse.
pub fn abandon(bpffs: &Path, cookie: u64) -> Result<(), Error> {
    let pins = bpffs.join("mesh");
    let kernel = Kernel { maps: Mutex::new(Maps::pinned(bpffs)?), pins, log: KernelLog::Off, lines: Mutex::default() };
    kernel.maps().remove_pod(cookie)?;
    kernel.unguard(cookie)?;
    kernel.unsteer(cookie)
}

/// Takes everything out of the kernel, without an agent. Fine if nothing is there.
///
/// # Errors
/// If bpffs refuses.
pub fn uninstall(bpffs: &Path) -> Result<(), Error> {
    remove_pins(&bpffs.join("mesh"))
}

/// Do the pinned maps, if any, speak this build's ABI?
fn is_current(pins: &Path) -> bool {
    match Maps::pinned_abi(pins) {
        Ok(Some(version)) => version == abi::ABI_VERSION,
        Ok(None) => true,
        Err(_) => false,
    }
}

fn remove_pins(pins: &Path) -> Result<(), Error> {
    for guard in fs::read_dir(pins.join("guards")).into_iter().flatten().filter_map(Result::ok) {
        filter::detach(&guard.path());
    }
    for dir in [pins.join("links"), pins.join("pods"), pins.join("guards"), pins.to_owned()] {
        match fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::Path { path: dir, source }),
            _ => {}
        }
    }
    Ok(())
}
