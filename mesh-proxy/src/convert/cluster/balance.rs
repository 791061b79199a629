//! How a cluster's endpoint is chosen: `lb_policy`, its configuration, `common_lb_config`.

use crate::convert::at::{At, Invalid};
use crate::core::balance::Policy;
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use std::mem::take;

/// The policy and its configuration.
pub(super) fn policy(at: &At<'_>, message: &mut pb::Cluster) -> Result<Policy, Invalid> {
    use pb::cluster::{LbConfig, LbPolicy};
    let policy = match LbPolicy::try_from(take(&mut message.lb_policy)) {
        Ok(LbPolicy::RoundRobin) => Policy::RoundRobin,
        Ok(LbPolicy::LeastRequest) => Policy::LeastRequest,
        Ok(LbPolicy::Random) => Policy::Random,
        Ok(other) => return Err(at.field("lb_policy").value(format_args!("{} is not supported", other.as_str_name()))),
        Err(_) => return Err(at.field("lb_policy").value("unknown")),
    };
    // An empty configuration of the policy says nothing.
    if let Some(LbConfig::RoundRobinLbConfig(config)) = &message.lb_config {
        at.field("round_robin_lb_config").nothing_else(config)?;
        message.lb_config = None;
    } else if let Some(LbConfig::LeastRequestLbConfig(config)) = &mut message.lb_config {
        if config.choice_count.as_ref().is_some_and(|count| count.value == 2) {
            config.choice_count = None;
        }
        at.field("least_request_lb_config").nothing_else(config)?;
        message.lb_config = None;
    }
    Ok(policy)
}

/// Only what says "no panic mode", which is all there is here.
pub(super) fn common_lb(at: &At<'_>, config: Option<pb::cluster::CommonLbConfig>) -> Result<(), Invalid> {
    let Some(mut config) = config else { return Ok(()) };
    if config.healthy_panic_threshold.take().is_some_and(|percent| percent.value != 0.0) {
        return Err(at.field("healthy_panic_threshold").value("only 0 is supported: there is no panic mode"));
    }
    // Updates are in force at once anyway.
    if config.update_merge_window.as_ref().is_some_and(|window| window.seconds == 0 && window.nanos == 0) {
        config.update_merge_window = None;
    }
    at.nothing_else(&config)
}
