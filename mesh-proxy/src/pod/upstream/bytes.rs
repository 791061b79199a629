//! Connections to endpoints without HTTP: one for each of the client's, never used again.

use super::Upstream;
use super::counts::count;
use super::dial::{self, Transport};
use super::endpoint::Endpoint;
use super::lease::Occupied;
use super::pool::{Key, Open, Pool};
use crate::config::{Cluster, Protocol};
use crate::core::outlier::Report;
use crate::pod::{ConnectError, Pod};
use crate::upstream_tls::Inside;
use std::net::SocketAddr;
use std::rc::Rc;

impl Upstream {
    /// A connection without HTTP to an endpoint: counted as one, until dropped. `None`: the limit is reached.
    #[must_use]
    pub fn occupy(&self, cluster: &Cluster, address: SocketAddr) -> Option<TcpLease> {
        if self.counts.cx_active.get() >= u64::from(self.limits(cluster).connections) {
            count(&self.counts.cx_overflow);
            return None;
        }
        let endpoint = self.endpoint(address);
        let pool = self.bytes_pool(cluster, &endpoint);
        let open = Open::new(&pool, &self.counts);
        Some(TcpLease { _open: open, _occupied: Occupied(endpoint.occupied()), _pool: pool })
    }

    fn bytes_pool(&self, cluster: &Cluster, endpoint: &Endpoint) -> Rc<Pool> {
        endpoint.pool(&Key { protocol: Protocol::Http1, server_name: None, tls: 0 }, &cluster.pool, &self.counts)
    }

    /// Connects for such a connection, in TLS if the cluster says so; as `client` if the endpoint is to see it.
    ///
    /// # Errors
    /// Says in which way it failed.
    pub async fn connect_tcp(
        self: &Rc<Self>,
        pod: &Pod,
        cluster: &Cluster,
        (client, address): (Option<SocketAddr>, SocketAddr),
    ) -> Result<Transport, ConnectError> {
        let server_name = cluster.pool.tls.as_ref().and_then(|tls| tls.server_name(""));
        let connected = dial::transport(pod, &cluster.pool, (Inside::Bytes, server_name.as_deref()), (client, address)).await;
        let reports: &[Report] = match &connected {
            // All that can be known of an endpoint without HTTP.
            Ok(_) => &[Report::Connected, Report::Response(200)],
            // Ours, not the endpoint's.
            Err(ConnectError::Stock(_) | ConnectError::NoSecret) => &[],
            Err(_) => &[Report::Failed],
        };
        for report in reports {
            pod.with_rng(|rng| self.report(cluster, address, *report, rng));
        }
        if let Err(error) = &connected {
            self.bytes_pool(cluster, &self.endpoint(address)).refused(error);
        }
        connected
    }
}

/// See [`Upstream::occupy`].
pub struct TcpLease {
    _open: Rc<Open>,
    _occupied: Occupied,
    _pool: Rc<Pool>,
}
