//! Faults on purpose: the delay comes first, then the abort.

use super::envoy::{duration, fault, fault_common, percent};
use crate::istio::enforced::grpc_code;
use crate::istio::virtual_service::{HttpFaultInjection, Percent};

/// The per-route configuration of Envoy's fault filter; `None` if nothing would ever happen.
pub(super) fn injection(rule: &HttpFaultInjection) -> Option<fault::HttpFault> {
    use fault_common::fault_delay::FaultDelaySecifier;
    let delay = rule.delay.as_ref().and_then(|delay| {
        let percentage = share(delay.percentage.as_ref(), delay.percent)?;
        let fixed = delay.fixed_delay?;
        let secifier = FaultDelaySecifier::FixedDelay(duration(fixed));
        Some(fault_common::FaultDelay { percentage: Some(percent(percentage)), fault_delay_secifier: Some(secifier) })
    });
    let abort = rule.abort.as_ref().and_then(|abort| {
        let percentage = share(abort.percentage.as_ref(), abort.percent)?;
        let http = abort.http_status.and_then(|status| u32::try_from(status).ok()).map(fault::fault_abort::ErrorType::HttpStatus);
        let grpc = abort.grpc_status.as_deref().and_then(grpc_code).map(fault::fault_abort::ErrorType::GrpcStatus);
        let error = http.or(grpc)?;
        Some(fault::FaultAbort { percentage: Some(percent(percentage)), error_type: Some(error), ..Default::default() })
    });
    (delay.is_some() || abort.is_some()).then(|| fault::HttpFault { delay, abort, ..Default::default() })
}

/// `percentage`, else the old whole `percent`, else never. Istio 1.0 had `percent` in aborts too, and the walkthroughs of that time use it.
fn share(percentage: Option<&Percent>, legacy: i32) -> Option<f64> {
    let share = percentage.map_or_else(|| f64::from(legacy), |percentage| percentage.value);
    (share > 0.0).then_some(share)
}
