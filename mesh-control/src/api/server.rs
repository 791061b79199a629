//! Listening: TLS, limits of connections and time, an orderly end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::handler::Shared;
use super::metrics::RefusalLabels;
use super::{ApiArgs, ApiMetrics};

/// Open connections. People and a few controllers: more is a leak or an attack, and each may cost a body in memory.
const MAX_CONNECTIONS: usize = 256;
/// A TLS handshake takes two round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the head of a request, and how long an idle HTTP/1.1 connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that vanished is noticed by HTTP/2 pings.
const PING: Duration = Duration::from_secs(30);
/// After the end was asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{certificate} and {key} do not serve: {source}", certificate = certificate.display(), key = key.display())]
    Refused { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// Reads the server's certificate chain and key.
pub(crate) fn load_tls(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig, TlsError> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::Pem { path: certificate.to_owned(), source })?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem { path: key.to_owned(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|source| TlsError::Refused { certificate: certificate.to_owned(), key: key.to_owned(), source })
}

/// Serves until `stop` is cancelled.
pub(crate) async fn serve(args: ApiArgs) {
    let shared = Shared::new(&args);
    let ApiArgs { listener, mut tls, metrics, stop, .. } = args;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Mostly too many open files: a pause lets others finish.
                tracing::warn!(%error, "cannot accept a connection to the API");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            refused(&metrics, "too_many_connections");
            continue;
        };
        let (acceptor, shared, metrics) = (acceptor.clone(), shared.clone(), metrics.clone());
        connections.spawn(async move {
            metrics.connections.inc();
            connection(stream, acceptor, shared, &metrics).await;
            metrics.connections.dec();
            drop(permit);
        });
    }
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!("some connections to the API were still busy at the end");
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Shared, metrics: &ApiMetrics) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return refused(metrics, "tls_handshake");
        }
        Err(_elapsed) => return refused(metrics, "tls_timeout"),
    };
    let stop = shared.stop.clone();
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, std::convert::Infallible>(shared.handle(request.map(Body::new)).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 * 1024);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).max_concurrent_streams(64).max_header_list_size(64 * 1024);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection to the API ended");
    }
}

fn refused(metrics: &ApiMetrics, reason: &'static str) {
    metrics.refused.get_or_create(&RefusalLabels { reason }).inc();
}
