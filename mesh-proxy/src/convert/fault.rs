//! `envoy.extensions.filters.http.fault.v3.HTTPFault`.

use super::at::{At, Invalid};
use super::common::{duration, header_matches, percent, unpack};
use crate::core::fault::{Abort, Fault, PerMillion};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as common;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use std::mem::take;

/// Name of the filter.
pub(super) const FILTER: &str = "envoy.filters.http.fault";
const TYPE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

pub(super) fn fault(at: &At<'_>, any: &Any) -> Result<Fault, Invalid> {
    let mut message: pb::HttpFault = unpack(at, any, TYPE)?;
    let delay = match message.delay.take() {
        None => None,
        Some(mut delay) => {
            let at = at.field("delay");
            let after = match delay.fault_delay_secifier.take() {
                Some(common::fault_delay::FaultDelaySecifier::FixedDelay(after)) => duration(&at.field("fixed_delay"), &after)?,
                Some(common::fault_delay::FaultDelaySecifier::HeaderDelay(_)) => {
                    return Err(at.field("header_delay").unsupported());
                }
                None => return Err(at.field("fixed_delay").missing()),
            };
            let share = percent(&at.field("percentage"), &delay.percentage.take().unwrap_or_default())?;
            at.nothing_else(&delay)?;
            Some((after, share))
        }
    };
    let abort = message.abort.take().map(|message| abort(&at.field("abort"), message)).transpose()?;
    let headers = header_matches(&at.field("headers"), take(&mut message.headers))?;
    at.nothing_else(&message)?;
    Ok(Fault { delay, abort, headers })
}

fn abort(at: &At<'_>, mut message: pb::FaultAbort) -> Result<(Abort, PerMillion), Invalid> {
    use pb::fault_abort::ErrorType;
    let how = match message.error_type.take() {
        Some(ErrorType::HttpStatus(status)) => {
            let status = u16::try_from(status).ok().filter(|status| (200..600).contains(status));
            let status = status.and_then(|status| http::StatusCode::from_u16(status).ok());
            Abort::Http(status.ok_or_else(|| at.field("http_status").value("not from 200 to 599"))?)
        }
        Some(ErrorType::GrpcStatus(status)) => Abort::Grpc(status),
        Some(ErrorType::HeaderAbort(_)) => return Err(at.field("header_abort").unsupported()),
        None => return Err(at.field("http_status").missing()),
    };
    let share = percent(&at.field("percentage"), &message.percentage.take().unwrap_or_default())?;
    at.nothing_else(&message)?;
    Ok((how, share))
}
