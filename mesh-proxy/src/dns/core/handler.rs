//! The path of a message, in order: parse, the mesh's own names, the cache, else a resolver. [`Core`] is all that is remembered.

use super::answer::{self, Kind};
use super::cache::{BYTES_MAX, Cache, ENTRIES_MAX};
use super::heard::Heard;
use super::learn::{ADDRESSES_MAX, Learning, Memory, Rules, UNSURE_TTL};
use super::query::{self, Ignored, Parsed, Question, Transport};
use super::reply::Stored;
use super::zone::Table;
use hickory_proto::op::ResponseCode;
use std::sync::Arc;
use std::time::Instant;

/// Everything that answers depend on.
#[derive(Debug)]
pub(in crate::dns) struct Core {
    /// The mesh's own names.
    pub(in crate::dns) table: Table,
    /// What resolvers said.
    pub(in crate::dns) cache: Cache,
    /// Whose addresses the agent must know first.
    pub(in crate::dns) rules: Rules,
    /// What it knows.
    pub(in crate::dns) memory: Memory,
    /// What it is told besides.
    pub(in crate::dns) heard: Heard,
    /// Names that neither the mesh nor an egress rule knows are refused, and never asked of a resolver: by what a name is made of, data would get
    /// out.
    pub(in crate::dns) registry_only: bool,
}

impl Default for Core {
    fn default() -> Self {
        Self {
            table: Table::default(),
            cache: Cache::new(ENTRIES_MAX, BYTES_MAX),
            rules: Rules::default(),
            memory: Memory::default(),
            heard: Heard::default(),
            registry_only: false,
        }
    }
}

/// What to do with a message.
#[derive(Debug)]
pub(in crate::dns) enum Outcome {
    /// Nothing.
    Ignore(Ignored),
    /// Send this.
    Reply(Vec<u8>, Answered),
    /// Ask a resolver, then [`Core::complete`].
    Forward(Box<Question>),
    /// Tell the agent, then send it.
    Learn(Box<Learning>),
}

/// Why a resolver's answer could not be had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::dns) enum Unanswered {
    /// This pod has too many questions open.
    PodLimit,
    /// The node has too many questions open.
    NodeLimit,
    /// No resolver answered in time.
    Timeout,
    /// The resolvers failed or refused; the response code of the last.
    Failed(u16),
    /// The agent did not acknowledge the addresses in time.
    LearnTimeout,
    /// The agent is away, and no address of this name is known to be in force.
    LearnAway,
    /// More addresses than can be learned.
    LearnLimit,
}

macro_rules! labels {
    ($(#[$meta:meta])* $name:ident { $($variant:ident => $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub(in crate::dns) enum $name { $($variant,)+ }

        impl $name {
            /// In metrics.
            pub(in crate::dns) const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

labels! {
    /// How a question was answered: label `result` of `mesh_dns_queries_total`.
    Answered {
        Mesh => "mesh",
        MeshNoData => "mesh_no_data",
        MeshNoName => "mesh_no_name",
        MeshNotYet => "mesh_not_yet",
        Cached => "cached",
        Forwarded => "forwarded",
        FormErr => "formerr",
        NotImp => "notimp",
        Refused => "refused",
        NotInRegistry => "not_in_registry",
        PodLimit => "pod_limit",
        NodeLimit => "node_limit",
        UpstreamTimeout => "upstream_timeout",
        UpstreamFailed => "upstream_failed",
        LearnTimeout => "learn_timeout",
        LearnAway => "learn_away",
        LearnLimit => "learn_limit",
    }
}

impl Core {
    /// Takes a client's message.
    pub(in crate::dns) fn handle(&mut self, bytes: &[u8], transport: Transport, now: Instant) -> Outcome {
        let question = match query::parse(bytes, transport) {
            Parsed::Ask(question) => question,
            Parsed::Ignore(why) => return Outcome::Ignore(why),
            Parsed::Refuse(answer, code) => return Outcome::Reply(answer, refusal(code)),
        };
        if let Some((answer, kind)) = answer::mesh(&question, &self.table.lookup(&question.key)) {
            return Outcome::Reply(answer, mesh(kind));
        }
        if self.registry_only && !self.rules.names(&question.key) {
            let (code, answered) = if self.rules.is_told() {
                (ResponseCode::Refused, Answered::NotInRegistry)
            } else {
                (ResponseCode::ServFail, Answered::MeshNotYet)
            };
            return Outcome::Reply(answer::error(&question, code), answered);
        }
        match self.cache.get(&question, now) {
            Some((stored, age)) => self.give(&question, stored, age, Answered::Cached, now),
            None => Outcome::Forward(question),
        }
    }

    /// Takes what the resolvers said to [`Outcome::Forward`]: the client's answer, or what must be learned before.
    pub(in crate::dns) fn complete(&mut self, question: &Question, said: Result<Vec<u8>, Unanswered>, now: Instant) -> Outcome {
        match said.and_then(|bytes| Stored::new(bytes).ok_or(Unanswered::Failed(0))) {
            Ok(stored) => {
                let stored = Arc::new(stored);
                self.cache.put(question, Arc::clone(&stored), now);
                self.give(question, stored, 0, Answered::Forwarded, now)
            }
            Err(why) => failure(question, why),
        }
    }

    /// A resolver's answer, which may have to wait for the agent.
    fn give(&mut self, question: &Question, stored: Arc<Stored>, age: u32, answered: Answered, now: Instant) -> Outcome {
        if !self.rules.names(&question.key) {
            self.heard.answered(question, &stored, now);
            // Before the rules are known, a name that they turn out to name is asked for again soon.
            let most = if self.rules.is_told() { u32::MAX } else { UNSURE_TTL };
            return Outcome::Reply(stored.render_within(question, age, most), answered);
        }
        match Learning::new(question, Arc::clone(&stored), age, answered) {
            None => Outcome::Reply(stored.render(question, age), answered),
            Some(learning) if learning.addresses.len() > ADDRESSES_MAX => failure(question, Unanswered::LearnLimit),
            Some(learning) if self.memory.is_fresh(&learning, now) => Outcome::Reply(learning.render(), answered),
            Some(learning) => Outcome::Learn(Box::new(learning)),
        }
    }
}

/// The client's answer where there is none.
pub(in crate::dns) fn failure(question: &Question, why: Unanswered) -> Outcome {
    const REFUSED: u16 = 5;
    let (code, answered) = match why {
        Unanswered::PodLimit => (ResponseCode::ServFail, Answered::PodLimit),
        Unanswered::NodeLimit => (ResponseCode::ServFail, Answered::NodeLimit),
        Unanswered::Timeout => (ResponseCode::ServFail, Answered::UpstreamTimeout),
        Unanswered::Failed(REFUSED) => (ResponseCode::Refused, Answered::UpstreamFailed),
        Unanswered::Failed(_) => (ResponseCode::ServFail, Answered::UpstreamFailed),
        Unanswered::LearnTimeout => (ResponseCode::ServFail, Answered::LearnTimeout),
        Unanswered::LearnAway => (ResponseCode::ServFail, Answered::LearnAway),
        Unanswered::LearnLimit => (ResponseCode::ServFail, Answered::LearnLimit),
    };
    Outcome::Reply(answer::error(question, code), answered)
}

const fn refusal(code: ResponseCode) -> Answered {
    match code {
        ResponseCode::FormErr => Answered::FormErr,
        ResponseCode::NotImp => Answered::NotImp,
        _ => Answered::Refused,
    }
}

const fn mesh(kind: Kind) -> Answered {
    match kind {
        Kind::Mesh => Answered::Mesh,
        Kind::NoData => Answered::MeshNoData,
        Kind::NoName => Answered::MeshNoName,
        Kind::NotYet => Answered::MeshNotYet,
    }
}

#[cfg(test)]
pub(in crate::dns) mod tests;
