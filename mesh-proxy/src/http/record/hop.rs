//! Spans of attempts, at a proxy that is a hop of its own: begun with each attempt, told when it is over.
//!
//! An endpoint is told of its attempt's span, not of the request's.

use super::{Record, protocol};
use crate::core::flags::Flags;
use crate::core::peer::Peer;
use crate::core::trace::{self, Context};
use crate::telemetry::pod::peer;
use http::HeaderMap;
use std::net::SocketAddr;
use std::time::SystemTime;
use tokio::time::Instant;

/// One that is under way.
pub(super) struct Attempt {
    context: Context,
    began: SystemTime,
    started: Instant,
    upstream: SocketAddr,
    /// What was known of the request before.
    flags: Flags,
}

impl Record {
    /// An attempt begins, if attempts of this request have spans: its endpoint is told.
    pub(in crate::http) fn attempting(&mut self, upstream: SocketAddr, headers: &mut HeaderMap) {
        let Some(context) = self.context.filter(|context| context.sampled) else { return };
        let tracing = self.detail.as_ref().and_then(|detail| detail.options.tracing.as_ref());
        let Some(tracing) = tracing.filter(|tracing| tracing.hop) else { return };
        let context = self.pod.with_rng(|rng| context.child(rng));
        context.write(headers, tracing.w3c);
        let (began, started) = (SystemTime::now(), Instant::now());
        self.attempt = Some(Box::new(Attempt { context, began, started, upstream, flags: self.flags }));
    }

    /// It is over; `status` is the endpoint's, 0 if there is none.
    pub(in crate::http) fn attempted(&mut self, status: u16, flags: Flags) {
        let Some((attempt, detail)) = self.attempt.take().zip(self.detail.as_ref()) else { return };
        let Some(tracing) = &detail.options.tracing else { return };
        let shared = &self.pod.shared;
        let workload = self.pod.workload();
        let destination = peer(&shared.config.load(), self.cluster_name.as_ref(), Some(attempt.upstream));
        let facts = trace::Attempt {
            started: attempt.began,
            duration: attempt.started.elapsed(),
            protocol: protocol(detail.version),
            status,
            // That there was no further attempt is said of the request.
            flags: flags.without(attempt.flags).without(Flags::RETRIES_EXHAUSTED),
            before: self.retries,
            cluster: self.cluster(),
            source: &Peer::of(&workload.app, &workload.namespace, &workload.labels),
            source_address: Some(detail.destination.ip()),
            upstream: attempt.upstream,
            destination: destination.as_deref(),
            node: shared.telemetry.node(),
        };
        shared.telemetry.spans.report(&tracing.collector, trace::of_attempt(&attempt.context, &facts));
    }
}
