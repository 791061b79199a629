//! Rules on traffic policies.

use super::super::destination_rule::{
    ClientTlsSettings, ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, LoadBalancerSettings, LocalityLbSetting,
    OutlierDetection, TcpSettings, TlsMode, TrafficPolicy,
};
use super::super::problem::{Path, Problems};
use super::text;

/// The policy of a host or a subset.
pub(super) fn traffic(policy: &TrafficPolicy, at: &Path<'_>, problems: &mut Problems) {
    if *policy == TrafficPolicy::default() {
        return problems.required(at, "traffic policy must have at least one field");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        problems.forbidden(at, "tunnel and proxyProtocol must not be set together");
    }
    let TrafficPolicy { load_balancer, connection_pool, outlier_detection, tls, .. } = policy;
    blocks(load_balancer.as_ref(), connection_pool.as_ref(), outlier_detection.as_ref(), tls.as_ref(), at, problems);
    for (i, port) in policy.port_level_settings.iter().enumerate() {
        let ports = at.field("portLevelSettings");
        let at = ports.index(i);
        match &port.port {
            None => problems.required(&at.field("port"), "portTrafficPolicy must have valid port"),
            Some(number) => problems.judge(&at.field("port").field("number"), number.number, text::port(number.number)),
        }
        let (lb, pool) = (port.load_balancer.as_ref(), port.connection_pool.as_ref());
        let (outlier, tls) = (port.outlier_detection.as_ref(), port.tls.as_ref());
        if lb.is_none() && pool.is_none() && outlier.is_none() && tls.is_none() {
            problems.required(&at, "port traffic policy must have at least one field");
        }
        blocks(lb, pool, outlier, tls, &at, problems);
    }
    if let Some(tunnel) = &policy.tunnel {
        let at = at.field("tunnel");
        if !["", "CONNECT", "POST"].contains(&tunnel.protocol.as_str()) {
            let why = "tunnel protocol must be \"CONNECT\" or \"POST\"".to_owned();
            problems.judge(&at.field("protocol"), tunnel.protocol.as_str(), Err(why));
        }
        let verdict = text::port(tunnel.target_port).map_err(|why| format!("tunnel target port is invalid: {why}"));
        problems.judge(&at.field("targetPort"), tunnel.target_port, verdict);
    }
    if let Some(percent) = policy.retry_budget.as_ref().and_then(|b| b.percent).filter(|p| !(0.0..=100.0).contains(p)) {
        let budget = at.field("retryBudget");
        let why = format!("percentage {percent} is not in range 0..100");
        problems.judge(&budget.field("percent"), percent, Err(why));
    }
}

fn blocks(
    load_balancer: Option<&LoadBalancerSettings>,
    connection_pool: Option<&ConnectionPoolSettings>,
    outlier_detection: Option<&OutlierDetection>,
    tls: Option<&ClientTlsSettings>,
    at: &Path<'_>,
    problems: &mut Problems,
) {
    if let Some(settings) = load_balancer {
        balancing(settings, &at.field("loadBalancer"), problems);
    }
    if let Some(settings) = connection_pool {
        pool(settings, &at.field("connectionPool"), problems);
    }
    if let Some(settings) = outlier_detection {
        outlier(settings, &at.field("outlierDetection"), problems);
    }
    if let Some(settings) = tls {
        client_tls(settings, &at.field("tls"), problems);
    }
}

fn balancing(settings: &LoadBalancerSettings, at: &Path<'_>, problems: &mut Problems) {
    if let Some(hash) = &settings.consistent_hash {
        let at = at.field("consistentHash");
        if hash.minimum_ring_size != 0 && (hash.ring_hash.is_some() || hash.maglev.is_some()) {
            problems.forbidden(&at.field("minimumRingSize"), "only one of MinimumRingSize or Maglev/Ringhash can be specified");
        }
        if let Some(maglev) = &hash.maglev {
            let size = maglev.table_size;
            let verdict = match size {
                0 => Err("tableSize must be set for maglev"),
                5_000_011.. => Err("tableSize must be less than 5000011 for maglev"),
                size if !is_prime(size) => Err("tableSize must be a prime number for maglev"),
                _ => Ok(()),
            };
            problems.judge(&at.field("maglev").field("tableSize"), size, verdict.map_err(str::to_owned));
        }
        // Ours: without a key every request would go anywhere.
        let keys = [hash.http_header_name.is_some(), hash.http_cookie.is_some(), hash.http_query_parameter_name.is_some()];
        if !keys.contains(&true) && hash.use_source_ip != Some(true) {
            problems.required(&at, "one of httpHeaderName, httpCookie, useSourceIp, httpQueryParameterName");
        }
    }
    if settings.locality_lb_setting.is_some() && settings.zone_aware_lb_setting.is_some() {
        problems.forbidden(at, "only one of localityLbSetting and zoneAwareLbSetting can be set");
    }
    if let Some(setting) = &settings.locality_lb_setting {
        locality(setting, &at.field("localityLbSetting"), problems);
    }
    text::optional_duration(settings.warmup_duration_secs, &at.field("warmupDurationSecs"), problems);
    if let Some(warmup) = &settings.warmup {
        let at = at.field("warmup");
        text::optional_duration(warmup.duration, &at.field("duration"), problems);
        if let Some(percent) = warmup.minimum_percent.filter(|p| !(0.0..=100.0).contains(p)) {
            let why = "minimumPercent value should be less than or equal to 100".to_owned();
            problems.judge(&at.field("minimumPercent"), percent, Err(why));
        }
        if let Some(aggression) = warmup.aggression.filter(|a| *a <= 0.0) {
            problems.judge(&at.field("aggression"), aggression, Err("aggression should be greater than 0".to_owned()));
        }
    }
}

fn locality(setting: &LocalityLbSetting, at: &Path<'_>, problems: &mut Problems) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        return problems.forbidden(at, "can not simultaneously specify 'distribute' and 'failover'");
    }
    for (i, distribute) in setting.distribute.iter().enumerate() {
        let list = at.field("distribute");
        let item = list.index(i);
        let at = item.field("to");
        for (locality, weight) in distribute.to.iter().filter(|(_, weight)| !(1..=100).contains(*weight)) {
            problems.judge(&at.key(locality), *weight, Err("locality weight must be in range [1, 100]".to_owned()));
        }
        let total: u64 = distribute.to.values().map(|w| u64::from(*w)).sum();
        if total != 100 {
            problems.judge(&at, total, Err(format!("total locality weight {total} != 100")));
        }
    }
    for (i, failover) in setting.failover.iter().enumerate() {
        let list = at.field("failover");
        let (from, to) = (&failover.from, &failover.to);
        let why = if from == to {
            "locality lb failover settings must specify different regions"
        } else if from.contains('/') || to.contains('/') {
            "locality lb failover only specify region"
        } else if from.contains('*') || to.contains('*') {
            "locality lb failover region should not contain '*' wildcard"
        } else {
            continue;
        };
        problems.judge(&list.index(i), to.as_str(), Err(why.to_owned()));
    }
}

/// As Envoy tests it.
fn is_prime(x: u64) -> bool {
    x > 1 && (x < 4 || (x & 1 == 1 && (3..).step_by(2).take_while(|f| f * f <= x).all(|f| !x.is_multiple_of(f))))
}

fn pool(settings: &ConnectionPoolSettings, at: &Path<'_>, problems: &mut Problems) {
    if settings.http.is_none() && settings.tcp.is_none() {
        problems.required(at, "connection pool must have at least one field");
    }
    if let Some(http) = &settings.http {
        http_pool(http, &at.field("http"), problems);
    }
    if let Some(tcp) = &settings.tcp {
        tcp_pool(tcp, &at.field("tcp"), problems);
    }
}

fn negative(value: i32, what: &str, at: &Path<'_>, problems: &mut Problems) {
    if value < 0 {
        problems.judge(at, value, Err(format!("{what} must be non-negative")));
    }
}

fn http_pool(http: &HttpSettings, at: &Path<'_>, problems: &mut Problems) {
    negative(http.http1_max_pending_requests, "http1 max pending requests", &at.field("http1MaxPendingRequests"), problems);
    negative(http.http2_max_requests, "http2 max requests", &at.field("http2MaxRequests"), problems);
    negative(http.max_requests_per_connection, "max requests per connection", &at.field("maxRequestsPerConnection"), problems);
    negative(http.max_retries, "max retries", &at.field("maxRetries"), problems);
    negative(http.max_concurrent_streams, "max concurrent streams", &at.field("maxConcurrentStreams"), problems);
    text::optional_duration(http.idle_timeout, &at.field("idleTimeout"), problems);
    if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
        let why = "use client protocol must not be true when H2UpgradePolicy is UPGRADE";
        problems.forbidden(&at.field("useClientProtocol"), why);
    }
    if let Some(keepalive) = &http.http2_keep_alive {
        let at = at.field("http2KeepAlive");
        for (what, given, why) in [
            ("interval", keepalive.interval, "http2 keepalive interval is required"),
            ("timeout", keepalive.timeout, "http2 keepalive timeout is required"),
        ] {
            if given.is_none() {
                problems.required(&at.field(what), why);
            }
            text::optional_duration(given, &at.field(what), problems);
        }
    }
}

fn tcp_pool(tcp: &TcpSettings, at: &Path<'_>, problems: &mut Problems) {
    negative(tcp.max_connections, "max connections", &at.field("maxConnections"), problems);
    text::optional_duration(tcp.connect_timeout, &at.field("connectTimeout"), problems);
    text::optional_duration(tcp.max_connection_duration, &at.field("maxConnectionDuration"), problems);
    // 0s is "no limit".
    text::optional_duration(tcp.idle_timeout.filter(|t| !t.is_zero()), &at.field("idleTimeout"), problems);
    if let Some(keepalive) = &tcp.tcp_keepalive {
        let at = at.field("tcpKeepalive");
        text::optional_duration(keepalive.time, &at.field("time"), problems);
        text::optional_duration(keepalive.interval, &at.field("interval"), problems);
    }
}

fn outlier(outlier: &OutlierDetection, at: &Path<'_>, problems: &mut Problems) {
    text::optional_duration(outlier.base_ejection_time, &at.field("baseEjectionTime"), problems);
    text::optional_duration(outlier.interval, &at.field("interval"), problems);
    if !outlier.split_external_local_origin_errors && outlier.consecutive_local_origin_failures.is_some_and(|n| n > 0) {
        let why = "outlier detection consecutive local origin failures is specified, but split external local origin errors is set to \
                   false";
        problems.forbidden(&at.field("consecutiveLocalOriginFailures"), why);
    }
    let (most, least) = (outlier.max_ejection_percent, outlier.min_health_percent);
    problems.judge(&at.field("maxEjectionPercent"), most, text::whole_percent(most));
    problems.judge(&at.field("minHealthPercent"), least, text::whole_percent(least));
    negative(outlier.consecutive_errors, "consecutive errors", &at.field("consecutiveErrors"), problems);
    for (i, code) in outlier.outlier_detection_http_error_codes.iter().enumerate() {
        if !(100..=599).contains(code) {
            let codes = at.field("outlierDetectionHttpErrorCodes");
            problems.judge(&codes.index(i), *code, Err("should be in the range 100..599".to_owned()));
        }
    }
}

fn client_tls(tls: &ClientTlsSettings, at: &Path<'_>, problems: &mut Problems) {
    let own = !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty();
    if tls.insecure_skip_verify == Some(true) {
        if tls.mode == TlsMode::Simple && (own || !tls.credential_name.is_empty()) {
            let why = "cannot specify CaCertificates or CredentialName or SubjectAltNames when InsecureSkipVerify is set true";
            problems.forbidden(at, why);
        }
        if tls.mode == TlsMode::Mutual && own {
            problems.forbidden(at, "cannot specify CaCertificates or SubjectAltNames when InsecureSkipVerify is set true");
        }
    }
    if matches!(tls.mode, TlsMode::Simple | TlsMode::Mutual) && !tls.credential_name.is_empty() {
        let files = [&tls.client_certificate, &tls.ca_certificates, &tls.private_key, &tls.ca_crl];
        if files.iter().any(|file| !file.is_empty()) {
            problems.forbidden(at, "cannot specify client certificates or CA certificate or CA CRL If credentialName is set");
        }
        return;
    }
    if tls.mode == TlsMode::Mutual {
        if tls.client_certificate.is_empty() {
            problems.required(&at.field("clientCertificate"), "client certificate required for mutual tls");
        }
        if tls.private_key.is_empty() {
            problems.required(&at.field("privateKey"), "private key required for mutual tls");
        }
    }
}
