//! Fields of DestinationRules, and of the DestinationPolicies that came before them, without effect.

use super::{Abilities, Enforced, Findings};
use crate::istio::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, LoadBalancerSettings, LocalityLbSetting,
    OutlierDetection, REGION, RetryBudget, SimpleLb, TcpSettings, TlsMode, TrafficPolicy, ZONE,
};
use crate::istio::{DestinationPolicy, DestinationRule};

impl Enforced for DestinationRule {
    fn look(&self, can: Abilities, found: &mut Findings) {
        let policies = self.traffic_policy.iter().chain(self.subsets.iter().filter_map(|subset| subset.traffic_policy.as_ref()));
        let detects = policies.into_iter().any(|policy| {
            policy.outlier_detection.is_some() || policy.port_level_settings.iter().any(|port| port.outlier_detection.is_some())
        });
        let given = Given { can, detects, chosen: self.workload_selector.is_some() };
        if let Some(of_host) = &self.traffic_policy {
            policy("spec.trafficPolicy", of_host, given, found);
        }
        for (i, subset) in self.subsets.iter().enumerate() {
            if let Some(of_subset) = &subset.traffic_policy {
                policy(&format!("spec.subsets[{i}].trafficPolicy"), of_subset, given, found);
            }
        }
        if !can.source_namespace {
            found.export_to(&self.export_to);
            found.if_set("spec.workloadSelector".to_owned(), self.workload_selector.is_some());
        }
    }
}

/// The policy has effect as a DestinationRule's would.
impl Enforced for DestinationPolicy {
    fn look(&self, can: Abilities, found: &mut Findings) {
        let given = Given { can, detects: self.policy.outlier_detection.is_some(), chosen: false };
        policy("spec (as trafficPolicy)", &self.policy, given, found);
        found.if_set("spec.source".to_owned(), self.written.source.is_some());
        let labels = self.written.destination.as_ref().is_some_and(|to| !to.labels.is_empty());
        found.if_set("spec.destination.labels".to_owned(), labels);
    }
}

/// The four blocks that a port can have of its own.
type Blocks<'a> = (
    Option<&'a LoadBalancerSettings>,
    Option<&'a ConnectionPoolSettings>,
    Option<&'a OutlierDetection>,
    Option<&'a ClientTlsSettings>,
);

/// What the rest of the rule says.
#[derive(Clone, Copy)]
struct Given {
    /// What the proxies take.
    can: Abilities,
    /// Something in the rule notices that endpoints fail.
    detects: bool,
    /// A selector chooses the clients.
    chosen: bool,
}

fn policy(at: &str, policy: &TrafficPolicy, given: Given, found: &mut Findings) {
    let TrafficPolicy { load_balancer, connection_pool, outlier_detection, tls, .. } = policy;
    blocks(at, (load_balancer.as_ref(), connection_pool.as_ref(), outlier_detection.as_ref(), tls.as_ref()), given, found);
    for (i, port) in policy.port_level_settings.iter().enumerate() {
        let own =
            (port.load_balancer.as_ref(), port.connection_pool.as_ref(), port.outlier_detection.as_ref(), port.tls.as_ref());
        blocks(&format!("{at}.portLevelSettings[{i}]"), own, given, found);
    }
    found.if_set(format!("{at}.tunnel"), policy.tunnel.is_some());
    found.if_set(format!("{at}.proxyProtocol"), policy.proxy_protocol.is_some());
    if let Some(of_retries) = &policy.retry_budget {
        budget(&format!("{at}.retryBudget"), of_retries, given.can, found);
    }
}

fn blocks(at: &str, (balancer, pool, outliers, tls): Blocks<'_>, given: Given, found: &mut Findings) {
    let Given { can, detects, .. } = given;
    if let Some(settings) = balancer {
        balancing(&format!("{at}.loadBalancer"), settings, can, found);
        if let Some(setting) = &settings.locality_lb_setting {
            locality(&format!("{at}.loadBalancer.localityLbSetting"), setting, detects, can, found);
        }
    }
    if let Some(settings) = pool.and_then(|pool| pool.tcp.as_ref()) {
        tcp(&format!("{at}.connectionPool.tcp"), settings, can, found);
    }
    if let Some(settings) = pool.and_then(|pool| pool.http.as_ref()) {
        http(&format!("{at}.connectionPool.http"), settings, can, found);
    }
    if let Some(detection) = outliers {
        outlier(&format!("{at}.outlierDetection"), detection, can, found);
    }
    if let Some(settings) = tls {
        encryption(&format!("{at}.tls"), settings, given, found);
    }
}

fn balancing(at: &str, settings: &LoadBalancerSettings, can: Abilities, found: &mut Findings) {
    found.if_set(format!("{at}.simple"), settings.simple == Some(SimpleLb::Passthrough) && !can.original_dst);
    found.if_set(format!("{at}.consistentHash"), settings.consistent_hash.is_some() && !can.hash);
    found.if_set(format!("{at}.zoneAwareLbSetting"), settings.zone_aware_lb_setting.is_some());
    // Without weights nothing can begin slowly.
    let weighs = can.warmup && settings.consistent_hash.is_none();
    let weighs = weighs && !matches!(settings.simple, Some(SimpleLb::Random | SimpleLb::Passthrough));
    for (name, set) in [("warmupDurationSecs", settings.warmup_duration_secs.is_some()), ("warmup", settings.warmup.is_some())] {
        if set && can.warmup && !weighs {
            found.tell(format!("{at}.{name}"), "has no effect on this balancer: only ROUND_ROBIN and LEAST_REQUEST warm up");
        }
        found.if_set(format!("{at}.{name}"), set && !can.warmup);
    }
}

fn locality(at: &str, setting: &LocalityLbSetting, detects: bool, can: Abilities, found: &mut Findings) {
    if !can.localities {
        return found.if_set(at.to_owned(), true);
    }
    for (name, set) in [("failover", !setting.failover.is_empty()), ("failoverPriority", !setting.failover_priority.is_empty())] {
        if set && !detects {
            found.tell(format!("{at}.{name}"), "needs outlierDetection: nothing else notices that endpoints fail");
        }
    }
    let is_known = |label: &str| label.contains('=') || [REGION, ZONE].contains(&label);
    for (i, label) in setting.failover_priority.iter().enumerate().filter(|(_, label)| !is_known(label)) {
        let why = format!(
            "is ignored: the label {label} of the client is not known where many clients share a proxy; give a value, or the topology labels of region and zone"
        );
        found.tell(format!("{at}.failoverPriority[{i}]"), &why);
    }
}

fn tcp(at: &str, settings: &TcpSettings, can: Abilities, found: &mut Findings) {
    found.if_set(format!("{at}.maxConnections"), settings.max_connections != 0 && !can.pool);
    found.if_set(format!("{at}.tcpKeepalive"), settings.tcp_keepalive.is_some() && !can.pool);
    found.if_set(format!("{at}.maxConnectionDuration"), settings.max_connection_duration.is_some() && !can.pool);
}

fn http(at: &str, settings: &HttpSettings, can: Abilities, found: &mut Findings) {
    found.if_set(format!("{at}.http1MaxPendingRequests"), settings.http1_max_pending_requests != 0 && !can.pool);
    found.if_set(format!("{at}.maxRetries"), settings.max_retries != 0 && !can.pool);
    found.if_set(format!("{at}.h2UpgradePolicy"), settings.h2_upgrade_policy == H2UpgradePolicy::Upgrade && !can.http2);
    found.if_set(format!("{at}.useClientProtocol"), settings.use_client_protocol && !can.http2);
    found.if_set(format!("{at}.maxConcurrentStreams"), settings.max_concurrent_streams != 0 && !can.http2);
    found.if_set(format!("{at}.http2KeepAlive"), settings.http2_keep_alive.is_some() && !can.http2);
}

fn outlier(at: &str, detection: &OutlierDetection, can: Abilities, found: &mut Findings) {
    if !can.outlier {
        return found.if_set(at.to_owned(), true);
    }
    let others = detection.consecutive_5xx_errors.is_some() || detection.consecutive_gateway_errors.is_some();
    if detection.consecutive_errors != 0 && others {
        found.tell(format!("{at}.consecutiveErrors"), "is deprecated and gives way to the other counts here");
    }
    found.if_set(format!("{at}.outlierDetectionHttpErrorCodes"), !detection.outlier_detection_http_error_codes.is_empty());
}

fn encryption(at: &str, settings: &ClientTlsSettings, given: Given, found: &mut Findings) {
    let encrypts = settings.mode != TlsMode::Disable;
    if encrypts && !given.can.upstream_tls {
        return found.if_set(at.to_owned(), true);
    }
    found.if_set(format!("{at}.mode (ISTIO_MUTUAL)"), settings.mode == TlsMode::IstioMutual);
    if settings.uses_secret() && !given.chosen {
        found.tell(
            format!("{at}.credentialName"),
            "is for gateways, as in Istio: workloads connect without TLS unless a workloadSelector chooses them",
        );
    }
    found.if_set(format!("{at}.caCrl"), encrypts && !settings.ca_crl.is_empty());
}

fn budget(at: &str, budget: &RetryBudget, can: Abilities, found: &mut Findings) {
    if !can.pool {
        return found.if_set(at.to_owned(), true);
    }
    found.if_set(format!("{at}.budgetInterval"), budget.budget_interval.is_some());
}
