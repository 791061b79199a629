//! What has been announced, as a state machine without I/O: turns the agent's messages into events.

use super::{Event, WireError};
use mesh_common::broker::{Role, ToProxy};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// The pods that the owner of the events believes in.
#[derive(Debug)]
pub(super) struct Session {
    role: Role,
    /// Announced and not gone.
    known: BTreeSet<u32>,
    /// Announced on this connection. Differs from `known` between a reconnection and `Ready`.
    listed: BTreeSet<u32>,
}

impl Session {
    /// Nothing was announced yet.
    pub(super) fn new(role: Role) -> Self {
        Self { role, known: BTreeSet::new(), listed: BTreeSet::new() }
    }

    /// The connection is gone; the pods are not.
    pub(super) fn disconnected(&mut self) {
        self.listed.clear();
    }

    /// Takes one message with its descriptors.
    pub(super) fn on(&mut self, message: ToProxy, fds: Vec<OwnedFd>) -> Result<Vec<Event>, WireError> {
        let expected = match &message {
            ToProxy::Pod { listeners, .. } => listeners.len(),
            ToProxy::Listening { addresses, .. } => addresses.len(),
            ToProxy::Sockets { count, .. } => *count,
            ToProxy::PodGone { .. } | ToProxy::Ready | ToProxy::Learned { .. } => 0,
        };
        if expected != fds.len() {
            return Err(WireError::Descriptors { expected, got: fds.len() });
        }
        Ok(match message {
            ToProxy::Pod { slot, workload, listeners } => {
                self.known.insert(slot);
                self.listed.insert(slot);
                vec![Event::PodAdded { slot, workload, listeners: listeners.into_iter().zip(fds).collect() }]
            }
            ToProxy::PodGone { slot } => {
                self.known.remove(&slot);
                self.listed.remove(&slot);
                vec![Event::PodGone { slot }]
            }
            ToProxy::Ready => {
                let gone = self.known.difference(&self.listed).map(|&slot| Event::PodGone { slot });
                let events = gone.chain([Event::Ready]).collect();
                self.known = self.listed.clone();
                events
            }
            ToProxy::Learned { id } if self.role == Role::Dns => vec![Event::Learned { id }],
            ToProxy::Learned { .. } => return Err(WireError::Role("learned")),
            ToProxy::Listening { .. } if self.role == Role::Dns => return Err(WireError::Role("listening")),
            ToProxy::Listening { slot, addresses, refused } => {
                vec![Event::Gateway { slot, listeners: addresses.into_iter().zip(fds).collect(), refused }]
            }
            ToProxy::Sockets { .. } if self.role == Role::Dns => return Err(WireError::Role("sockets")),
            ToProxy::Sockets { slot, family, .. } => vec![Event::Sockets { slot, family, sockets: fds }],
        })
    }
}
