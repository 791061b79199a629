//! `DestinationPolicy` of Istio before 0.8 (`config.istio.io/v1alpha2`), which walkthroughs of that time still apply: read as written then,
//! and in force as the traffic policy of a DestinationRule that says the same.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::decode::{Decode, message};
use super::destination_rule::{
    ConnectionPoolSettings, HttpSettings, LoadBalancerSettings, OutlierDetection, SimpleLb, TcpSettings, TrafficPolicy,
};
use super::problem::{Path, Problems};

message! {
    /// What happens to traffic for a service.
    Written {
        source: Option<IstioService>,
        destination: Option<IstioService> = required,
        load_balancing: Option<LoadBalancing>,
        circuit_breaker: Option<CircuitBreaker>,
    }
}

message! {
    /// A service by its parts, or whole as `service`.
    IstioService {
        name: String,
        namespace: String,
        domain: String,
        service: String,
        labels: BTreeMap<String, String>,
    }
}

message! {
    /// `ROUND_ROBIN`, `LEAST_CONN` or `RANDOM`.
    LoadBalancing { name: String, }
}

message! {
    /// Limits, and when an endpoint is left alone.
    CircuitBreaker { simple_cb: Option<SimpleCb>, }
}

message! {
    /// 0 is unset.
    SimpleCb {
        max_connections: i32,
        http_max_pending_requests: i32,
        http_max_requests: i32,
        sleep_window: Option<Duration>,
        http_consecutive_errors: i32,
        http_detection_interval: Option<Duration>,
        http_max_requests_per_connection: i32,
        http_max_ejection_percent: i32,
        http_max_retries: i32,
    }
}

/// The object, and what it says today.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DestinationPolicy {
    pub(crate) written: Written,
    /// As a DestinationRule would have it.
    pub(crate) host: String,
    pub(crate) policy: TrafficPolicy,
}

impl Decode for DestinationPolicy {
    fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let written = Written::decode(value, at, problems)?;
        let host = written.destination.as_ref().map(IstioService::host).unwrap_or_default();
        let policy = written.policy();
        Some(Self { written, host, policy })
    }

    fn absent() -> Option<Self> {
        None
    }
}

impl IstioService {
    /// The name as a rule of today spells it.
    fn host(&self) -> String {
        match (self.service.as_str(), self.namespace.as_str(), self.domain.as_str()) {
            ("", "", "") => self.name.clone(),
            ("", namespace, "") => format!("{}.{namespace}", self.name),
            ("", "", domain) => format!("{}.{domain}", self.name),
            ("", namespace, domain) => format!("{}.{namespace}.{domain}", self.name),
            (service, _, _) => service.to_owned(),
        }
    }
}

impl LoadBalancing {
    /// `None` if the name is none of the three.
    pub(crate) fn simple(&self) -> Option<SimpleLb> {
        match self.name.as_str() {
            "ROUND_ROBIN" => Some(SimpleLb::RoundRobin),
            "LEAST_CONN" => Some(SimpleLb::LeastConn),
            "RANDOM" => Some(SimpleLb::Random),
            _ => None,
        }
    }
}

impl Written {
    /// Istio 0.5's `applyClusterPolicy`, in today's words.
    fn policy(&self) -> TrafficPolicy {
        let simple = self.load_balancing.as_ref().and_then(LoadBalancing::simple);
        let mut policy = TrafficPolicy {
            load_balancer: simple.map(|simple| LoadBalancerSettings { simple: Some(simple), ..Default::default() }),
            ..Default::default()
        };
        let Some(breaker) = self.circuit_breaker.as_ref().and_then(|breaker| breaker.simple_cb.as_ref()) else { return policy };
        let tcp = TcpSettings { max_connections: breaker.max_connections, ..Default::default() };
        let http = HttpSettings {
            http1_max_pending_requests: breaker.http_max_pending_requests,
            http2_max_requests: breaker.http_max_requests,
            max_requests_per_connection: breaker.http_max_requests_per_connection,
            max_retries: breaker.http_max_retries,
            ..Default::default()
        };
        let given = |tcp: &TcpSettings| *tcp != TcpSettings::default();
        let (tcp, http) = (Some(tcp).filter(given), Some(http).filter(|http| *http != HttpSettings::default()));
        if tcp.is_some() || http.is_some() {
            policy.connection_pool = Some(ConnectionPoolSettings { tcp, http });
        }
        let outliers = OutlierDetection {
            consecutive_5xx_errors: u32::try_from(breaker.http_consecutive_errors).ok().filter(|errors| *errors > 0),
            interval: breaker.http_detection_interval,
            base_ejection_time: breaker.sleep_window,
            max_ejection_percent: breaker.http_max_ejection_percent,
            ..Default::default()
        };
        policy.outlier_detection = Some(outliers).filter(|outliers| *outliers != OutlierDetection::default());
        policy
    }
}
