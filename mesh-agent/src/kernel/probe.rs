//! Proof that the connect hook fires where workloads live, not only that it is attached.

use super::Error;
use mesh_common::abi::probe;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Connects from a child process inside `cgroup` to the address that the program refuses with an errno of its own.
///
/// A child, because the agent may itself live elsewhere: what counts is the cgroup in which a socket is made.
///
/// # Errors
/// [`Error::Silent`] if the hook does not fire.
pub fn fires(cgroup: &Path) -> Result<(), Error> {
    let path = cgroup.join("cgroup.procs");
    let procs = File::options().write(true).open(&path).map_err(|source| Error::Path { path, source })?;
    let errno = connect_in_child(&procs).map_err(Error::Check)?;
    if errno == probe::ERRNO { Ok(()) } else { Err(Error::Silent(cgroup.to_owned())) }
}

/// Connects from this process: brokered sockets are judged by the cgroup of the agent, which makes them.
///
/// # Errors
/// [`Error::Outside`] if the hook does not fire for it.
pub fn fires_here() -> Result<(), Error> {
    // Writing to /dev/null moves nobody.
    let nowhere = File::options().write(true).open("/dev/null").map_err(Error::Check)?;
    let errno = connect_in_child(&nowhere).map_err(Error::Check)?;
    if errno == probe::ERRNO { Ok(()) } else { Err(Error::Outside) }
}

fn connect_in_child(procs: &File) -> io::Result<i32> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: probe::PORT.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(probe::ADDR) },
        sin_zero: [0; 8],
    };
    // SAFETY: the child of this threaded process makes only async-signal-safe calls (write, socket, connect, _exit) on values that exist
    // before the fork; the parent waits for exactly that child.
    unsafe {
        let child = libc::fork();
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        if child == 0 {
            // "0" is the writer itself. If it may not move, the connect below tells from where it is.
            libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1);
            let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
            let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            let result = libc::connect(socket, (&raw const address).cast(), length);
            libc::_exit(if result == 0 { 0 } else { *libc::__errno_location() & 0xff });
        }
        let mut status = 0;
        while libc::waitpid(child, &raw mut status, 0) < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if libc::WIFEXITED(status) {
            Ok(libc::WEXITSTATUS(status))
        } else {
            Err(io::Error::other("the self-check's process was killed"))
        }
    }
}
