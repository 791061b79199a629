//! `outlier_detection`: by errors in a row. Detection by success rates is refused where it is not turned off.

use crate::convert::at::{At, Invalid};
use crate::convert::common::duration;
use crate::core::outlier::{Settings, Trigger};
use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use std::time::Duration;

/// Envoy's defaults.
const FAILURES: u32 = 5;
const INTERVAL: Duration = Duration::from_secs(10);
const BASE: Duration = Duration::from_secs(30);
const MAX: Duration = Duration::from_secs(300);
const MAX_PERCENT: u32 = 10;

pub(super) fn settings(at: &At<'_>, mut message: OutlierDetection) -> Result<Settings, Invalid> {
    let time = |name: &str, value: Option<ProtoDuration>| match value {
        None => Ok(None),
        Some(value) => match duration(&at.field(name), &value)? {
            Duration::ZERO => Err(at.field(name).value("must be above 0")),
            positive => Ok(Some(positive)),
        },
    };
    let percent = |name: &str, value: Option<UInt32Value>, default: u32| match value.map_or(default, |value| value.value) {
        valid @ 0..=100 => Ok(valid),
        _ => Err(at.field(name).value("not between 0 and 100")),
    };
    let failures = |value: Option<UInt32Value>| value.map_or(FAILURES, |value| value.value);
    let base = time("base_ejection_time", message.base_ejection_time.take())?.unwrap_or(BASE);
    let max = time("max_ejection_time", message.max_ejection_time.take())?;
    if max.is_some_and(|max| max < base) {
        return Err(at.field("max_ejection_time").value("below base_ejection_time"));
    }
    let jitter = message.max_ejection_time_jitter.take();
    let jitter = jitter.map(|jitter| duration(&at.field("max_ejection_time_jitter"), &jitter)).transpose()?;
    let settings = Settings {
        server_errors: Trigger {
            failures: failures(message.consecutive_5xx.take()),
            enforcing: percent("enforcing_consecutive_5xx", message.enforcing_consecutive_5xx.take(), 100)?,
        },
        gateway_errors: Trigger {
            failures: failures(message.consecutive_gateway_failure.take()),
            enforcing: percent("enforcing_consecutive_gateway_failure", message.enforcing_consecutive_gateway_failure.take(), 0)?,
        },
        local_errors: Trigger {
            failures: failures(message.consecutive_local_origin_failure.take()),
            enforcing: percent(
                "enforcing_consecutive_local_origin_failure",
                message.enforcing_consecutive_local_origin_failure.take(),
                100,
            )?,
        },
        split: std::mem::take(&mut message.split_external_local_origin_errors),
        interval: time("interval", message.interval.take())?.unwrap_or(INTERVAL),
        base,
        max: max.unwrap_or_else(|| MAX.max(base)),
        jitter: jitter.unwrap_or_default(),
        max_percent: percent("max_ejection_percent", message.max_ejection_percent.take(), MAX_PERCENT)?,
        always_one: message.always_eject_one_host.take().is_some_and(|always| always.value),
    };
    rates_are_off(at, &mut message, settings.split)?;
    // There are no active health checks.
    message.successful_active_health_check_uneject_host = None;
    message.detect_degraded_hosts = message.detect_degraded_hosts.filter(|detect| detect.value);
    at.nothing_else(&message)?;
    Ok(settings)
}

/// By success rate is on unless turned off; its parameters mean nothing then.
fn rates_are_off(at: &At<'_>, message: &mut OutlierDetection, split: bool) -> Result<(), Invalid> {
    let rates = [
        ("enforcing_success_rate", message.enforcing_success_rate.take(), 100),
        ("enforcing_local_origin_success_rate", message.enforcing_local_origin_success_rate.take(), if split { 100 } else { 0 }),
        ("enforcing_failure_percentage", message.enforcing_failure_percentage.take(), 0),
        ("enforcing_failure_percentage_local_origin", message.enforcing_failure_percentage_local_origin.take(), 0),
    ];
    for (name, value, default) in rates {
        if value.map_or(default, |value| value.value) != 0 {
            let reason = format!("only 0 is supported (absent means {default}): there is no detection by rates");
            return Err(at.field(name).value(reason));
        }
    }
    message.success_rate_minimum_hosts = None;
    message.success_rate_request_volume = None;
    message.success_rate_stdev_factor = None;
    message.failure_percentage_threshold = None;
    message.failure_percentage_minimum_hosts = None;
    message.failure_percentage_request_volume = None;
    Ok(())
}
