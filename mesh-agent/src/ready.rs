//! `AsyncFd` over what owns its descriptor: tokio 1.50 asks for a promise that the descriptor stays the same, made here once.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use tokio::io::unix::AsyncFd;

/// An owner of one descriptor.
#[derive(Debug)]
pub(crate) struct Owner<T>(T);

/// Waits for readiness of the owner's descriptor.
pub(crate) type Ready<T> = AsyncFd<Owner<T>>;

/// Registers with the current runtime.
pub(crate) fn watch<T: AsFd + 'static>(owner: T) -> io::Result<Ready<T>> {
    // SAFETY: every `T` of this crate (Socket, Inotify, Events, Lines) owns one descriptor, never exchanges it, and closes it only when dropped.
    let registered = unsafe { AsyncFd::register(Owner(owner)) };
    registered.map_err(|error| io::Error::other(error.to_string()))
}

impl<T: AsFd> AsRawFd for Owner<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl<T> Deref for Owner<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Owner<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
