//! What a pod has under way to a cluster, and what happened, under Envoy's names. Plain cells: a pod lives on one thread.

use crate::core::outlier;
use std::cell::Cell;
use std::rc::Rc;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Cells of a pod and cluster.
        #[derive(Debug, Default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: Cell<u64>,)+
        }

        /// What they hold at a time.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)+
            /// Of outlier detection.
            pub outlier: outlier::Counts,
        }

        impl Counts {
            pub(super) fn stats(&self, outlier: outlier::Counts) -> Stats {
                Stats { $($name: self.$name.get(),)+ outlier }
            }
        }

        impl Stats {
            /// Envoy's names and the values, but those of outlier detection.
            #[must_use]
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((concat!("upstream_", stringify!($name)), self.$name),)+]
            }

            /// Adds those of another pod.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
                self.outlier.add(&other.outlier);
            }
        }
    };
}

counts! {
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
}

/// Adds one.
pub fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// One more of something in `which`, until dropped.
pub struct Counted {
    counts: Rc<Counts>,
    which: fn(&Counts) -> &Cell<u64>,
}

impl Counted {
    pub(super) fn enter(counts: &Rc<Counts>, which: fn(&Counts) -> &Cell<u64>) -> Self {
        count(which(counts));
        Self { counts: Rc::clone(counts), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let cell = (self.which)(&self.counts);
        cell.set(cell.get().saturating_sub(1));
    }
}
