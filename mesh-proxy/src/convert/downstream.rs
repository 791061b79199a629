//! What an HttpConnectionManager says of clients' connections: how long they last, and how much may come over them.

use super::at::{At, Invalid};
use super::common::{duration, limit};
use super::http2::http2;
use crate::config::Downstream;
use crate::limits::{HEAD_BYTES, HEAD_KB_MOST, HEADERS, HEADERS_MOST};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::UInt32Value;
use std::time::Duration;

/// Envoy's default for idle client connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Envoy's default for the time between "this answer is the last" and the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn downstream(at: &At<'_>, message: &mut HttpConnectionManager) -> Result<Downstream, Invalid> {
    let drain_timeout = message.drain_timeout.take();
    let drain_timeout = drain_timeout.map(|timeout| duration(&at.field("drain_timeout"), &timeout)).transpose()?;
    let headers_timeout = message.request_headers_timeout.take();
    let mut downstream = Downstream {
        idle_timeout: Some(IDLE_TIMEOUT),
        max_connection_duration: None,
        drain_timeout: drain_timeout.unwrap_or(DRAIN_TIMEOUT),
        max_requests_per_connection: None,
        request_headers_timeout: limit(&at.field("request_headers_timeout"), headers_timeout, None)?,
        head_bytes: head_bytes(&at.field("max_request_headers_kb"), message.max_request_headers_kb.take())?,
        headers: HEADERS,
        http2: http2(at, message.http2_protocol_options.take())?,
    };
    let Some(mut common) = message.common_http_protocol_options.take() else { return Ok(downstream) };
    let at = at.field("common_http_protocol_options");
    downstream.idle_timeout = limit(&at.field("idle_timeout"), common.idle_timeout.take(), downstream.idle_timeout)?;
    let longest = common.max_connection_duration.take();
    downstream.max_connection_duration = limit(&at.field("max_connection_duration"), longest, None)?;
    let most = common.max_requests_per_connection.take().map(|most| most.value);
    downstream.max_requests_per_connection = most.filter(|most| *most != 0);
    match common.max_headers_count.take().map(|most| most.value) {
        None => {}
        Some(most @ 1..=HEADERS_MOST) => downstream.headers = most as usize,
        Some(most) => {
            return Err(at.field("max_headers_count").value(format_args!("{most} is not from 1 to {HEADERS_MOST}")));
        }
    }
    at.nothing_else(&common)?;
    Ok(downstream)
}

fn head_bytes(at: &At<'_>, kb: Option<UInt32Value>) -> Result<usize, Invalid> {
    match kb.map(|kb| kb.value) {
        None => Ok(HEAD_BYTES),
        Some(kb @ 1..=HEAD_KB_MOST) => Ok(kb as usize * 1024),
        Some(kb) => Err(at.value(format_args!("{kb} is not from 1 to {HEAD_KB_MOST}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
    use envoy_types::pb::google::protobuf::Duration as ProtoDuration;

    fn taken(mut message: HttpConnectionManager) -> Result<Downstream, String> {
        downstream(&At::resource("l"), &mut message).map_err(|invalid| invalid.to_string())
    }

    fn common(common: HttpProtocolOptions) -> HttpConnectionManager {
        HttpConnectionManager { common_http_protocol_options: Some(common), ..Default::default() }
    }

    #[test]
    fn defaults_are_envoys() {
        let said = taken(HttpConnectionManager::default()).expect("taken");
        assert_eq!((said.idle_timeout, said.drain_timeout), (Some(Duration::from_secs(3600)), Duration::from_secs(5)));
        assert_eq!((said.headers, said.head_bytes, said.http2.max_streams), (100, 60 * 1024, 1024));
        assert_eq!((said.max_connection_duration, said.max_requests_per_connection), (None, None));
        assert_eq!(said.request_headers_timeout, None);
    }

    #[test]
    fn what_is_said_counts_and_nought_is_no_limit() {
        let zero = Some(ProtoDuration::default());
        let number = |value| Some(UInt32Value { value });
        let said = taken(common(HttpProtocolOptions {
            idle_timeout: zero,
            max_connection_duration: Some(ProtoDuration { seconds: 7, nanos: 0 }),
            max_requests_per_connection: number(0),
            max_headers_count: number(7),
            ..Default::default()
        }));
        let said = said.expect("taken");
        assert_eq!((said.idle_timeout, said.max_connection_duration), (None, Some(Duration::from_secs(7))));
        assert_eq!((said.max_requests_per_connection, said.headers), (None, 7));
        for most in [0, HEADERS_MOST + 1] {
            let refused = taken(common(HttpProtocolOptions { max_headers_count: number(most), ..Default::default() }));
            let expected = format!("l: common_http_protocol_options.max_headers_count: {most} is not from 1 to 10000");
            assert_eq!(refused.expect_err("refused"), expected);
        }
        let refused = taken(common(HttpProtocolOptions { max_stream_duration: zero, ..Default::default() }));
        let expected = "l: common_http_protocol_options.max_stream_duration is not supported";
        assert_eq!(refused.expect_err("refused"), expected);
    }
}
