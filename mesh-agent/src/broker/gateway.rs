//! The gateway's sockets: listeners at the node's own ports, which this process holds as well, and sockets to dial pods with. All of them
//! are made in the namespace in which the agent runs, which is the node's.

use crate::core::gateway::Ports;
use crate::core::limit::Bucket;
use crate::netns::sockets;
use mesh_common::broker::Refused;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tracing::{info, warn};

/// What the node's gateway has.
#[derive(Debug)]
pub(crate) struct Gateway {
    allowed: Ports,
    held: Mutex<BTreeMap<SocketAddr, Arc<OwnedFd>>>,
    /// How many sockets may be brokered for it now.
    pub(crate) bucket: Mutex<Bucket>,
}

impl Gateway {
    pub(crate) fn new(allowed: Ports) -> Self {
        Self { allowed, held: Mutex::default(), bucket: Mutex::default() }
    }

    /// From now on exactly these are listened at, as far as they are allowed and free. What was open stays open: connections that wait in
    /// it are lost by nobody.
    pub(crate) fn listen(&self, addresses: &[SocketAddr]) -> (Vec<(SocketAddr, Arc<OwnedFd>)>, Vec<Refused>) {
        let mut held = self.held.lock();
        held.retain(|address, _| {
            let wanted = addresses.contains(address);
            if !wanted {
                info!(%address, "the gateway listens there no more");
            }
            wanted
        });
        let (mut listening, mut refused) = (Vec::new(), Vec::new());
        for address in addresses {
            match self.open(&mut held, *address) {
                Ok(socket) => listening.push((*address, socket)),
                Err(reason) => {
                    warn!(%address, reason, "the gateway cannot listen");
                    refused.push(Refused { address: *address, reason });
                }
            }
        }
        (listening, refused)
    }

    fn open(&self, held: &mut BTreeMap<SocketAddr, Arc<OwnedFd>>, address: SocketAddr) -> Result<Arc<OwnedFd>, String> {
        if !self.allowed.contains(address.port()) {
            return Err(format!("port {} is not in --gateway-ports {}", address.port(), self.allowed));
        }
        if let Some(socket) = held.get(&address) {
            return Ok(Arc::clone(socket));
        }
        let socket = sockets::gateway(address).map_err(|error| error.to_string())?;
        info!(%address, "the gateway listens");
        Ok(Arc::clone(held.entry(address).or_insert_with(|| Arc::new(socket))))
    }

    /// Any holder of a listener's duplicate can shut it down for all; the next look revives it.
    pub(crate) fn revive(&self) -> io::Result<usize> {
        self.held.lock().values().map(|socket| sockets::revive_one(socket).map(usize::from)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_is_open_stays_open_and_what_is_not_allowed_is_named() {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let (a, b, taken) = (free(), free(), TcpListener::bind("127.0.0.1:0").expect("bound"));
        let taken_at = taken.local_addr().expect("an address");
        let ports = format!("{},{},{}", a.port(), b.port(), taken_at.port());
        let gateway = Gateway::new(ports.parse().expect("ports"));
        let (first, refused) = gateway.listen(&[a, taken_at, SocketAddr::from(([127, 0, 0, 1], 22))]);
        assert_eq!(first.iter().map(|(address, _)| *address).collect::<Vec<_>>(), [a]);
        let reasons: Vec<&str> = refused.iter().map(|refused| refused.reason.as_str()).collect();
        assert!(reasons[0].contains("in use"), "{reasons:?}");
        assert_eq!(reasons[1], format!("port 22 is not in --gateway-ports {ports}"));
        // The proxy is away: what it was given is closed, and connections wait.
        let waiting = TcpStream::connect(a).expect("the agent holds it");
        drop(first);
        let (second, _) = gateway.listen(&[a, b]);
        let socket = TcpListener::from(second[0].1.try_clone().expect("dup"));
        socket.set_nonblocking(false).expect("set");
        assert_eq!(socket.accept().expect("waited").1, waiting.local_addr().expect("an address"));
        socket2::SockRef::from(&socket).shutdown(std::net::Shutdown::Both).expect("shut down");
        assert_eq!((gateway.revive().expect("revived"), gateway.revive().expect("nothing to do")), (1, 0));
        TcpStream::connect(a).expect("it listens again");
        drop((second, socket));
        gateway.listen(&[b]);
        TcpStream::connect(a).expect_err("closed");
        TcpStream::connect(b).expect("still there");
    }
}
