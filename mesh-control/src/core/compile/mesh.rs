//! The mesh's settings: the command line's, with what `MeshConfig` says laid over them.

use super::{AccessLog, Settings};
use crate::istio::mesh_config::{Encoding, MeshConfig};
use std::borrow::Cow;

/// The settings in force.
pub(super) fn settled<'s>(config: Option<&MeshConfig>, given: &'s Settings) -> Cow<'s, Settings> {
    let Some(config) = config else { return Cow::Borrowed(given) };
    let mut settings = given.clone();
    if let Some(mode) = config.outbound {
        settings.outbound = mode.into();
    }
    if let Some(log) = config.access_log {
        settings.telemetry.access_log = match log {
            None => AccessLog::Off,
            Some(Encoding::Text) => AccessLog::Text,
            Some(Encoding::Json) => AccessLog::Json,
        };
    }
    // What does not parse was refused on admission.
    let zipkin = config.zipkin.as_deref().and_then(|address| address.parse().ok());
    settings.telemetry.zipkin = zipkin.or(settings.telemetry.zipkin).filter(|_| config.tracing != Some(false));
    settings.telemetry.sampling = config.sampling.unwrap_or(settings.telemetry.sampling);
    settings.detection_timeout = config.detection_timeout.unwrap_or(settings.detection_timeout);
    settings.default_retries.clone_from(&config.retries);
    settings.localities.clone_from(&config.localities);
    Cow::Owned(settings)
}

#[cfg(test)]
mod tests {
    use crate::core::compile::tests::{compiled_by, decode, reviews, settings};
    use crate::core::compile::{Settings, Telemetry};
    use crate::istio::Config;
    use crate::istio::mesh_config::MeshConfig;
    use mesh_xds::agent::{MESH, MESH_NAME, Mesh, OutboundPolicy};
    use mesh_xds::names::ROUTE;
    use prost::Message;

    fn laid_over(text: &str) -> Settings {
        let zipkin = "10.0.0.9:9411".parse().ok();
        let given = Settings { telemetry: Telemetry { zipkin, sampling: 1.0, ..Telemetry::default() }, ..settings() };
        super::settled(Some(&MeshConfig::read(text).expect("good").0), &given).into_owned()
    }

    #[test]
    fn what_is_said_goes_before_the_command_line_and_the_rest_stays() {
        let same = laid_over("");
        assert_eq!((same.telemetry.sampling, same.telemetry.zipkin.is_some()), (1.0, true));
        assert_eq!(same.detection_timeout, settings().detection_timeout);
        let other = laid_over("enableTracing: false\nprotocolDetectionTimeout: 2s\ndefaultConfig: {tracing: {sampling: 50}}");
        assert_eq!((other.telemetry.sampling, other.telemetry.zipkin.is_none()), (50.0, true));
        assert_eq!(other.detection_timeout, std::time::Duration::from_secs(2));
        assert_eq!(laid_over("outboundTrafficPolicy: {mode: ALLOW_ANY}").outbound, OutboundPolicy::AllowAny);
        assert_eq!(laid_over("outboundTrafficPolicy: {mode: AUDIT}").outbound, OutboundPolicy::Audit);
    }

    #[test]
    fn it_is_compiled_for_agents_and_proxies() {
        let text = "outboundTrafficPolicy: {mode: ALLOW_ANY}\ndefaultHttpRetryPolicy: {attempts: 7, retryOn: gateway-error}";
        let mesh = Some(MeshConfig::read(text).expect("good").0);
        let compiled = compiled_by(&reviews(&["v1"]), &Config { mesh, ..Config::default() });
        let agent = compiled.snapshot(&"agent~10.0.0.1~a~mesh".parse().expect("node"));
        let mesh = Mesh::decode(agent.types[MESH][MESH_NAME].body.clone()).expect("mesh");
        assert_eq!(mesh.outbound_policy, i32::from(OutboundPolicy::AllowAny));
        let routes: envoy_types::pb::envoy::config::route::v3::RouteConfiguration = decode(&compiled, ROUTE, "9080");
        let policy =
            crate::core::compile::tests::action(&routes.virtual_hosts[0].routes[0]).retry_policy.clone().expect("retries");
        assert_eq!((policy.retry_on.as_str(), policy.num_retries.map(|n| n.value)), ("gateway-error", Some(7)));
    }
}
