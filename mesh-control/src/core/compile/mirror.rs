//! Copies of requests, whose answers nobody waits for.

use super::Compiler;
use super::envoy::{BoolValue, core, percent};
use crate::istio::virtual_service::{Destination, HttpRoute, Percent};
use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;

/// Who gets copies, and of which share; an explicit share of 0 is nobody.
pub(super) fn policies(c: &mut Compiler<'_, '_>, rule: &HttpRoute, port: u16) -> Vec<RequestMirrorPolicy> {
    if !c.settings.abilities.mirror {
        return Vec::new();
    }
    let legacy = rule.mirror_percent.or(rule.mirror_percent_).map(f64::from);
    let share = |given: Option<&Percent>, legacy: Option<f64>| given.map(|percent| percent.value).or(legacy).unwrap_or(100.0);
    let single = rule.mirror.iter().map(|to| (to, share(rule.mirror_percentage.as_ref(), legacy)));
    let list = rule.mirrors.iter().map(|mirror| (&mirror.destination, share(mirror.percentage.as_ref(), None)));
    let wanted: Vec<(&Destination, f64)> = single.chain(list).filter(|(_, share)| *share > 0.0).collect();
    let policy = |(to, share): (&Destination, f64)| RequestMirrorPolicy {
        cluster: c.destination(to, port),
        runtime_fraction: Some(core::RuntimeFractionalPercent { default_value: Some(percent(share)), ..Default::default() }),
        trace_sampled: Some(BoolValue { value: false }),
        // As Istio does today: the copy has the host of the original.
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    };
    wanted.into_iter().map(policy).collect()
}
