//! The guards of pods' veths: tc programs at the host's ends, pinned as `guards/COOKIE-IFINDEX-HOOK`: links of TCX, or where the kernel has
//! none, filters (`filter.rs`).

use super::{Error, Kernel, Refused, filter, link, load};
use crate::netns::Namespace;
use crate::netns::veth::{Veth, host_ends};
use aya::Ebpf;
use aya::programs::links::LinkOrder;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{Program, TcAttachType};
use mesh_common::abi::Pod;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// First what only remembers: a connection that came in before the other was there is not cut.
pub(super) const HOOKS: [(&str, TcAttachType); 2] = [("to_pod", TcAttachType::Egress), ("from_pod", TcAttachType::Ingress)];

impl Kernel {
    /// Guards the host's ends of the pod's veths, or replaces the programs that are there. Returns how many ends there are: none, if the
    /// pod's link is no veth or its host's end is not in this thread's network namespace.
    ///
    /// # Errors
    /// If a program does not load or attach.
    pub fn guard(&self, cookie: u64, pod: &Pod, namespace: &Namespace) -> Result<usize, Error> {
        let ends = host_ends(namespace).map_err(|source| Error::Path { path: PathBuf::from("netlink"), source })?;
        if ends.is_empty() {
            return Ok(0);
        }
        let mut object = load(&self.pins, self.log, Some(pod))?;
        for end in &ends {
            for (name, direction) in HOOKS {
                self.attach_guard(&mut object, name, direction, cookie, end)?;
            }
        }
        Ok(ends.len())
    }

    fn attach_guard(
        &self,
        object: &mut Ebpf,
        name: &'static str,
        direction: TcAttachType,
        cookie: u64,
        end: &Veth,
    ) -> Result<(), Error> {
        let error = |error| Error::Program { name, refused: Refused::from(error) };
        let Some(Program::SchedClassifier(program)) = object.program_mut(name) else { return Err(Error::NoObject) };
        if program.fd().is_err() {
            program.load().map_err(error)?;
        }
        let pin = self.guards().join(format!("{cookie}-{}-{name}", end.index));
        if link::replace(&pin, program.fd().map_err(error)?.as_fd())? {
            return Ok(());
        }
        let id = match program.attach_with_options(&end.name, direction, TcAttachOptions::TcxOrder(LinkOrder::default())) {
            Ok(id) => id,
            Err(refused) if filter::is_needed(&refused) => return filter::attach(program, name, end, direction, &pin),
            Err(refused) => return Err(error(refused)),
        };
        let attached = program.take_link(id).map_err(error)?;
        let attached = attached.try_into().map_err(|_no_fd| Error::Link {
            name: pin.display().to_string(),
            source: io::Error::other("TCX gave something that is no link"),
        })?;
        link::pin(attached, &pin)
    }

    /// Is there a guard of this pod?
    #[must_use]
    pub fn is_guarded(&self, cookie: u64) -> bool {
        self.guards_of(cookie).is_ok_and(|pins| pins.len() >= HOOKS.len())
    }

    /// Removes the pod's guards. Fine if there are none. To be called in the network namespace that [`Self::guard`] was.
    ///
    /// # Errors
    /// If bpffs refuses.
    pub fn unguard(&self, cookie: u64) -> Result<(), Error> {
        let error = |path| |source| Error::Path { path, source };
        for pin in self.guards_of(cookie).map_err(error(self.guards()))? {
            filter::detach(&pin);
            fs::remove_file(&pin).map_err(error(pin))?;
        }
        Ok(())
    }

    fn guards(&self) -> PathBuf {
        self.pins.join("guards")
    }

    fn guards_of(&self, cookie: u64) -> io::Result<Vec<PathBuf>> {
        let prefix = format!("{cookie}-");
        let mut found = Vec::new();
        for entry in fs::read_dir(self.guards())? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}
