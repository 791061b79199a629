//! Envoy's response flags: why a response is not simply the upstream's. One set per request, in metrics and access log.

use std::fmt;

/// A set of flags.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flags(u16);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal => $label:literal,)+) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)+
            const LABELS: &'static [(Self, &'static str)] = &[$((Self::$name, $label),)+];
        }
    };
}

// In the order in which Envoy prints them.
flags! {
    /// No healthy upstream.
    NO_HEALTHY = 0 => "UH",
    /// Upstream request timeout.
    TIMEOUT = 3 => "UT",
    /// Upstream connection failure.
    CONNECT_FAILURE = 1 => "UF",
    /// Upstream connection ended before a response.
    TERMINATED = 2 => "UC",
    /// A limit was reached.
    OVERFLOW = 9 => "UO",
    /// No route.
    NO_ROUTE = 5 => "NR",
    /// Delay injected.
    DELAY = 7 => "DI",
    /// Fault injected.
    FAULT = 8 => "FI",
    /// The downstream connection ended first.
    DOWNSTREAM = 10 => "DC",
    /// Retries were exhausted.
    RETRIES_EXHAUSTED = 4 => "URX",
    /// The upstream's response was no HTTP.
    PROTOCOL = 11 => "UPE",
    /// The upstream reset the stream.
    REMOTE_RESET = 12 => "UR",
    /// Nothing passed over the stream for too long.
    STREAM_IDLE = 13 => "SI",
    /// The client's request was no HTTP.
    DOWNSTREAM_PROTOCOL = 14 => "DPE",
    /// The route's cluster does not exist.
    NO_CLUSTER = 6 => "NC",
}

impl Flags {
    /// Adds flags.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Envoy's `RESPONSE_CODE_DETAILS` for them; `answered`: an upstream's response was begun.
    #[must_use]
    pub fn details(self, answered: bool) -> &'static str {
        const DETAILS: &[(Flags, &str)] = &[
            (Flags::NO_ROUTE, "route_not_found"),
            (Flags::NO_CLUSTER, "cluster_not_found"),
            (Flags::NO_HEALTHY, "no_healthy_upstream"),
            (Flags::FAULT, "fault_filter_abort"),
            (Flags::TIMEOUT, "response_timeout"),
            (Flags::OVERFLOW, "upstream_reset_before_response_started{overflow}"),
            (Flags::CONNECT_FAILURE, "upstream_reset_before_response_started{remote_connection_failure}"),
            (Flags::TERMINATED, "upstream_reset_before_response_started{connection_termination}"),
            (Flags::DOWNSTREAM_PROTOCOL, "http1.content_length_and_chunked_not_allowed"),
            (Flags::PROTOCOL, "upstream_reset_before_response_started{protocol_error}"),
        ];
        if self.has(Self::DOWNSTREAM) {
            return "downstream_remote_disconnect";
        }
        if answered {
            return "via_upstream";
        }
        DETAILS.iter().find(|(flag, _)| self.has(*flag)).map_or("direct_response", |(_, details)| details)
    }

    /// True if all of `other` are in.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let mut comma = "";
        for (_, label) in Self::LABELS.iter().filter(|(flag, _)| self.has(*flag)) {
            write!(f, "{comma}{label}")?;
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_flags_are_printed_in_envoys_order_and_explained_by_one_word() {
        let mut flags = Flags::default();
        assert_eq!(
            (flags.to_string().as_str(), flags.details(true), flags.details(false)),
            ("-", "via_upstream", "direct_response")
        );
        flags.set(Flags::RETRIES_EXHAUSTED);
        flags.set(Flags::CONNECT_FAILURE);
        assert_eq!(flags.to_string(), "UF,URX");
        assert_eq!(flags.details(false), "upstream_reset_before_response_started{remote_connection_failure}");
        flags.set(Flags::DOWNSTREAM);
        assert_eq!(flags.details(true), "downstream_remote_disconnect");
    }
}
