//! Containers that a CNI plugin announces: enrolled before their first instruction, and before Marathon says that they run.

use super::Node;
use crate::admit::Admission;
use crate::core::cni::{Answer, Question, Verb};
use crate::core::mesos::Identity;
use crate::core::resources::Workload;
use crate::netns::Namespace;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// After this time the control plane must have heard of a container, or it is nobody's: the longest that images are fetched.
const UNHEARD: Duration = Duration::from_secs(600);

impl Node {
    /// Does what is asked, and answers.
    pub(crate) fn admit(&mut self, admission: Admission, now: Instant) {
        match admission {
            Admission::Leave(question, reply) => {
                self.dismiss(&question);
                // The plugin may have gone; the container has in any case.
                let _ = reply.send(Answer::Done);
                self.settle(now);
            }
            Admission::Enter(question, identity, reply) => {
                let answer = self.enter(&question, identity, now);
                if let Answer::Failed(reason) = &answer {
                    warn!(container = question.container, reason, "a container cannot be enrolled before it starts");
                }
                let _ = reply.send(answer);
            }
        }
    }

    fn enter(&mut self, question: &Question, identity: Identity, now: Instant) -> Answer {
        let node = self.address.to_string();
        let workload = Workload { node, addresses: question.addresses.clone(), enrol: identity.wishes(), ..identity.workload() };
        let id = workload.id.clone();
        // What the control plane has said of it counts more: it knows of namespaces' labels, and of the operator's.
        let wanted =
            self.world.workloads.get(&id).map_or(workload.enrol, |told| told.enrol) && !self.world.bypass.covers(&workload);
        if !wanted {
            return Answer::NotWanted;
        }
        if !self.filled {
            return Answer::Failed("this agent has no first snapshot of the control plane yet".to_owned());
        }
        let namespace = match Namespace::open(&question.netns) {
            Ok(namespace) => namespace,
            Err(error) => return Answer::Failed(format!("CNI_NETNS {}: {error}", question.netns.display())),
        };
        if question.verb == Verb::Add {
            let (netns, container) = (question.netns.display(), &question.container);
            if let Err(error) = self.places.announce(&question.container, &id, namespace, &question.addresses, now) {
                return Answer::Failed(format!("CNI_NETNS {netns}: {error}"));
            }
            info!(container, workload = id, "a container is announced by its CNI plugin");
            self.world.announced.insert(id.clone(), (question.container.clone(), workload));
            self.announced_at.insert(id.clone(), now);
            self.settle(now);
        }
        if self.held.values().any(|(_, told)| told.id == id) {
            return Answer::Done;
        }
        let failure = self.failures.get(&id).cloned();
        let reason = failure.unwrap_or_else(|| "it is not in the mesh, for no reason that the agent knows".to_owned());
        self.dismiss(question);
        Answer::Failed(reason)
    }

    fn dismiss(&mut self, question: &Question) {
        self.places.dismiss(&question.container);
        self.world.announced.retain(|_, (container, _)| *container != question.container);
    }

    /// Forgets what the control plane has heard of by now, or never will.
    pub(super) fn forget_announced(&mut self, now: Instant) {
        let (announced, workloads) = (&mut self.world.announced, &self.world.workloads);
        let places = &mut self.places;
        self.announced_at.retain(|id, since| {
            let (is_known, is_late) = (workloads.contains_key(id), now > *since + UNHEARD);
            let keep = announced.contains_key(id) && !is_known && !is_late;
            if !keep
                && let Some((container, _)) = announced.remove(id)
                && !is_known
            {
                places.dismiss(&container);
            }
            keep
        });
    }
}
