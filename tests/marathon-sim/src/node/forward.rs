//! TCP forwards: a listener somewhere, each connection dialled anew from inside a namespace. Port maps of nodes and `marathon-sim forward`.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::netns::NetNs;

/// Stops listening when dropped; connections go on.
#[derive(Debug)]
pub(crate) struct Handle(AbortHandle);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `target` is asked for each connection, so that a forward follows restarts; without a target the connection is closed.
pub(crate) fn serve(listener: TcpListener, target: impl Fn() -> Option<(NetNs, SocketAddr)> + Send + 'static) -> Handle {
    let accept = async move {
        loop {
            match listener.accept().await {
                Ok((mut client, _)) => {
                    let target = target();
                    tokio::spawn(async move {
                        let Some((netns, address)) = target else { return };
                        match netns.connect(address).await {
                            Ok(mut server) => drop(tokio::io::copy_bidirectional(&mut client, &mut server).await),
                            Err(error) => tracing::debug!(%address, "forward: {error:#}"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!("forward: accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    };
    Handle(tokio::spawn(accept).abort_handle())
}
