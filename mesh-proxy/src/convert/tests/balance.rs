//! Balancing: what clusters, endpoints and hash policies become.

use super::*;
use crate::core::balance::{Function, RingSize, Settings, SlowStart};
use crate::core::hash::{Cookie, HashOf};
use crate::core::matching::HeaderKey;
use cds::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
use cds::cluster::{CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig, SlowStartConfig};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt64Value;
use rds::route_action::hash_policy::{self, PolicySpecifier};

fn with(policy: LbPolicy, config: Option<LbConfig>) -> cds::Cluster {
    cds::Cluster { lb_policy: policy as i32, lb_config: config, ..static_cluster() }
}

fn settings(message: cds::Cluster) -> Settings {
    cluster::cluster(&At::resource("c"), message).expect("taken").balance
}

#[test]
fn defaults_are_envoys() {
    let ring = RingSize { least: 1024, most: 8_388_608, function: Function::XxHash };
    for (policy, expected) in [
        (LbPolicy::RoundRobin, Policy::RoundRobin),
        (LbPolicy::LeastRequest, Policy::LeastRequest { choices: 2, bias: 1.0 }),
        (LbPolicy::Random, Policy::Random),
        (LbPolicy::RingHash, Policy::RingHash(ring)),
        (LbPolicy::Maglev, Policy::Maglev(65_537)),
    ] {
        let expected = Settings { policy: expected, panic_threshold: 50, locality_weighted: false, slow_start: None };
        assert_eq!(settings(with(policy, None)), expected);
    }
}

#[test]
fn options_of_policies() {
    let slow = SlowStartConfig {
        slow_start_window: Some(Duration { seconds: 60, nanos: 0 }),
        aggression: Some(core::RuntimeDouble { default_value: 2.0, runtime_key: "any".to_owned() }),
        min_weight_percent: Some(Percent { value: 20.0 }),
    };
    let least = LeastRequestLbConfig {
        choice_count: Some(UInt32Value { value: 3 }),
        active_request_bias: Some(core::RuntimeDouble { default_value: 0.5, runtime_key: "any".to_owned() }),
        slow_start_config: Some(slow),
    };
    let mut message = with(LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(least)));
    message.common_lb_config = Some(CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: 33.5 }),
        locality_config_specifier: Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {})),
        ..Default::default()
    });
    let slow = SlowStart { window: Time::from_secs(60), aggression: 2.0, least: 0.2 };
    let policy = Policy::LeastRequest { choices: 3, bias: 0.5 };
    assert_eq!(settings(message), Settings { policy, panic_threshold: 34, locality_weighted: true, slow_start: Some(slow) });
    let ring = RingHashLbConfig { minimum_ring_size: Some(UInt64Value { value: 7 }), hash_function: 1, ..Default::default() };
    let ring = settings(with(LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(ring)))).policy;
    assert_eq!(ring, Policy::RingHash(RingSize { least: 7, most: 8_388_608, function: Function::Murmur2 }));
}

#[test]
fn nonsense_is_refused_by_name() {
    let maglev = |size| Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size: Some(UInt64Value { value: size }) }));
    let least = LeastRequestLbConfig { choice_count: Some(UInt32Value { value: 1 }), ..Default::default() };
    let small = RingHashLbConfig { maximum_ring_size: Some(UInt64Value { value: 7 }), ..Default::default() };
    let header = cds::cluster::OriginalDstLbConfig { use_http_header: true, ..Default::default() };
    let original = cds::Cluster {
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(cds::cluster::DiscoveryType::OriginalDst.into())),
        ..with(LbPolicy::ClusterProvided, Some(LbConfig::OriginalDstLbConfig(header)))
    };
    let panic = CommonLbConfig { healthy_panic_threshold: Some(Percent { value: f64::NAN }), ..Default::default() };
    for (message, expected) in [
        (with(LbPolicy::Maglev, maglev(65_536)), "maglev_lb_config.table_size: 65536 is no prime up to 5000011"),
        (with(LbPolicy::Maglev, maglev(5_000_077)), "maglev_lb_config.table_size: 5000077 is no prime up to 5000011"),
        (with(LbPolicy::Random, maglev(7)), "lb_config: is not that of RANDOM"),
        (
            with(LbPolicy::LeastRequest, Some(LbConfig::LeastRequestLbConfig(least))),
            "least_request_lb_config.choice_count: less than 2",
        ),
        (
            with(LbPolicy::RingHash, Some(LbConfig::RingHashLbConfig(small))),
            "ring_hash_lb_config.minimum_ring_size: 1024 is more than maximum_ring_size, 7",
        ),
        (original, "original_dst_lb_config.use_http_header is not supported"),
        (with(LbPolicy::ClusterProvided, None), "lb_policy: CLUSTER_PROVIDED goes with type ORIGINAL_DST, and only with it"),
        (
            cds::Cluster { common_lb_config: Some(panic), ..static_cluster() },
            "common_lb_config.healthy_panic_threshold: NaN is not from 0 to 100",
        ),
    ] {
        assert_eq!(refused_cluster(message), format!("c: {expected}"));
    }
}

#[test]
fn an_original_destination_has_no_endpoints() {
    let message = cds::Cluster {
        cluster_discovery_type: Some(cds::cluster::ClusterDiscoveryType::Type(cds::cluster::DiscoveryType::OriginalDst.into())),
        cleanup_interval: Some(Duration { seconds: 9, nanos: 0 }),
        ..with(LbPolicy::ClusterProvided, None)
    };
    assert_eq!(settings(message).policy, Policy::OriginalDestination);
}

fn locality(priority: u32, zone: &str, weight: u32, ports: &[u32]) -> eds::LocalityLbEndpoints {
    let endpoint = |port: &u32| {
        let socket = core::SocketAddress {
            address: "9.0.1.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(*port)),
            ..Default::default()
        };
        let address = Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) });
        let endpoint = eds::Endpoint { address, ..Default::default() };
        let host_identifier = Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint));
        eds::LbEndpoint { host_identifier, ..Default::default() }
    };
    eds::LocalityLbEndpoints {
        locality: Some(core::Locality { region: "r".to_owned(), zone: zone.to_owned(), sub_zone: String::new() }),
        load_balancing_weight: Some(UInt32Value { value: weight }),
        lb_endpoints: ports.iter().map(endpoint).collect(),
        priority,
        ..Default::default()
    }
}

#[test]
fn localities_are_numbered_by_priority_and_name() {
    let policy = eds::cluster_load_assignment::Policy {
        overprovisioning_factor: Some(UInt32Value { value: 100 }),
        weighted_priority_health: true,
        ..Default::default()
    };
    let message = eds::ClusterLoadAssignment {
        endpoints: vec![
            locality(1, "a", 5, &[4]),
            locality(0, "b", 2, &[1]),
            locality(0, "a", 3, &[2]),
            locality(0, "b", 2, &[3]),
        ],
        policy: Some(policy),
        ..Default::default()
    };
    let members = cluster::load_assignment(&At::resource("c"), message).expect("taken");
    let places: Vec<_> = members.endpoints.iter().map(|e| (e.address.port(), e.priority, e.locality)).collect();
    assert_eq!(places, [(4, 1, 2), (1, 0, 1), (2, 0, 0), (3, 0, 1)]);
    assert_eq!((members.localities, members.overprovisioning, members.weighted_health), (vec![3, 2, 5], 100, true));
    let message = eds::ClusterLoadAssignment {
        endpoints: vec![locality(0, "a", u32::MAX, &[1]), locality(0, "b", 1, &[2])],
        ..Default::default()
    };
    let text = cluster::load_assignment(&At::resource("c"), message).expect_err("refused").to_string();
    assert_eq!(text, "c: endpoints.load_balancing_weight: the sum 4294967296 is more than 4294967295");
}

fn hash(of: PolicySpecifier) -> Result<HashOf, String> {
    let policy = rds::route_action::HashPolicy { terminal: true, policy_specifier: Some(of) };
    let table = table(rds::RouteAction { hash_policy: vec![policy], ..to_cluster() }, |_| {})?;
    let Action::Forward(forward) = &table.virtual_hosts()[0].routes[0].action else { panic!("forwards") };
    assert!(forward.hash[0].terminal);
    Ok(forward.hash[0].of.clone())
}

#[test]
fn hash_policies() {
    let header = |name: &str| hash_policy::Header { header_name: name.to_owned(), regex_rewrite: None };
    assert!(
        matches!(hash(PolicySpecifier::Header(header("X-User"))), Ok(HashOf::Header(HeaderKey::Name(name))) if name == "x-user")
    );
    assert!(matches!(hash(PolicySpecifier::Header(header(":path"))), Ok(HashOf::Header(HeaderKey::Path))));
    let cookie = hash_policy::Cookie {
        name: "session".to_owned(),
        ttl: Some(Duration { seconds: 0, nanos: 0 }),
        path: "/".to_owned(),
        attributes: vec![hash_policy::CookieAttribute { name: "SameSite".to_owned(), value: "Lax".to_owned() }],
    };
    let expected = Cookie {
        name: "session".to_owned(),
        ttl: Some(Time::ZERO),
        path: "/".to_owned(),
        attributes: vec![("SameSite".to_owned(), "Lax".to_owned())],
    };
    assert!(matches!(hash(PolicySpecifier::Cookie(cookie.clone())), Ok(HashOf::Cookie(cookie)) if cookie == expected));
    let at = "80: virtual_hosts[0].routes[0].route.hash_policy[0]";
    let rewrite = hash_policy::Header { regex_rewrite: Some(Default::default()), ..header("x") };
    let refused = [
        (PolicySpecifier::Header(rewrite), "header.regex_rewrite is not supported"),
        (PolicySpecifier::FilterState(hash_policy::FilterState { key: "k".to_owned() }), "filter_state is not supported"),
        (
            PolicySpecifier::Cookie(hash_policy::Cookie { path: "/; Domain=x".to_owned(), ..cookie }),
            "cookie: \"/; Domain=x\" cannot stand in a cookie",
        ),
    ];
    for (of, expected) in refused {
        assert_eq!(hash(of).expect_err("refused"), format!("{at}.{expected}"));
    }
}
