//! Last good, warming, and what is subscribed to.

use super::state::State;
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use mesh_xds::client::{Delivery, Resource};
use mesh_xds::names::{CLUSTER, ENDPOINT, LISTENER};
use prost::Message;

fn cluster(name: &str) -> cds::Cluster {
    let ads = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {});
    let eds_config = Some(core::ConfigSource { config_source_specifier: Some(ads), ..Default::default() });
    cds::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(cds::cluster::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(cds::cluster::EdsClusterConfig { eds_config, service_name: String::new() }),
        ..Default::default()
    }
}

fn delivery<M: Message>(type_url: &str, resources: &[(&str, M)], removed: &[&str]) -> Delivery {
    let resource = |(name, message): &(&str, M)| Resource {
        name: (*name).to_owned(),
        version: "1".to_owned(),
        body: message.encode_to_vec().into(),
    };
    Delivery {
        type_url: type_url.to_owned(),
        nonce: String::new(),
        resources: resources.iter().map(resource).collect(),
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn in_force(state: &mut State) -> Vec<String> {
    let mut names: Vec<String> = state.config(std::time::Duration::ZERO).clusters.keys().map(|name| name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_cluster_waits_for_its_endpoints_and_ready_waits_for_all() {
    let mut state = State::default();
    assert_eq!(state.missing().as_deref(), Some("no clusters from mesh-control yet"));
    assert!(state.apply(&delivery(CLUSTER, &[("a", cluster("a"))], &[])).is_empty());
    assert_eq!(state.missing().as_deref(), Some("no listeners from mesh-control yet"));
    assert!(state.apply(&delivery::<cds::Cluster>(LISTENER, &[], &[])).is_empty());
    assert_eq!(state.missing().as_deref(), Some("no endpoints of a yet"));
    assert_eq!(in_force(&mut state), [""; 0]);
    assert_eq!(state.wanted_endpoints().into_iter().collect::<Vec<_>>(), ["a"]);
    assert!(state.apply(&delivery(ENDPOINT, &[("a", eds::ClusterLoadAssignment::default())], &[])).is_empty());
    assert_eq!((state.missing(), in_force(&mut state)), (None, vec!["a".to_owned()]));
}

#[test]
fn what_is_invalid_keeps_its_last_good_version_and_the_rest_counts() {
    let mut state = State::default();
    state.apply(&delivery(CLUSTER, &[("a", cluster("a"))], &[]));
    state.apply(&delivery(ENDPOINT, &[("a", eds::ClusterLoadAssignment::default())], &[]));
    let bad = cds::Cluster { connection_pool_per_downstream_connection: true, ..cluster("a") };
    let complaints = state.apply(&delivery(CLUSTER, &[("a", bad), ("b", cluster("b"))], &[]));
    assert_eq!(
        complaints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["a: connection_pool_per_downstream_connection is not supported"]
    );
    state.apply(&delivery(ENDPOINT, &[("b", eds::ClusterLoadAssignment::default())], &[]));
    assert_eq!(in_force(&mut state), ["a", "b"]);
    // Endpoints go with their cluster, not before.
    state.apply(&delivery::<cds::Cluster>(ENDPOINT, &[], &["a"]));
    assert_eq!(in_force(&mut state), ["a", "b"]);
    state.apply(&delivery::<cds::Cluster>(CLUSTER, &[], &["a"]));
    assert_eq!(in_force(&mut state), ["b"]);
    state.apply(&delivery(CLUSTER, &[("a", cluster("a"))], &[]));
    assert_eq!(in_force(&mut state), ["b"], "it waits for its endpoints again");
}

#[test]
fn what_is_answered_with_nothing_usable_is_not_waited_for() {
    let mut state = State::default();
    state.apply(&delivery(CLUSTER, &[("a", cluster("a")), ("b", cluster("b"))], &[]));
    state.apply(&delivery::<cds::Cluster>(LISTENER, &[], &[]));
    assert!(state.missing().is_some() && state.has_begun());
    let bad = eds::ClusterLoadAssignment { named_endpoints: [(String::new(), Default::default())].into(), ..Default::default() };
    assert_eq!(state.apply(&delivery(ENDPOINT, &[("a", bad)], &["b"])).len(), 1);
    assert_eq!((state.missing(), in_force(&mut state)), (None, Vec::new()));
}

#[test]
fn an_unchanged_cluster_is_shared_between_snapshots() {
    let mut state = State::default();
    state.apply(&delivery(CLUSTER, &[("a", cluster("a"))], &[]));
    state.apply(&delivery(ENDPOINT, &[("a", eds::ClusterLoadAssignment::default())], &[]));
    let (before, after) = (state.config(std::time::Duration::ZERO), state.config(std::time::Duration::ZERO));
    assert!(std::sync::Arc::ptr_eq(&before.clusters["a"], &after.clusters["a"]));
    assert!(after.generation > before.generation);
}
