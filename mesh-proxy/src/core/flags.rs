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

flags! {
    /// No healthy upstream.
    NO_HEALTHY = 0 => "UH",
    /// Upstream connection failure.
    CONNECT_FAILURE = 1 => "UF",
    /// Upstream connection ended before a response.
    TERMINATED = 2 => "UC",
    /// Upstream request timeout.
    TIMEOUT = 3 => "UT",
    /// Retries were exhausted.
    RETRIES_EXHAUSTED = 4 => "URX",
    /// No route.
    NO_ROUTE = 5 => "NR",
    /// The route's cluster does not exist.
    NO_CLUSTER = 6 => "NC",
    /// Delay injected.
    DELAY = 7 => "DI",
    /// Fault injected.
    FAULT = 8 => "FI",
    /// A limit was reached.
    OVERFLOW = 9 => "UO",
    /// The downstream connection ended first.
    DOWNSTREAM = 10 => "DC",
    /// The upstream's response was no HTTP.
    PROTOCOL = 11 => "UPE",
    /// The upstream reset the stream.
    REMOTE_RESET = 12 => "UR",
    /// Nothing passed over the stream for too long.
    STREAM_IDLE = 13 => "SI",
}

impl Flags {
    /// Adds flags.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
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
