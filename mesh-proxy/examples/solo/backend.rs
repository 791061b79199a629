//! A gRPC server in the smallest sense: each request is answered by one message, and by a status in trailers. nginx, which answers the
//! other cases, speaks HTTP/2 to clients only and knows no gRPC.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// gRPC's prefix (not compressed, 11 bytes), and the bytes.
const MESSAGE: &[u8] = b"\0\0\0\0\x0bhello world";

pub(crate) async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A client that goes away is no error of ours.
        let served = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::task::spawn_local(async { drop(served.await) });
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    // The client's message is read, as a service would.
    let _ = request.into_body().collect().await;
    let trailers =
        async { Some(Ok(HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]))) };
    let body = Full::new(Bytes::from_static(MESSAGE)).with_trailers(trailers).map_frame(|frame: Frame<Bytes>| frame);
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
