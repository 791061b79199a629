//! Pinned links, and replacing the program behind one without a gap: aya 0.14 does so for TCX and XDP only.

use super::Error;
use aya::programs::links::FdLink;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// First fields of `union bpf_attr` for `BPF_OBJ_GET`.
#[repr(C)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// First fields of `union bpf_attr` for `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Pins a link; the program stays attached when this process ends.
pub(super) fn pin(link: FdLink, path: &Path) -> Result<(), Error> {
    link.pin(path).map(drop).map_err(|error| Error::Link { name: path.display().to_string(), source: io::Error::other(error) })
}

/// Puts `program` behind the link pinned at `path`. False if there is no such link, or it is defunct because its cgroup or namespace is
/// gone: then the pin is removed, and the caller attaches anew.
pub(super) fn replace(path: &Path, program: BorrowedFd<'_>) -> Result<bool, Error> {
    let error = |source| Error::Link { name: path.display().to_string(), source };
    let link = match get(path) {
        Ok(link) => link,
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(other) => return Err(error(other)),
    };
    let attr = LinkUpdate { link_fd: link.as_raw_fd() as u32, new_prog_fd: program.as_raw_fd() as u32, flags: 0, old_prog_fd: 0 };
    match bpf(BPF_LINK_UPDATE, &attr) {
        Ok(_) => Ok(true),
        Err(gone) if gone.raw_os_error() == Some(libc::ENOLINK) => {
            std::fs::remove_file(path).map_err(error)?;
            Ok(false)
        }
        Err(other) => Err(error(other)),
    }
}

fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let attr = ObjectGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &attr)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<i32> {
    // SAFETY: `attr` is the beginning of `union bpf_attr` for this command, its length is given, and it outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
