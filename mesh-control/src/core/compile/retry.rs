//! Repeating failed requests: what a rule says, and what holds where none speaks.

use super::Settings;
use super::envoy::{PreviousHostsPredicate, PreviousPrioritiesConfig, duration, pack_any, route, uint};
use crate::istio::virtual_service::HttpRetry;
use clap::ValueEnum;

/// Istio's default (pilot/pkg/networking/core/route/retry/retry.go), with no status codes.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
/// What Istio 1.0 took for it.
const RETRY_ON_1_0: &str = "5xx,connect-failure,refused-stream";
const RETRIES: u32 = 2;
/// How often another endpoint is asked for before one that failed is taken again.
const OTHER_HOSTS: i64 = 5;
/// After how many attempts the next priority is asked; Istio's choice.
const PRIORITIES_EVERY: i32 = 2;

/// What `retries` of a rule mean without `retryOn`.
///
/// Rules that were written for Istio 1.0 count on retries after a 5xx and after a try that took too long, which today's default does not
/// make.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum RetryOnDefault {
    /// connect-failure, refused-stream, unavailable, cancelled, retriable-status-codes
    #[default]
    Current,
    /// 5xx, connect-failure, refused-stream
    #[value(name = "istio-1.0")]
    Istio10,
}

impl RetryOnDefault {
    const fn conditions(self) -> &'static str {
        match self {
            Self::Current => RETRY_ON,
            Self::Istio10 => RETRY_ON_1_0,
        }
    }
}

/// Where no rule speaks.
pub(super) fn everywhere(settings: &Settings) -> Option<route::RetryPolicy> {
    settings.default_retries.as_ref().map_or_else(|| Some(default()), |retries| of_rule(retries, settings))
}

/// Istio's.
fn default() -> route::RetryPolicy {
    let predicate = route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(pack_any(
            PreviousHostsPredicate {},
        ))),
    };
    route::RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: uint(RETRIES),
        retry_host_predicate: vec![predicate],
        host_selection_retry_max_attempts: OTHER_HOSTS,
        ..Default::default()
    }
}

/// `None` if retries are off.
pub(super) fn of_rule(retries: &HttpRetry, settings: &Settings) -> Option<route::RetryPolicy> {
    let attempts = u32::try_from(retries.attempts).ok().filter(|attempts| *attempts > 0)?;
    let mut policy = default();
    policy.num_retries = uint(attempts);
    policy.per_try_timeout = retries.per_try_timeout.map(duration);
    settings.retry_on_default.conditions().clone_into(&mut policy.retry_on);
    if !retries.retry_on.is_empty() {
        let (codes, mut names): (Vec<_>, Vec<_>) = retries.retry_on.split(',').partition(|term| term.parse::<u32>().is_ok());
        policy.retriable_status_codes = codes.iter().filter_map(|code| code.parse().ok()).collect();
        if !codes.is_empty() && !names.contains(&"retriable-status-codes") {
            names.push("retriable-status-codes");
        }
        policy.retry_on = names.join(",");
    }
    if retries.retry_ignore_previous_hosts == Some(false) {
        policy.retry_host_predicate.clear();
    }
    if retries.retry_remote_localities == Some(true) && settings.abilities.previous_priorities {
        policy.retry_priority = Some(previous_priorities());
    }
    policy.retry_back_off = retries.backoff.map(|base| route::retry_policy::RetryBackOff {
        base_interval: Some(duration(base)),
        // Envoy's default, said aloud.
        max_interval: Some(duration(base.saturating_mul(10))),
    });
    Some(policy)
}

fn previous_priorities() -> route::retry_policy::RetryPriority {
    let config = PreviousPrioritiesConfig { update_frequency: PRIORITIES_EVERY };
    route::retry_policy::RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(route::retry_policy::retry_priority::ConfigType::TypedConfig(pack_any(config))),
    }
}
