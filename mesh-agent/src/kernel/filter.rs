//! Guards where the kernel has no TCX (before Linux 6.6): filters of the device's clsact qdisc. A filter is held by its device and by nobody
//! else, so it goes on without an agent as a pinned link does; what is pinned for it, so that it is found again, is its program, under the name
//! of the guard and `-filter` (no dot: bpffs keeps names with one to itself).

use super::{Error, Refused};
use crate::netns::veth::Veth;
use aya::programs::links::Link;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Ours among a device's filters, and before what is given no place of its own (49152).
const PRIORITY: u16 = 15_001;
/// The only one of that priority.
const HANDLE: TcHandle = TcHandle::new(0, 1);
const SUFFIX: &str = "-filter";

/// Is this the answer of a kernel that does not know TCX?
pub(super) fn is_needed(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EINVAL))
}

/// Where the guard with this pin would be found if it were a filter.
pub(super) fn pin_of(guard: &Path) -> PathBuf {
    let mut name = guard.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// Attaches the program, in place of the one of a former agent if there is one.
pub(super) fn attach(
    program: &mut SchedClassifier,
    name: &'static str,
    end: &Veth,
    direction: TcAttachType,
    guard: &Path,
) -> Result<(), Error> {
    let error = |error| Error::Program { name, refused: Refused::from(error) };
    let id = match ours(end.name.as_str(), direction).map(|link| program.attach_to_link(link)) {
        Ok(Ok(id)) => id,
        // Nothing to replace, or not even a qdisc.
        _ => {
            match qdisc_add_clsact(&end.name) {
                Err(TcError::NetlinkError(refused)) if refused.raw_os_error() == Some(libc::EEXIST) => {}
                other => other.map_err(|refused| error(refused.into()))?,
            }
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
            program.attach_with_options(&end.name, direction, TcAttachOptions::Netlink(options)).map_err(error)?
        }
    };
    // The filter stays: that a value which stands for it is dropped must not take it away.
    std::mem::forget(program.take_link(id).map_err(error)?);
    let pin = pin_of(guard);
    gone(fs::remove_file(&pin)).map_err(|source| Error::Path { path: pin.clone(), source })?;
    program.pin(&pin).map_err(|refused| Error::Link { name: pin.display().to_string(), source: io::Error::other(refused) })
}

/// Takes the guard with this pin off its device, if it is a filter; one that is there no more, or whose device is not, is off.
pub(super) fn detach(pin: &Path) {
    let Some((index, direction)) = pin.file_name().and_then(|name| parse(name.to_str()?)) else { return };
    let Ok(device) = nix::net::if_::if_indextoname(index) else { return };
    if let Some(link) = device.to_str().ok().and_then(|device| ours(device, direction).ok()) {
        let _ = link.detach();
    }
}

fn ours(device: &str, direction: TcAttachType) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(device, direction, PRIORITY, HANDLE, None)
}

/// `COOKIE-IFINDEX-HOOK-filter`.
fn parse(name: &str) -> Option<(u32, TcAttachType)> {
    let (_, rest) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let (index, hook) = rest.split_once('-')?;
    let direction = super::guard::HOOKS.iter().find(|(name, _)| *name == hook)?.1;
    Some((index.parse().ok()?, direction))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_found_by_its_pin() {
        let pin = pin_of(Path::new("/sys/fs/bpf/mesh/guards/4711-12-from_pod"));
        let name = pin.file_name().and_then(|name| name.to_str()).expect("text");
        let (index, direction) = parse(name).expect("as written");
        assert_eq!((index, format!("{direction:?}")), (12, format!("{:?}", TcAttachType::Ingress)));
        for other in ["4711-12-from_pod", "4711-12-other-filter", "12-from_pod-filter", "x"] {
            assert!(parse(other).is_none(), "{other}");
        }
    }
}
