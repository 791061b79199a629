//! `envoy.config.route.v3.RetryPolicy`.

use super::at::{At, Invalid};
use super::common::{duration, header_matches, limit};
use crate::core::retry::{BASE, Conditions, RetryPolicy};
use envoy_types::pb::envoy::config::route::v3 as pb;
use std::mem::take;

/// The only host predicate there is for us.
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

/// `None` if it can never retry.
pub(super) fn retry(at: &At<'_>, mut message: pb::RetryPolicy) -> Result<Option<RetryPolicy>, Invalid> {
    let (mut on, mut status_codes) = (Conditions::default(), Vec::new());
    for name in take(&mut message.retry_on).split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match (Conditions::parse(name), name.parse::<u16>()) {
            (Some(condition), _) => on.set(condition),
            (None, Ok(code)) => status_codes.push(code),
            (None, Err(_)) => return Err(at.field("retry_on").value(format_args!("{name:?} is not supported"))),
        }
    }
    for code in take(&mut message.retriable_status_codes) {
        status_codes.push(u16::try_from(code).map_err(|_invalid| at.field("retriable_status_codes").value(code))?);
    }
    let retries = message.num_retries.take().map_or(1, |n| n.value);
    let per_try_timeout = limit(&at.field("per_try_timeout"), message.per_try_timeout.take(), None)?;
    let (mut base, mut max) = (BASE, BASE * 10);
    if let Some(mut back_off) = message.retry_back_off.take() {
        let at = at.field("retry_back_off");
        base = duration(&at.field("base_interval"), &at.field("base_interval").required(back_off.base_interval.take())?)?;
        max = back_off.max_interval.take().map_or(Ok(base * 10), |max| duration(&at.field("max_interval"), &max))?;
        at.nothing_else(&back_off)?;
    }
    let mut previous_hosts = false;
    for (index, mut predicate) in take(&mut message.retry_host_predicate).into_iter().enumerate() {
        let at = at.field("retry_host_predicate");
        let at = at.index(index);
        if take(&mut predicate.name) != PREVIOUS_HOSTS {
            return Err(at.value(format_args!("only {PREVIOUS_HOSTS} is supported")));
        }
        predicate.config_type = None;
        at.nothing_else(&predicate)?;
        previous_hosts = true;
    }
    let attempts = u32::try_from(take(&mut message.host_selection_retry_max_attempts)).unwrap_or(0);
    let headers = header_matches(&at.field("retriable_headers"), take(&mut message.retriable_headers))?;
    let request_headers = header_matches(&at.field("retriable_request_headers"), take(&mut message.retriable_request_headers))?;
    at.nothing_else(&message)?;
    let other_host_attempts = if previous_hosts { attempts.max(1) } else { 0 };
    if base.is_zero() {
        return Err(at.field("retry_back_off.base_interval").value("not above 0"));
    }
    let policy =
        RetryPolicy { on, status_codes, retries, per_try_timeout, base, max, other_host_attempts, headers, request_headers };
    Ok((policy.retries > 0 || policy.per_try_timeout.is_some()).then_some(policy))
}
