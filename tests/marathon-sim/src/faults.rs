//! What tests can break: `POST /faults` on STATE/sim.sock. The whole of the body is the new state; `{}` mends everything.
//!
//! `world` bends events, `api::broken` the answers, `api::events` the stream. Nothing here touches what really runs.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Faults {
    pub(crate) events: Events,
    /// For `"events": "delay"` and `"reorder"`. The order may change, which Marathon does not promise either.
    pub(crate) delay_ms: u64,
    /// So many bytes more in each event, as plans with whole definitions had them before 1.7.
    pub(crate) padding: usize,
    /// Streams are written in pieces of so many bytes, each a segment of its own; 0 writes an event at once.
    pub(crate) cut: usize,
    /// Streams say nothing any more, not even heartbeats, and stay open. New ones do not even announce themselves.
    pub(crate) stall: bool,
    /// No heartbeats; events go on.
    pub(crate) no_heartbeat: bool,
    /// Ends every stream that is open now; those made later stay.
    pub(crate) close_streams: bool,
    /// `HOST:PORT`: requests for event streams are sent there, as by a standby, unless it is the host that was asked.
    pub(crate) leader: Option<String>,
    /// The status that does so; 302 if it is not given.
    pub(crate) redirect: Option<u16>,
    /// Every request to Marathon's API is answered with 503.
    pub(crate) unavailable: bool,
    /// Every request is answered with 502, as while a leader is being elected, and all streams end.
    pub(crate) no_leader: bool,
    /// Answers are made at once and sent so much later: what happened in between is not in them.
    pub(crate) slow_ms: u64,
    pub(crate) nonsense: Nonsense,
    /// Marathon's version, as `1.4`: answers and events have its shapes.
    pub(crate) version: Option<String>,
    /// What is known of health is forgotten, as after a change of the leader.
    pub(crate) forgets_health: bool,
    /// Host names of agents that Mesos has lost: their tasks are unreachable.
    pub(crate) unreachable: Vec<String>,
    /// `authorization` that every request must have; others are answered with 401.
    pub(crate) authorization: Option<String>,
    /// Of the stand-in without nodes: ids of apps and pods whose health checks fail.
    pub(crate) unhealthy: Vec<String>,
    /// The same: health checks without result.
    pub(crate) unchecked: Vec<String>,
    /// The same: readiness checks that do not succeed.
    pub(crate) unready: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Events {
    #[default]
    Pass,
    /// Lost for good: only a snapshot shows what happened.
    Drop,
    Delay,
    /// Each comes twice.
    Duplicate,
    /// Each pair comes the other way round.
    Reorder,
}

/// What is answered with status 200 instead of what was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Nonsense {
    #[default]
    None,
    /// A page, as of a proxy in between.
    Html,
    /// The first half.
    Truncated,
    /// `{}`.
    Empty,
    /// `null`.
    Null,
    /// `[]`.
    Array,
    /// Lists with as many elements, each a number.
    Elements,
}
