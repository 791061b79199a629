//! The allowlist's tables, and the agent's memory of DNS answers beside them.

use super::Error;
use super::maps::{Maps, entries, gone};
use crate::core::desired::{addr, ip};
use crate::core::egress::{Allowed, EgressOp, NAME_MAX};
use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use mesh_common::abi::{AuditKey, LearnedKey, LearnedName, maps};
use std::collections::BTreeMap;
use std::net::IpAddr;

impl Maps {
    /// What is allowed now.
    ///
    /// # Errors
    /// Names the map that could not be read.
    pub fn allowed(&self) -> Result<Allowed, Error> {
        let error = |source| Error::Map { name: maps::EGRESS_CIDR, source };
        let nets =
            self.egress_cidr.iter().map(|cell| cell.map(|(key, way)| ((key.prefix_len(), key.data()), way)).map_err(error));
        let exact = entries(maps::EGRESS_EXACT, &self.egress_exact)?;
        Ok(Allowed { exact, nets: nets.collect::<Result<_, _>>()? })
    }

    /// Writes the operations in their order, and stops at the first that fails.
    ///
    /// # Errors
    /// Names the map that refused.
    pub fn allow(&mut self, ops: &[EgressOp]) -> Result<(), Error> {
        for op in ops {
            let (name, result) = match op {
                EgressOp::Add(key, way) => (maps::EGRESS_EXACT, self.egress_exact.insert(key, way, 0)),
                EgressOp::Delete(key) => (maps::EGRESS_EXACT, gone(self.egress_exact.remove(key))),
                EgressOp::AddNet(bits, net, way) => (maps::EGRESS_CIDR, self.egress_cidr.insert(&Key::new(*bits, *net), way, 0)),
                EgressOp::DeleteNet(bits, net) => (maps::EGRESS_CIDR, gone(self.egress_cidr.remove(&Key::new(*bits, *net)))),
            };
            result.map_err(|source| Error::Map { name, source })?;
        }
        Ok(())
    }

    /// What was let out by the outbound policy AUDIT. What the kernel forgets while this reads is left out.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn audited(&self) -> Result<BTreeMap<AuditKey, u64>, Error> {
        let read = |key: Result<AuditKey, MapError>| match key.and_then(|key| Ok((key, self.audited.get(&key, 0)?))) {
            Err(MapError::KeyNotFound) => None,
            other => Some(other),
        };
        let all = self.audited.keys().filter_map(read).collect::<Result<_, _>>();
        all.map_err(|source| Error::Map { name: maps::AUDITED, source })
    }

    /// Forgets what was counted of a pod that has left: its number will be another's.
    ///
    /// # Errors
    /// If the map cannot be read or written.
    pub fn forget_audited(&mut self, slot: u32) -> Result<(), Error> {
        for key in self.audited()?.into_keys().filter(|key| key.slot == slot) {
            gone(self.audited.remove(&key)).map_err(|source| Error::Map { name: maps::AUDITED, source })?;
        }
        Ok(())
    }

    /// What the DNS answers have taught so far: name, address, expiry.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn learned(&self) -> Result<Vec<(String, IpAddr, u64)>, Error> {
        let all = entries(maps::LEARNED, &self.learned)?;
        let readable = all.into_iter().filter_map(|(key, value)| {
            let length = value.name.iter().position(|byte| *byte == 0)?;
            Some((String::from_utf8(value.name[..length].to_vec()).ok()?, ip(key.addr), value.expires))
        });
        Ok(readable.collect())
    }

    /// Remembers.
    ///
    /// # Errors
    /// If the map is full.
    pub fn remember(&mut self, name: &str, address: IpAddr, expires: u64) -> Result<(), Error> {
        let mut value = LearnedName { expires, name: [0; 256] };
        let length = name.len().min(NAME_MAX);
        value.name[..length].copy_from_slice(&name.as_bytes()[..length]);
        let result = self.learned.insert(learned_key(name, address), value, 0);
        result.map_err(|source| Error::Map { name: maps::LEARNED, source })
    }

    /// Forgets. Fine if it is forgotten already.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn forget(&mut self, name: &str, address: IpAddr) -> Result<(), Error> {
        gone(self.learned.remove(&learned_key(name, address))).map_err(|source| Error::Map { name: maps::LEARNED, source })
    }
}

fn learned_key(name: &str, address: IpAddr) -> LearnedKey {
    // FNV-1a: stable over versions of the agent, which the standard library's hasher is not.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    LearnedKey { addr: addr(address), name: hash }
}
