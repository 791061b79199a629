//! What a pod has under way to a cluster and to each of its endpoints, and what happened, under Envoy's names. Plain cells: a pod lives on one thread.

use crate::core::outlier::Report;
use std::cell::Cell;
use std::rc::Rc;

macro_rules! counts {
    ($cells:ident, $values:ident, $of:literal, {$($(#[$doc:meta])* $name:ident,)+}) => {
        #[doc = concat!("Cells of a pod and ", $of, ".")]
        #[derive(Debug, Default)]
        pub struct $cells {
            $($(#[$doc])* pub $name: Cell<u64>,)+
        }

        #[doc = concat!("What those of one pod or several hold at a time, of ", $of, ".")]
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct $values {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl $cells {
            pub(super) fn read(&self) -> $values {
                $values { $($name: self.$name.get(),)+ }
            }
        }

        impl $values {
            /// Envoy's names and the values.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }

            /// Adds those of another pod.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counts!(Counts, Stats, "a cluster", {
    /// Connections open or being made.
    cx_active,
    /// Connections begun.
    cx_total,
    /// Connections that were not made.
    cx_connect_fail,
    /// Those of them that took too long.
    cx_connect_timeout,
    /// Times a connection was wanted and the limit forbade it.
    cx_overflow,
    /// Connections not used further since they had carried their number of requests.
    cx_max_requests,
    /// HTTP/1 connections begun.
    cx_http1_total,
    /// HTTP/2 connections begun.
    cx_http2_total,
    /// Requests in flight, each until its response has ended.
    rq_active,
    /// Requests sent, retries too.
    rq_total,
    /// Requests waiting for a connection.
    rq_pending_active,
    /// Requests that waited.
    rq_pending_total,
    /// Requests refused since too many waited or were in flight.
    rq_pending_overflow,
    /// Retries.
    rq_retry,
    /// Retries that were not made since too many were in flight.
    rq_retry_overflow,
    /// Retries that were not made since there had been enough.
    rq_retry_limit_exceeded,
    /// Retries in flight.
    rq_retry_active,
    /// Requests that ended by the route's timeout.
    rq_timeout,
    /// Attempts that ended by their own.
    rq_per_try_timeout,
    /// Attempts that the endpoint reset.
    rq_rx_reset,
});

counts!(HostCounts, HostStats, "an endpoint", {
    /// Connections open or being made.
    cx_active,
    /// Connections that were not made.
    cx_connect_fail,
    /// Connections begun.
    cx_total,
    /// Requests in flight, each until its response has ended.
    rq_active,
    /// Requests answered by 500 or above, or by nothing.
    rq_error,
    /// Requests answered otherwise.
    rq_success,
    /// Requests not answered in time.
    rq_timeout,
    /// Requests sent, retries too.
    rq_total,
});

impl HostCounts {
    /// What became of a request.
    pub(super) fn ended(&self, report: Report) {
        match report {
            Report::Connected => {}
            bad if bad.is_bad() => {
                count(&self.rq_error);
                if report == Report::Timeout {
                    count(&self.rq_timeout);
                }
            }
            _ => count(&self.rq_success),
        }
    }
}

/// Adds one.
pub fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// One more of something in `which`, until dropped.
pub struct Counted<C = Counts> {
    counts: Rc<C>,
    which: fn(&C) -> &Cell<u64>,
}

impl<C> Counted<C> {
    pub(super) fn enter(counts: &Rc<C>, which: fn(&C) -> &Cell<u64>) -> Self {
        count(which(counts));
        Self { counts: Rc::clone(counts), which }
    }
}

impl<C> Drop for Counted<C> {
    fn drop(&mut self) {
        let cell = (self.which)(&self.counts);
        cell.set(cell.get().saturating_sub(1));
    }
}
