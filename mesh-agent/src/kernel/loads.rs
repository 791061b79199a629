//! The cells that count connections, mapped into this process: the kernel adds to them while the agent corrects them, both atomically.

use super::Error;
use aya::maps::{Map, MapError};
use mesh_common::abi::{Endpoint, Load, maps};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

const LENGTH: usize = maps::ENDPOINTS_MAX as usize * size_of::<Load>();

/// The array.
pub(super) struct Loads {
    cells: NonNull<Load>,
    /// Open until the programs are loaded, which refer to it by its descriptor.
    _map: Map,
}

// SAFETY: the mapping belongs to no thread, and every access to it is atomic.
unsafe impl Send for Loads {}
// SAFETY: as above.
unsafe impl Sync for Loads {}

impl Loads {
    pub(super) fn new(map: Map) -> Result<Self, Error> {
        let name = maps::LOADS;
        let Map::Array(data) = &map else {
            return Err(Error::Map { name, source: MapError::InvalidMapType { map_type: 0 } });
        };
        let fd = data.fd().as_fd().as_raw_fd();
        // SAFETY: a new mapping, anywhere; the kernel checks descriptor and length.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
        match NonNull::new(at.cast::<Load>()) {
            Some(cells) if at != libc::MAP_FAILED => Ok(Self { cells, _map: map }),
            _ => Err(Error::Map { name, source: MapError::IoError(io::Error::last_os_error()) }),
        }
    }

    /// Connections now.
    pub(super) fn active(&self, endpoint: Endpoint) -> i64 {
        self.parts(endpoint.cell).map_or(0, |(active, _)| active.load(Ordering::Relaxed))
    }

    /// Adds to a count, if the cell is still this endpoint's.
    pub(super) fn correct(&self, endpoint: Endpoint, change: i64) {
        if let Some((active, stamp)) = self.parts(endpoint.cell)
            && stamp.load(Ordering::Relaxed) == endpoint.stamp
        {
            active.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// The cell is this endpoint's from now on, with no connection.
    pub(super) fn claim(&self, endpoint: Endpoint) {
        if let (Some((active, stamp)), Some((_, last))) = (self.parts(endpoint.cell), self.parts(0)) {
            last.store(endpoint.stamp, Ordering::Relaxed);
            active.store(0, Ordering::Relaxed);
            stamp.store(endpoint.stamp, Ordering::Release);
        }
    }

    /// The cell is nobody's: what was counted there moves on or is not counted any more.
    pub(super) fn release(&self, endpoint: Endpoint) {
        if let Some((_, stamp)) = self.parts(endpoint.cell) {
            stamp.store(0, Ordering::Release);
        }
    }

    /// The last stamp that any agent has given out.
    pub(super) fn last_stamp(&self) -> u32 {
        self.parts(0).map_or(0, |(_, stamp)| stamp.load(Ordering::Relaxed))
    }

    fn parts(&self, cell: u32) -> Option<(&AtomicI64, &AtomicU32)> {
        if cell >= maps::ENDPOINTS_MAX {
            return None;
        }
        // SAFETY: inside the mapping, which lives as long as `self`; both fields are aligned, and everybody accesses them atomically.
        unsafe {
            let load = self.cells.as_ptr().add(cell as usize);
            Some((AtomicI64::from_ptr(&raw mut (*load).active), AtomicU32::from_ptr(&raw mut (*load).stamp)))
        }
    }
}

impl Drop for Loads {
    fn drop(&mut self) {
        // SAFETY: what `new` has mapped; no reference to it outlives `self`.
        unsafe { libc::munmap(self.cells.as_ptr().cast(), LENGTH) };
    }
}
