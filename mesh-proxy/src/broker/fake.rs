//! A fake agent over a real socket, for tests: it accepts, and the test speaks.

use super::Packets;
use mesh_common::broker::{Role, ToAgent, VERSION};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// A listening broker socket in a directory of its own.
pub(crate) struct FakeAgent {
    listener: OwnedFd,
    pub(crate) path: PathBuf,
    _directory: tempfile::TempDir,
}

impl FakeAgent {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("agent.sock");
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).expect("path")).expect("bind");
        rustix::net::listen(&listener, 8).expect("listen");
        Self { listener, path, _directory: directory }
    }

    pub(crate) async fn accept(&self) -> Packets {
        self.accept_role(Role::Proxy).await
    }

    pub(crate) async fn accept_role(&self, role: Role) -> Packets {
        let listener = self.listener.try_clone().expect("dup");
        let accepted = tokio::task::spawn_blocking(move || {
            rustix::net::accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        });
        let packets = Packets::new(accepted.await.expect("join").expect("accept")).expect("register");
        let (hello, _) = packets.receive::<ToAgent>().await.expect("hello");
        assert_eq!(hello, ToAgent::Hello { version: VERSION, role });
        packets
    }
}
