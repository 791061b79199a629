//! Which blocks of a host's DestinationRules hold for one port of one subset: Istio's rules of precedence, and nothing else.

use super::views::Merged;
use crate::istio::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, LoadBalancerSettings, OutlierDetection, ProxyProtocol, RetryBudget, TrafficPolicy,
};

/// The blocks in force; an absent one means defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Policy<'a> {
    pub(super) load_balancer: Option<&'a LoadBalancerSettings>,
    pub(super) connection_pool: Option<&'a ConnectionPoolSettings>,
    pub(super) outlier_detection: Option<&'a OutlierDetection>,
    pub(super) tls: Option<&'a ClientTlsSettings>,
    pub(super) proxy_protocol: Option<&'a ProxyProtocol>,
    pub(super) retry_budget: Option<&'a RetryBudget>,
}

/// The policy of a port of a subset (of the whole host if the name is empty).
pub(super) fn effective<'a>(rule: Option<&Merged<'a>>, subset: &str, port: u16) -> Policy<'a> {
    let Some(rule) = rule else { return Policy::default() };
    let subset = rule.subsets.get(subset).and_then(|subset| subset.traffic_policy.as_ref());
    let levels = [rule.policy, subset];
    levels.into_iter().flatten().fold(Policy::default(), |outer, level| outer.with(level, port))
}

impl<'a> Policy<'a> {
    /// The inner level wins block by block; its settings for the port replace the four blocks that they can have, absent ones too.
    fn with(self, inner: &'a TrafficPolicy, port: u16) -> Self {
        let merged = Self {
            load_balancer: inner.load_balancer.as_ref().or(self.load_balancer),
            connection_pool: inner.connection_pool.as_ref().or(self.connection_pool),
            outlier_detection: inner.outlier_detection.as_ref().or(self.outlier_detection),
            tls: inner.tls.as_ref().or(self.tls),
            proxy_protocol: inner.proxy_protocol.as_ref().or(self.proxy_protocol),
            retry_budget: inner.retry_budget.as_ref().or(self.retry_budget),
        };
        let is_this = |number: u32| number == u32::from(port);
        let mut ports = inner.port_level_settings.iter();
        match ports.find(|settings| settings.port.as_ref().is_some_and(|port| is_this(port.number))) {
            None => merged,
            Some(settings) => Self {
                load_balancer: settings.load_balancer.as_ref(),
                connection_pool: settings.connection_pool.as_ref(),
                outlier_detection: settings.outlier_detection.as_ref(),
                tls: settings.tls.as_ref(),
                ..merged
            },
        }
    }
}
