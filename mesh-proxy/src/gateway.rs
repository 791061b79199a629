//! The node's gateway: which ports of the node the configuration wants, asked of mesh-agent, which opens them. To all else the gateway is a
//! pod like others, with doors of its own; its connections to endpoints go out of the node's network namespace.

use crate::broker::Client;
use crate::shared::Shared;
use mesh_common::broker::{GATEWAY_LISTENERS, Refused, Workload};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Istio's name of it, where dashboards look for it.
const NAME: &str = "istio-ingressgateway";
/// Istio's namespace of it.
const NAMESPACE: &str = "istio-system";

/// What was asked for.
#[derive(Debug, Default)]
pub struct Gateway {
    asked: Option<BTreeSet<SocketAddr>>,
}

impl Gateway {
    /// Asks for what the configuration wants now, if that is not what was asked for. Not before the configuration is complete: the agent
    /// would close ports that only have not come yet. Not in a stop: the next process says what it wants.
    pub fn follow(&mut self, shared: &Shared, client: &Client) {
        if !*shared.serving.borrow() || shared.drain.is_begun() {
            return;
        }
        let wanted: BTreeSet<SocketAddr> = shared.config.load().gateway.keys().copied().collect();
        if self.asked.as_ref() == Some(&wanted) {
            return;
        }
        let addresses: Vec<SocketAddr> = wanted.iter().copied().take(GATEWAY_LISTENERS).collect();
        if addresses.len() < wanted.len() {
            tracing::error!(wanted = wanted.len(), limit = GATEWAY_LISTENERS, "Gateways have more ports than a node can serve");
        }
        if client.listen(addresses) {
            self.asked = Some(wanted);
        }
    }

    /// The agent is (back) there and has forgotten.
    pub fn ask_again(&mut self) {
        self.asked = None;
    }
}

/// What the agent said.
pub fn told(shared: &Shared, listeners: &[(SocketAddr, OwnedFd)], refused: &[Refused]) {
    shared.metrics.gateway_listeners.set(i64::try_from(listeners.len()).unwrap_or(i64::MAX));
    shared.metrics.gateway_refused.set(i64::try_from(refused.len()).unwrap_or(i64::MAX));
    for (address, _socket) in listeners {
        tracing::info!(%address, "gateway listens");
    }
    for Refused { address, reason } in refused {
        tracing::error!(%address, reason, "mesh-agent does not open a port of a Gateway");
    }
}

/// The gateway as rules, metrics and logs see it.
#[must_use]
pub fn workload(labels: &BTreeMap<String, String>) -> Workload {
    let mut labels = labels.clone();
    labels.entry("app".to_owned()).or_insert_with(|| NAME.to_owned());
    Workload { id: NAME.to_owned(), app: format!("/{NAME}"), namespace: NAMESPACE.to_owned(), addresses: Vec::new(), labels }
}

/// One label of the command line.
///
/// # Errors
/// Says what a label looks like.
pub fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE, for example istio=ingressgateway")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::fake::FakeAgent;
    use crate::broker::{self};
    use crate::config::{Config, Inspect, Listener};
    use mesh_common::broker::{Role, ToAgent};
    use std::sync::Arc;

    #[test]
    fn labels_are_pairs() {
        assert_eq!(label("istio=ingressgateway"), Ok(("istio".to_owned(), "ingressgateway".to_owned())));
        assert!(["istio", "=a", "a="].into_iter().all(|text| label(text).is_err()));
    }

    #[tokio::test]
    async fn ports_are_asked_for_once_the_configuration_is_complete_and_again_when_the_agent_returns() {
        let agent = FakeAgent::new();
        let (client, _events) = broker::start(agent.path.clone(), Role::Proxy);
        let wire = agent.accept().await;
        let shared = Shared::default();
        let mut gateway = Gateway::default();
        gateway.follow(&shared, &client);
        assert_eq!(gateway.asked, None, "nothing is known yet");
        shared.serve();
        let address = SocketAddr::from(([0, 0, 0, 0], 80));
        let listener = Listener {
            name: mesh_xds::names::gateway_listener(address),
            address,
            bound: true,
            inbound: false,
            original_source: false,
            inspect: Inspect::default(),
            conditions: Vec::new(),
            chains: Vec::new(),
            default: None,
        };
        shared
            .config
            .store(Arc::new(Config { gateway: [(address, Arc::new(listener))].into_iter().collect(), ..Config::default() }));
        gateway.follow(&shared, &client);
        gateway.follow(&shared, &client);
        gateway.ask_again();
        gateway.follow(&shared, &client);
        shared.config.store(Arc::default());
        gateway.follow(&shared, &client);
        for addresses in [vec![address], vec![address], vec![]] {
            assert_eq!(wire.receive::<ToAgent>().await.expect("asked").0, ToAgent::Listen { addresses });
        }
    }
}
