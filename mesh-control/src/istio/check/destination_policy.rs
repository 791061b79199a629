//! Rules on the old DestinationPolicy: those of its proto.

use super::super::destination_policy::{DestinationPolicy, SimpleCb};
use super::super::problem::{Path, Problems};
use super::super::resource::Spec;
use super::text;

impl Spec for DestinationPolicy {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        problems.judge(&at.field("destination"), self.host.as_str(), text::domain(&self.host));
        let written = &self.written;
        if let Some(balancing) = &written.load_balancing
            && balancing.simple().is_none()
        {
            let at = at.field("loadBalancing");
            let known = ["ROUND_ROBIN", "LEAST_CONN", "RANDOM"];
            problems.unsupported(&at.field("name"), &balancing.name.as_str().into(), &known);
        }
        if let Some(breaker) = written.circuit_breaker.as_ref().and_then(|breaker| breaker.simple_cb.as_ref()) {
            let at = at.field("circuitBreaker");
            breaker_limits(breaker, &at.field("simpleCb"), problems);
        }
        if written.load_balancing.is_none() && written.circuit_breaker.is_none() {
            problems.required(at, "destination policy must have loadBalancing or circuitBreaker");
        }
    }
}

fn breaker_limits(breaker: &SimpleCb, at: &Path<'_>, problems: &mut Problems) {
    for (field, number) in [
        ("maxConnections", breaker.max_connections),
        ("httpMaxPendingRequests", breaker.http_max_pending_requests),
        ("httpMaxRequests", breaker.http_max_requests),
        ("httpConsecutiveErrors", breaker.http_consecutive_errors),
        ("httpMaxRequestsPerConnection", breaker.http_max_requests_per_connection),
        ("httpMaxRetries", breaker.http_max_retries),
    ] {
        let verdict = if number < 0 { Err("must be non-negative".to_owned()) } else { Ok(()) };
        problems.judge(&at.field(field), number, verdict);
    }
    let percent = breaker.http_max_ejection_percent;
    let verdict = if (0..=100).contains(&percent) { Ok(()) } else { Err(format!("percentage {percent} is not in range 0..100")) };
    problems.judge(&at.field("httpMaxEjectionPercent"), percent, verdict);
    text::optional_duration(breaker.sleep_window, &at.field("sleepWindow"), problems);
    text::optional_duration(breaker.http_detection_interval, &at.field("httpDetectionInterval"), problems);
}
