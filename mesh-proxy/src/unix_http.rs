//! HTTP over a unix socket, for the admin endpoints of both processes: accepts, bounds, reads requests. What is answered is the caller's;
//! who may open the socket is decided by whoever bound it.

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// A client that sends no request within this time is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections at a time: an operator, a scraper, probes, and room. The next waits in the socket's backlog.
const CONNECTIONS: usize = 32;

/// Plain text.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
/// JSON.
pub(crate) const JSON: &str = "application/json";

/// Serves for ever.
pub(crate) async fn serve<F, A>(listener: UnixListener, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed, so a place is always had in the end.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| {
                let response = answer(request);
                async { Ok::<_, Infallible>(response.await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an admin connection broke");
            }
            drop(place);
        });
    }
}

/// A whole answer.
pub(crate) fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: admin\r\n\r\n";

    async fn answered(stream: &mut UnixStream) {
        let mut seen = Vec::new();
        while !seen.ends_with(b"fine\n") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "closed after {:?}", String::from_utf8_lossy(&seen));
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_for_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(serve(listener, |_request| std::future::ready(response(StatusCode::OK, TEXT, "fine\n".to_owned()))));
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(REQUEST).await.unwrap();
            answered(&mut stream).await;
            open.push(stream);
        }
        let mut late = UnixStream::connect(&path).await.unwrap();
        late.write_all(REQUEST).await.unwrap();
        for stream in &mut open {
            stream.write_all(REQUEST).await.unwrap();
            answered(stream).await;
        }
        assert_eq!(late.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock, "it was served beyond the limit");
        open.pop();
        answered(&mut late).await;
    }
}
