//! What proxies tell of requests: tracing and access log of the whole mesh, and who each endpoint is.

use super::envoy::{cluster, core, endpoint, hcm, pack_any};
use crate::core::registry::Workload;
use clap::ValueEnum;
use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::trace::v3 as trace;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3 as file;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Struct, Value, value::Kind};
use hcm::http_connection_manager::Tracing;
use mesh_xds::names::ClusterName;
use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::LazyLock;

/// The cluster of a collector that is given by its address.
pub(super) const COLLECTOR: &str = "zipkin";
/// Istio's limit.
const MAX_PATH: u32 = 256;

/// What the operator wants to be told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Telemetry {
    /// Nothing is traced without.
    pub(crate) zipkin: Option<Address>,
    /// Per cent of requests that nobody has decided about.
    pub(crate) sampling: f64,
    pub(crate) access_log: AccessLog,
}

/// `HOST:PORT` of a collector.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Address {
    /// An IP address, or the name of a service of the mesh as in a rule.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not HOST:PORT, as in zipkin:9411");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if host.is_empty() { Err(wrong()) } else { Ok(Self { host: host.to_owned(), port }) }
    }
}

impl Address {
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// What listeners tell, compiled.
#[derive(Clone, Debug, Default)]
pub(super) struct Telling {
    pub(super) tracing: Option<Tracing>,
    pub(super) access_log: Vec<accesslog::AccessLog>,
}

impl Telling {
    /// A gateway is a hop of its own, as Istio's: a span for what came, and one below it for each attempt to reach an endpoint.
    pub(super) fn at_gateway(mut self) -> Self {
        if let Some(tracing) = &mut self.tracing {
            tracing.spawn_upstream_span = Some(BoolValue { value: true });
        }
        self
    }
}

/// The form of the access log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum AccessLog {
    /// None, as in Istio
    #[default]
    Off,
    /// Istio's text, one line per request
    Text,
    /// The same facts as a JSON object per request
    Json,
}

/// Istio's format, and at its end the asking pod: one proxy logs for all pods of its node.
const TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% \
%DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% \
%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME% %DYNAMIC_METADATA(mesh.source:workload)%\n";

/// Istio's names.
const JSON: [(&str, &str); 26] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("source_workload", "%DYNAMIC_METADATA(mesh.source:workload)%"),
    ("start_time", "%START_TIME%"),
    ("trace_id", "%TRACE_ID%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// A listener's loggers.
pub(super) fn access_log(form: AccessLog) -> Vec<accesslog::AccessLog> {
    use core::substitution_format_string::Format;
    // Packed once: a map is written in any order, and the version of an unchanged listener must not change.
    static PACKED: LazyLock<[Any; 2]> = LazyLock::new(|| {
        let inline = core::data_source::Specifier::InlineString(TEXT.to_owned());
        let text = core::DataSource { specifier: Some(inline), ..Default::default() };
        let member = |(name, command): (&str, &str)| (name.to_owned(), string(command));
        let json = Struct { fields: JSON.into_iter().map(member).collect() };
        [Format::TextFormatSource(text), Format::JsonFormat(json)].map(|format| {
            let format = core::SubstitutionFormatString { format: Some(format), ..Default::default() };
            let format = file::file_access_log::AccessLogFormat::LogFormat(format);
            pack_any(file::FileAccessLog { path: "/dev/stdout".to_owned(), access_log_format: Some(format) })
        })
    });
    let config = match form {
        AccessLog::Off => return Vec::new(),
        AccessLog::Text => PACKED[0].clone(),
        AccessLog::Json => PACKED[1].clone(),
    };
    vec![accesslog::AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(config)),
        ..Default::default()
    }]
}

/// Tracing to the collector's cluster; `host` is how it is called.
pub(super) fn tracing(sampling: f64, cluster: &str, host: &Address) -> Tracing {
    use trace::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
    let zipkin = trace::ZipkinConfig {
        collector_cluster: cluster.to_owned(),
        collector_endpoint: "/api/v2/spans".to_owned(),
        collector_endpoint_version: CollectorEndpointVersion::HttpJson.into(),
        collector_hostname: format!("{}:{}", host.host, host.port),
        trace_id_128bit: true,
        shared_span_context: Some(BoolValue { value: false }),
        trace_context_option: TraceContextOption::UseB3WithW3cPropagation.into(),
        ..Default::default()
    };
    let provider = trace::tracing::Http {
        name: "envoy.tracers.zipkin".to_owned(),
        config_type: Some(trace::tracing::http::ConfigType::TypedConfig(pack_any(zipkin))),
    };
    let percent = |value| Some(Percent { value });
    Tracing {
        client_sampling: percent(100.0),
        random_sampling: percent(sampling),
        overall_sampling: percent(100.0),
        max_path_tag_length: super::envoy::uint(MAX_PATH),
        provider: Some(provider),
        ..Default::default()
    }
}

/// The cluster of a collector that is a service.
pub(super) fn collector(address: &Address, resolve: impl Fn(&str) -> String) -> ClusterName {
    ClusterName { port: address.port, host: resolve(&address.host), ..ClusterName::default() }
}

/// The cluster of a collector that is an address.
pub(super) fn fixed(ip: IpAddr, port: u16) -> cluster::Cluster {
    let dialled = endpoint::Endpoint { address: Some(super::envoy::socket_address(ip, port)), ..Default::default() };
    let one = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(dialled)),
        ..Default::default()
    };
    let locality = endpoint::LocalityLbEndpoints { lb_endpoints: vec![one], ..Default::default() };
    let assignment =
        endpoint::ClusterLoadAssignment { cluster_name: COLLECTOR.to_owned(), endpoints: vec![locality], ..Default::default() };
    cluster::Cluster {
        name: COLLECTOR.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static.into(),
        )),
        load_assignment: Some(assignment),
        connect_timeout: Some(super::envoy::duration(std::time::Duration::from_secs(5))),
        ..Default::default()
    }
}

/// Who an endpoint is, as Istio writes it for telemetry: `workload;namespace;canonical service;canonical revision;cluster`.
/// `port` is where it is dialled.
pub(super) fn identity(workload: &Workload, port: u16) -> core::Metadata {
    let name = workload.app.trim_start_matches('/');
    let first = |names: [&str; 3]| names.iter().find_map(|name| workload.labels.get(*name)).map(String::as_str);
    let service = first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]).unwrap_or(name);
    let revision = first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]).unwrap_or("latest");
    // A semicolon in a label would shift what follows it.
    let clean = |text: &str| text.replace(';', "_");
    let mut text = [name, &workload.namespace, service, revision, ""].map(clean).join(";");
    // Its own proxy counts for it. Istio's readers stop before this.
    if workload.inbound.contains(&port) {
        text.push_str(";inbound");
    }
    let istio = Struct { fields: HashMap::from([("workload".to_owned(), string(&text))]) };
    core::Metadata { filter_metadata: HashMap::from([("istio".to_owned(), istio)]), ..Default::default() }
}

fn string(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::compile::tests::{node, reviews, settings};
    use crate::core::compile::{Compiled, Settings, compile};
    use crate::istio::Config;
    use mesh_xds::names::{CLUSTER, LISTENER};
    use prost::Message;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    fn told(zipkin: &str, access_log: AccessLog) -> (hcm::HttpConnectionManager, Vec<String>) {
        let telemetry = Telemetry { zipkin: Some(zipkin.parse().expect("address")), sampling: 12.5, access_log };
        let settings = Settings { telemetry, ..settings() };
        let registry = Arc::new(reviews(&["v1"]));
        let compiled = compile(&registry, &Config::default(), &settings, &BTreeSet::new(), &Compiled::default());
        let again = compile(&registry, &Config::default(), &settings, &BTreeSet::new(), &Compiled::default());
        let at = node("node~10.0.0.0~n~mesh");
        let (snapshot, again) = (compiled.snapshot(&at), again.snapshot(&at));
        assert_eq!(snapshot.types[LISTENER], again.types[LISTENER], "the same configuration has the same version");
        let listener = super::super::envoy::listener::Listener::decode(snapshot.types[LISTENER]["0.0.0.0_9080"].body.clone());
        let filter = listener.expect("decodes").filter_chains.remove(0).filters.remove(0);
        let Some(super::super::envoy::listener::filter::ConfigType::TypedConfig(any)) = filter.config_type else {
            panic!("a filter")
        };
        let manager = hcm::HttpConnectionManager::decode(&*any.value).expect("decodes");
        (manager, snapshot.types[CLUSTER].keys().cloned().collect())
    }

    fn collector_of(manager: &hcm::HttpConnectionManager) -> Option<String> {
        let trace::tracing::http::ConfigType::TypedConfig(any) =
            manager.tracing.as_ref()?.provider.as_ref()?.config_type.as_ref()?;
        Some(trace::ZipkinConfig::decode(&*any.value).expect("decodes").collector_cluster)
    }

    #[test]
    fn a_collector_is_named_where_it_exists() {
        let (manager, clusters) = told("reviews:9080", AccessLog::Json);
        let cluster = collector_of(&manager).expect("traced");
        assert!(cluster.starts_with("outbound|9080||reviews.") && clusters.contains(&cluster), "{cluster}: {clusters:?}");
        assert_eq!(manager.tracing.and_then(|tracing| tracing.random_sampling).map(|share| share.value), Some(12.5));
        assert_eq!(manager.access_log.len(), 1);
        let (manager, clusters) = told("192.0.2.1:9411", AccessLog::Text);
        assert!(collector_of(&manager).as_deref() == Some("zipkin") && clusters.contains(&"zipkin".to_owned()));
        let (manager, _) = told("absent:9411", AccessLog::Off);
        assert_eq!((collector_of(&manager), manager.access_log.len()), (None, 0));
    }

    #[test]
    fn addresses_are_host_and_port() {
        let read = |text: &str| text.parse::<Address>().map(|address| (address.host, address.port));
        assert_eq!(read("zipkin:9411"), Ok(("zipkin".to_owned(), 9411)));
        assert_eq!(read("[fd00::1]:9411"), Ok(("fd00::1".to_owned(), 9411)));
        for wrong in ["zipkin", ":9411", "zipkin:0", "zipkin:port", "http://zipkin:9411/x"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_endpoint_is_named_and_no_label_can_shift_the_names() {
        let workload = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            Workload {
                outbound: None,
                id: "reviews-v2.instance-1".to_owned(),
                app: "/reviews-v2".to_owned(),
                namespace: "default".to_owned(),
                node: String::new(),
                addresses: Vec::new(),
                labels: Arc::new(labels),
                enrol: true,
                host_network: false,
                inbound: [9080].into(),
                place: Arc::default(),
            }
        };
        let text_at = |workload: &Workload, port| {
            let metadata = identity(workload, port);
            match &metadata.filter_metadata["istio"].fields["workload"].kind {
                Some(Kind::StringValue(text)) => text.clone(),
                _ => String::new(),
            }
        };
        let text = |workload: &Workload| text_at(workload, 80);
        assert_eq!(text(&workload(&[])), "reviews-v2;default;reviews-v2;latest;");
        assert_eq!(text_at(&workload(&[]), 9080), "reviews-v2;default;reviews-v2;latest;;inbound");
        assert_eq!(text(&workload(&[("app", "re;views"), ("version", "v2")])), "reviews-v2;default;re_views;v2;");
    }
}
