//! `DestinationRule` as Istio's proto declares it (networking/v1alpha3/destination_rule.proto).

use std::collections::BTreeMap;
use std::time::Duration;

use super::decode::{enumeration, message};
use super::virtual_service::PortSelector;

/// The labels that a node's place answers for all clients and endpoints on it.
pub(crate) const REGION: &str = "topology.kubernetes.io/region";
/// See [`REGION`].
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

message! {
    /// What happens to traffic for a host after routing.
    DestinationRule {
        host: String = required,
        traffic_policy: Option<TrafficPolicy>,
        subsets: Vec<Subset>,
        export_to: Vec<String>,
        workload_selector: Option<WorkloadSelector>,
    }
}

message! {
    /// Workloads by their labels.
    WorkloadSelector { match_labels: BTreeMap<String, String>, }
}

message! {
    /// For all ports; `port_level_settings` replace it wholesale for theirs.
    TrafficPolicy {
        load_balancer: Option<LoadBalancerSettings>,
        connection_pool: Option<ConnectionPoolSettings>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTlsSettings>,
        port_level_settings: Vec<PortTrafficPolicy>,
        tunnel: Option<TunnelSettings>,
        proxy_protocol: Option<ProxyProtocol>,
        retry_budget: Option<RetryBudget>,
    }
}

message! {
    /// For one port.
    PortTrafficPolicy {
        port: Option<PortSelector>,
        load_balancer: Option<LoadBalancerSettings>,
        connection_pool: Option<ConnectionPoolSettings>,
        outlier_detection: Option<OutlierDetection>,
        tls: Option<ClientTlsSettings>,
    }
}

message! {
    /// CONNECT through a proxy.
    TunnelSettings { protocol: String, target_host: String = required, target_port: u32 = required, }
}

enumeration! {
    /// Version of the PROXY protocol.
    ProxyProtocolVersion { V1 = "V1", V2 = "V2", }
}

message! {
    /// The PROXY protocol towards the upstream.
    ProxyProtocol { version: ProxyProtocolVersion, }
}

message! {
    /// Retries as a share of active requests.
    RetryBudget { percent: Option<f64>, min_retry_concurrency: u32, budget_interval: Option<Duration>, }
}

message! {
    /// The endpoints with these labels, by a name.
    Subset { name: String = required, labels: BTreeMap<String, String>, traffic_policy: Option<TrafficPolicy>, }
}

enumeration! {
    /// How an endpoint is chosen.
    SimpleLb {
        Unspecified = "UNSPECIFIED",
        /// Deprecated name of `LEAST_REQUEST`.
        LeastConn = "LEAST_CONN",
        Random = "RANDOM",
        Passthrough = "PASSTHROUGH",
        RoundRobin = "ROUND_ROBIN",
        LeastRequest = "LEAST_REQUEST",
    }
}

message! {
    /// How an endpoint is chosen.
    LoadBalancerSettings {
        simple: Option<SimpleLb>,
        consistent_hash: Option<ConsistentHashLb>,
        locality_lb_setting: Option<LocalityLbSetting>,
        zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
        /// Deprecated: `warmup.duration`.
        warmup_duration_secs: Option<Duration>,
        warmup: Option<WarmupConfiguration>,
    } oneof [simple, consistent_hash]
}

message! {
    /// The same key goes to the same endpoint.
    ConsistentHashLb {
        http_header_name: Option<String>,
        http_cookie: Option<HttpCookie>,
        use_source_ip: Option<bool>,
        http_query_parameter_name: Option<String>,
        ring_hash: Option<RingHash>,
        maglev: Option<MagLev>,
        /// Deprecated: `ring_hash.minimum_ring_size`.
        minimum_ring_size: u64,
    }
    oneof [http_header_name, http_cookie, use_source_ip, http_query_parameter_name]
    oneof [ring_hash, maglev]
}

message! {
    /// Ketama-like ring.
    RingHash { minimum_ring_size: u64, }
}

message! {
    /// Maglev table.
    MagLev { table_size: u64, }
}

message! {
    /// The key is this cookie; with a `ttl` it is made if absent.
    HttpCookie { name: String = required, path: String, ttl: Option<Duration>, attributes: Vec<CookieAttribute>, }
}

message! {
    /// A further attribute of a cookie that is made.
    CookieAttribute { name: String = required, value: String, }
}

message! {
    /// New endpoints get traffic slowly.
    WarmupConfiguration { duration: Option<Duration> = required, minimum_percent: Option<f64>, aggression: Option<f64>, }
}

message! {
    /// Limits towards one destination.
    ConnectionPoolSettings { tcp: Option<TcpSettings>, http: Option<HttpSettings>, }
}

message! {
    /// Of TCP connections.
    TcpSettings {
        max_connections: i32,
        connect_timeout: Option<Duration>,
        tcp_keepalive: Option<TcpKeepalive>,
        max_connection_duration: Option<Duration>,
        idle_timeout: Option<Duration>,
    }
}

message! {
    /// `SO_KEEPALIVE` and its numbers.
    TcpKeepalive { probes: u32, time: Option<Duration>, interval: Option<Duration>, }
}

enumeration! {
    /// Whether HTTP/1.1 is sent on as HTTP/2.
    H2UpgradePolicy {
        Default = "DEFAULT",
        DoNotUpgrade = "DO_NOT_UPGRADE",
        Upgrade = "UPGRADE",
    }
}

message! {
    /// Of HTTP requests; 0 is unset.
    HttpSettings {
        http1_max_pending_requests: i32,
        http2_max_requests: i32,
        max_requests_per_connection: i32,
        max_retries: i32,
        idle_timeout: Option<Duration>,
        h2_upgrade_policy: H2UpgradePolicy,
        use_client_protocol: bool,
        max_concurrent_streams: i32,
        http2_keep_alive: Option<ConnectionKeepalive>,
    }
}

message! {
    /// PING frames.
    ConnectionKeepalive { interval: Option<Duration>, timeout: Option<Duration>, }
}

message! {
    /// When an endpoint is left alone for a while.
    OutlierDetection {
        /// Deprecated; Istio 1.0 took it for gateway errors.
        consecutive_errors: i32,
        split_external_local_origin_errors: bool,
        consecutive_local_origin_failures: Option<u32>,
        consecutive_gateway_errors: Option<u32>,
        consecutive_5xx_errors: Option<u32>,
        interval: Option<Duration>,
        base_ejection_time: Option<Duration>,
        max_ejection_percent: i32,
        min_health_percent: i32,
        outlier_detection_http_error_codes: Vec<u32>,
    }
}

enumeration! {
    /// TLS towards the upstream.
    TlsMode {
        Disable = "DISABLE",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        IstioMutual = "ISTIO_MUTUAL",
    }
}

message! {
    /// TLS towards the upstream.
    ClientTlsSettings {
        mode: TlsMode,
        client_certificate: String,
        private_key: String,
        ca_certificates: String,
        credential_name: String,
        subject_alt_names: Vec<String>,
        sni: String,
        insecure_skip_verify: Option<bool>,
        ca_crl: String,
    }
}

message! {
    /// Preference for near endpoints.
    LocalityLbSetting {
        distribute: Vec<Distribute>,
        failover: Vec<Failover>,
        failover_priority: Vec<String>,
        enabled: Option<bool>,
    }
}

message! {
    /// Shares by locality.
    Distribute { from: String, to: BTreeMap<String, u32>, }
}

message! {
    /// Which region takes over.
    Failover { from: String, to: String, }
}

message! {
    /// Preference for the own zone by capacity.
    ZoneAwareLbSetting {
        enabled: Option<bool>,
        failover: Vec<Failover>,
        failover_priority: Vec<String>,
        min_cluster_size: Option<u64>,
    }
}

impl DestinationRule {
    /// TLS that takes its certificates from Secrets, with the path of the Secret's name.
    pub(crate) fn credentials(&self) -> impl Iterator<Item = (String, &ClientTlsSettings)> {
        let of_host = self.traffic_policy.iter().map(|policy| ("spec.trafficPolicy".to_owned(), policy));
        let of_subsets = self.subsets.iter().enumerate().filter_map(|(i, subset)| {
            let policy = subset.traffic_policy.as_ref()?;
            Some((format!("spec.subsets[{i}].trafficPolicy"), policy))
        });
        let policies = of_host.chain(of_subsets).flat_map(|(at, policy)| {
            let ports = policy.port_level_settings.iter().enumerate();
            let ports = ports.map(|(i, port)| (format!("{at}.portLevelSettings[{i}]"), port.tls.as_ref())).collect::<Vec<_>>();
            std::iter::once((at, policy.tls.as_ref())).chain(ports)
        });
        let tls = policies.filter_map(|(at, tls)| Some((format!("{at}.tls.credentialName"), tls?)));
        tls.filter(|(_, tls)| tls.uses_secret())
    }
}

impl ClientTlsSettings {
    /// Its certificates come from a Secret.
    pub(crate) fn uses_secret(&self) -> bool {
        matches!(self.mode, TlsMode::Simple | TlsMode::Mutual) && !self.credential_name.is_empty()
    }
}
