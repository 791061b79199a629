//! How a cluster's endpoint is chosen: `lb_policy`, its configuration, `common_lb_config`.

use crate::convert::at::{At, Invalid};
use crate::convert::common::duration;
use crate::core::balance::maglev::{TABLE_MOST, TABLE_SIZE, is_prime};
use crate::core::balance::{Function, Policy, RingSize, Settings, SlowStart};
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt64Value;
use pb::cluster::common_lb_config::LocalityConfigSpecifier;
use pb::cluster::ring_hash_lb_config::HashFunction;
use pb::cluster::{LbConfig, LbPolicy, SlowStartConfig};
use std::mem::take;

/// Envoy's default, in percent.
const PANIC_THRESHOLD: u32 = 50;
/// Envoy's default size of a ring.
const RING_LEAST: u64 = 1024;
/// Envoy's default, and the largest that it takes.
const RING_MOST: u64 = 8 << 20;

/// The policy, its configuration, and what all policies have in common.
pub(super) fn settings(at: &At<'_>, message: &mut pb::Cluster) -> Result<Settings, Invalid> {
    let (policy, slow_start) = policy(at, message)?;
    let at = at.field("common_lb_config");
    let mut common = message.common_lb_config.take().unwrap_or_default();
    let panic_threshold = match common.healthy_panic_threshold.take() {
        None => PANIC_THRESHOLD,
        Some(percent) => whole_percent(&at.field("healthy_panic_threshold"), &percent)?,
    };
    let locality_weighted = match common.locality_config_specifier.take() {
        None => false,
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => return Err(at.field("zone_aware_lb_config").unsupported()),
    };
    // Updates are in force at once anyway.
    common.update_merge_window.take_if(|window| window.seconds == 0 && window.nanos == 0);
    at.nothing_else(&common)?;
    Ok(Settings { policy, panic_threshold, locality_weighted, slow_start })
}

fn policy(at: &At<'_>, message: &mut pb::Cluster) -> Result<(Policy, Option<SlowStart>), Invalid> {
    let policy = LbPolicy::try_from(take(&mut message.lb_policy)).map_err(|_unknown| at.field("lb_policy").value("unknown"))?;
    let config = message.lb_config.take();
    let plain = |policy| Ok((policy, None));
    match (policy, config) {
        (LbPolicy::RoundRobin, None) => plain(Policy::RoundRobin),
        (LbPolicy::RoundRobin, Some(LbConfig::RoundRobinLbConfig(mut config))) => {
            let at = at.field("round_robin_lb_config");
            let slow = slow_start(&at, config.slow_start_config.take())?;
            at.nothing_else(&config)?;
            Ok((Policy::RoundRobin, slow))
        }
        (LbPolicy::LeastRequest, None) => plain(Policy::LeastRequest { choices: 2, bias: 1.0 }),
        (LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(mut config))) => {
            let at = at.field("least_request_lb_config");
            let choices = config.choice_count.take().map_or(2, |count| count.value);
            if choices < 2 {
                return Err(at.field("choice_count").value("less than 2"));
            }
            let bias = double(&at.field("active_request_bias"), config.active_request_bias.take(), |bias| bias >= 0.0)?;
            let slow = slow_start(&at, config.slow_start_config.take())?;
            at.nothing_else(&config)?;
            Ok((Policy::LeastRequest { choices, bias }, slow))
        }
        (LbPolicy::Random, None) => plain(Policy::Random),
        (LbPolicy::RingHash, None) => plain(Policy::RingHash(ring(&at.field("ring_hash_lb_config"), Default::default())?)),
        (LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(config))) => {
            plain(Policy::RingHash(ring(&at.field("ring_hash_lb_config"), config)?))
        }
        (LbPolicy::Maglev, None) => plain(Policy::Maglev(TABLE_SIZE)),
        (LbPolicy::Maglev, Some(LbConfig::MaglevLbConfig(mut config))) => {
            let at = at.field("maglev_lb_config");
            let size = config.table_size.take().map_or(TABLE_SIZE, |size| size.value);
            if size > TABLE_MOST || !is_prime(size) {
                return Err(at.field("table_size").value(format_args!("{size} is no prime up to {TABLE_MOST}")));
            }
            at.nothing_else(&config)?;
            plain(Policy::Maglev(size))
        }
        (LbPolicy::ClusterProvided, None) => plain(Policy::OriginalDestination),
        (LbPolicy::ClusterProvided, Some(LbConfig::OriginalDstLbConfig(config))) => {
            at.field("original_dst_lb_config").nothing_else(&config)?;
            plain(Policy::OriginalDestination)
        }
        (LbPolicy::LoadBalancingPolicyConfig, _) => {
            Err(at.field("lb_policy").value(format_args!("{} is not supported", policy.as_str_name())))
        }
        (policy, Some(_)) => Err(at.field("lb_config").value(format_args!("is not that of {}", policy.as_str_name()))),
    }
}

fn ring(at: &At<'_>, mut config: pb::cluster::RingHashLbConfig) -> Result<RingSize, Invalid> {
    let size = |name: &str, value: Option<UInt64Value>, default| match value.map_or(default, |value| value.value) {
        size if size <= RING_MOST => Ok(size),
        size => Err(at.field(name).value(format_args!("{size} is more than {RING_MOST}"))),
    };
    let least = size("minimum_ring_size", config.minimum_ring_size.take(), RING_LEAST)?;
    let most = size("maximum_ring_size", config.maximum_ring_size.take(), RING_MOST)?;
    if least > most {
        return Err(at.field("minimum_ring_size").value(format_args!("{least} is more than maximum_ring_size, {most}")));
    }
    let function = match HashFunction::try_from(take(&mut config.hash_function)) {
        Ok(HashFunction::XxHash) => Function::XxHash,
        Ok(HashFunction::MurmurHash2) => Function::Murmur2,
        Err(_) => return Err(at.field("hash_function").value("unknown")),
    };
    at.nothing_else(&config)?;
    Ok(RingSize { least, most, function })
}

/// A window of 0 is none, as in Envoy.
fn slow_start(at: &At<'_>, config: Option<SlowStartConfig>) -> Result<Option<SlowStart>, Invalid> {
    let Some(mut config) = config else { return Ok(None) };
    let at = at.field("slow_start_config");
    let at_window = at.field("slow_start_window");
    let window = duration(&at_window, &at_window.required(config.slow_start_window.take())?)?;
    let aggression = double(&at.field("aggression"), config.aggression.take(), |aggression| aggression > 0.0)?;
    let least = config.min_weight_percent.take().map_or(10.0, |percent| percent.value);
    if !(0.0..=100.0).contains(&least) {
        return Err(at.field("min_weight_percent").value(format_args!("{least} is not from 0 to 100")));
    }
    at.nothing_else(&config)?;
    Ok((!window.is_zero()).then_some(SlowStart { window, aggression, least: least / 100.0 }))
}

/// There is no runtime to override the default value, so that is the value; absent, it is 1.
fn double(at: &At<'_>, value: Option<RuntimeDouble>, valid: impl FnOnce(f64) -> bool) -> Result<f64, Invalid> {
    let value = value.map_or(1.0, |value| value.default_value);
    // NaN is never valid.
    if valid(value) && value.is_finite() { Ok(value) } else { Err(at.value(format_args!("{value} is out of range"))) }
}

/// Rounded, as Envoy does with this one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100, rounded")]
fn whole_percent(at: &At<'_>, percent: &Percent) -> Result<u32, Invalid> {
    if !(0.0..=100.0).contains(&percent.value) {
        return Err(at.value(format_args!("{} is not from 0 to 100", percent.value)));
    }
    Ok(percent.value.round() as u32)
}
