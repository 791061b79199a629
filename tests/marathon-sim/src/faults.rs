//! What tests can break: `POST /faults` on STATE/sim.sock. The whole of the body is the new state; `{}` mends everything.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Faults {
    pub(crate) events: Events,
    /// For `"events": "delay"`. The order may change, which Marathon does not promise either.
    pub(crate) delay_ms: u64,
    /// Ends every stream that is open now; those made later stay.
    pub(crate) close_streams: bool,
    /// Every request to Marathon's API is answered with 503.
    pub(crate) unavailable: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Events {
    #[default]
    Pass,
    /// Lost for good: only a snapshot shows what happened.
    Drop,
    Delay,
}
