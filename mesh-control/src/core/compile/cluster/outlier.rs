//! When an endpoint is left alone for a while.

use crate::core::compile::envoy::{cluster, duration, uint};
use crate::istio::destination_rule::OutlierDetection;

/// Envoy's detection by errors in a row; success rates count for nothing, as in Istio.
pub(super) fn detection(rule: &OutlierDetection) -> cluster::OutlierDetection {
    // How sure an ejection is: always, or never where the rule says 0.
    let enforced = |count: Option<u32>| count.and_then(|count| uint(if count > 0 { 100 } else { 0 }));
    let mut found = cluster::OutlierDetection {
        enforcing_success_rate: uint(0),
        consecutive_5xx: rule.consecutive_5xx_errors.and_then(uint),
        enforcing_consecutive_5xx: enforced(rule.consecutive_5xx_errors),
        consecutive_gateway_failure: rule.consecutive_gateway_errors.and_then(uint),
        enforcing_consecutive_gateway_failure: enforced(rule.consecutive_gateway_errors),
        interval: rule.interval.map(duration),
        base_ejection_time: rule.base_ejection_time.map(duration),
        max_ejection_percent: u32::try_from(rule.max_ejection_percent).ok().filter(|most| *most > 0).and_then(uint),
        ..Default::default()
    };
    if rule.split_external_local_origin_errors {
        let failures = rule.consecutive_local_origin_failures.filter(|count| *count > 0);
        found.split_external_local_origin_errors = true;
        found.enforcing_local_origin_success_rate = uint(0);
        found.consecutive_local_origin_failure = failures.and_then(uint);
        found.enforcing_consecutive_local_origin_failure = enforced(failures);
    }
    // Istio 1.0 to 1.4: gateway errors, and nothing else. The walkthroughs use it; Istio has since dropped it.
    let old = u32::try_from(rule.consecutive_errors).ok().filter(|count| *count > 0);
    if old.is_some() && rule.consecutive_5xx_errors.is_none() && rule.consecutive_gateway_errors.is_none() {
        found.consecutive_gateway_failure = old.and_then(uint);
        found.enforcing_consecutive_gateway_failure = uint(100);
        found.enforcing_consecutive_5xx = uint(0);
    }
    found
}
