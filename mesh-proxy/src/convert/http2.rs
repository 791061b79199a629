//! Http2ProtocolOptions, of clients' connections and of those to endpoints.

use super::at::{At, Invalid};
use super::common::duration;
use crate::config::Http2;
use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;

/// What is said in the field `http2_protocol_options`.
pub(super) fn http2(at: &At<'_>, options: Option<Http2ProtocolOptions>) -> Result<Http2, Invalid> {
    /// RFC 9113, 6.9.1: a window has 31 bits; below its 65,535 it could not be set without a round trip.
    const WINDOW: std::ops::RangeInclusive<u32> = 65_535..=2_147_483_647;
    let mut http2 = Http2::default();
    let Some(mut options) = options else { return Ok(http2) };
    let at = at.field("http2_protocol_options");
    if let Some(most) = options.max_concurrent_streams.take() {
        if most.value == 0 || most.value > i32::MAX as u32 {
            return Err(at.field("max_concurrent_streams").value("not between 1 and 2147483647"));
        }
        http2.max_streams = http2.max_streams.min(most.value);
    }
    let windows = [
        ("initial_stream_window_size", options.initial_stream_window_size.take(), &mut http2.stream_window),
        ("initial_connection_window_size", options.initial_connection_window_size.take(), &mut http2.connection_window),
    ];
    for (name, value, window) in windows {
        let Some(value) = value else { continue };
        if !WINDOW.contains(&value.value) {
            return Err(at.field(name).value("not between 65535 and 2147483647"));
        }
        *window = Some(value.value);
    }
    if let Some(mut ping) = options.connection_keepalive.take() {
        let at = at.field("connection_keepalive");
        let interval = ping.interval.take().map(|interval| duration(&at.field("interval"), &interval)).transpose()?;
        let wait = duration(&at.field("timeout"), &at.field("timeout").required(ping.timeout.take())?)?;
        http2.ping = interval.filter(|interval| !interval.is_zero()).map(|interval| (interval, wait));
        at.nothing_else(&ping)?;
    }
    at.nothing_else(&options)?;
    Ok(http2)
}
