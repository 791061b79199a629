//! The tables of captured ports.

use super::Error;
use super::maps::{Maps, entries, gone};
use aya::maps::MapError;
use mesh_common::abi::{HEARD, InboundKey, maps, silent};
use std::collections::BTreeSet;

/// `BPF_NOEXIST`: only if it is not there.
const NOEXIST: u64 = 1;

impl Maps {
    /// From now on exactly these ports of the slot are captured, whether somebody listens there or not: that is to be looked for.
    ///
    /// # Errors
    /// If a table is full.
    pub fn capture(&mut self, slot: u32, ports: &BTreeSet<u16>) -> Result<(), Error> {
        let of = |name| move |source| Error::Map { name, source };
        for port in ports {
            let key = InboundKey { slot, port: *port, pad: 0 };
            // Counted before it is noted. What was counted stays: a note of before would be true again.
            match self.listens.insert(key, 0, NOEXIST) {
                Err(error) if is_there(&error) => {}
                other => other.map_err(of(maps::LISTENS))?,
            }
            self.inbound.insert(key, HEARD, 0).map_err(of(maps::INBOUND))?;
        }
        for key in entries(maps::INBOUND, &self.inbound)?.into_keys() {
            if key.slot == slot && !ports.contains(&key.port) {
                gone(self.inbound.remove(&key)).map_err(of(maps::INBOUND))?;
                gone(self.listens.remove(&key)).map_err(of(maps::LISTENS))?;
            }
        }
        Ok(())
    }

    /// How often somebody has begun to listen on each of these ports.
    ///
    /// # Errors
    /// If one is not captured.
    pub fn listens(&self, slot: u32, ports: &BTreeSet<u16>) -> Result<Vec<(u16, u64)>, Error> {
        let count = |port: &u16| Ok((*port, self.listens.get(&InboundKey { slot, port: *port, pad: 0 }, 0)?));
        ports.iter().map(count).collect::<Result<_, _>>().map_err(|source| Error::Map { name: maps::LISTENS, source })
    }

    /// Notes that somebody listens on a captured port, or that nobody did at this count.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn hear(&mut self, slot: u32, port: u16, nobody_at: Option<u64>) -> Result<(), Error> {
        let key = InboundKey { slot, port, pad: 0 };
        let note = nobody_at.map_or(HEARD, silent);
        self.inbound.insert(key, note, 0).map_err(|source| Error::Map { name: maps::INBOUND, source })
    }
}

fn is_there(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EEXIST))
}
