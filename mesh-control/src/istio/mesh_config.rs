//! `MeshConfig`: what holds for the whole mesh where no rule speaks, from key `mesh` of ConfigMap `istio` in `istio-system`, as YAML.
//!
//! It goes before the command line of mesh-control. A field that is not listed here has no effect and is told; the few that are, with a
//! value that cannot be, refuse the ConfigMap.

use std::time::Duration;

use mesh_xds::agent::OutboundPolicy;
use serde_json::Value;

use super::decode::{Decode, enumeration};
use super::destination_rule::LocalityLbSetting;
use super::problem::{Path, Problems};
use super::virtual_service::HttpRetry;

/// Where it is.
pub(crate) const NAMESPACE: &str = "istio-system";
/// See [`NAMESPACE`].
pub(crate) const NAME: &str = "istio";
/// See [`NAMESPACE`].
pub(crate) const KEY: &str = "mesh";

enumeration! {
    /// What workloads may dial outside the mesh. The last is not Istio's: what the first would refuse is let pass, and counted.
    OutboundMode { RegistryOnly = "REGISTRY_ONLY", AllowAny = "ALLOW_ANY", Audit = "AUDIT", }
}

impl OutboundMode {
    /// By its name, in any case.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(mode, _)| *mode)
    }
}

impl From<OutboundMode> for OutboundPolicy {
    fn from(mode: OutboundMode) -> Self {
        match mode {
            OutboundMode::RegistryOnly => Self::RegistryOnly,
            OutboundMode::AllowAny => Self::AllowAny,
            OutboundMode::Audit => Self::Audit,
        }
    }
}

enumeration! {
    /// The form of the access log.
    Encoding { Text = "TEXT", Json = "JSON", }
}

/// What of it is in force; `None`: the command line's.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MeshConfig {
    pub(crate) outbound: Option<OutboundMode>,
    /// `None` inside: no access log.
    pub(crate) access_log: Option<Option<Encoding>>,
    /// False: nothing is traced.
    pub(crate) tracing: Option<bool>,
    /// `HOST:PORT`.
    pub(crate) zipkin: Option<String>,
    /// Per cent.
    pub(crate) sampling: Option<f64>,
    pub(crate) retries: Option<HttpRetry>,
    pub(crate) detection_timeout: Option<Duration>,
    pub(crate) localities: Option<LocalityLbSetting>,
}

/// The fields that have an effect. Below the last name of each everything has.
const TAKEN: [&[&str]; 9] = [
    &["outboundTrafficPolicy", "mode"],
    &["accessLogFile"],
    &["accessLogEncoding"],
    &["enableTracing"],
    &["defaultConfig", "tracing", "zipkin", "address"],
    &["defaultConfig", "tracing", "sampling"],
    &["defaultHttpRetryPolicy"],
    &["protocolDetectionTimeout"],
    &["localityLbSetting"],
];

impl MeshConfig {
    /// Reads the text, and says which of its fields have no effect.
    ///
    /// # Errors
    /// If it is no YAML, or a field that is taken has a value that cannot be.
    pub(crate) fn read(text: &str) -> Result<(Self, Vec<String>), Problems> {
        let (data, mut problems) = (Path::root("data"), Problems::default());
        let at = data.field(KEY);
        let value = match serde_yaml_ng::from_str::<Value>(text) {
            Ok(Value::Null) => Value::Object(serde_json::Map::new()),
            Ok(value @ Value::Object(_)) => value,
            Ok(other) => {
                problems.wrong_type(&at, "object", &other);
                return Err(problems);
            }
            Err(error) => {
                problems.invalid(&at, "", format_args!("it is not YAML: {error}"));
                return Err(problems);
            }
        };
        let mut unused = Vec::new();
        left_over(&value, &TAKEN, "", &mut unused);
        let found = Self::decode(&value, &at, &mut problems);
        if problems.is_empty() { Ok((found, unused)) } else { Err(problems) }
    }

    fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Self {
        let file = taken::<String>(value, &["accessLogFile"], at, problems);
        let encoding = taken::<Encoding>(value, &["accessLogEncoding"], at, problems);
        if file.as_deref().is_some_and(|file| !["", "/dev/stdout"].contains(&file)) {
            problems.invalid(&at.field("accessLogFile"), file.clone().unwrap_or_default(), "proxies write to /dev/stdout alone");
        }
        let proxies = at.field("defaultConfig");
        let tracing = proxies.field("tracing");
        let sampling = taken::<f64>(value, &["defaultConfig", "tracing", "sampling"], at, problems);
        if let Some(share) = sampling.filter(|share| !(0.0..=100.0).contains(share)) {
            problems.invalid(&tracing.field("sampling"), share, "must be from 0 to 100");
        }
        let zipkin = taken::<String>(value, &["defaultConfig", "tracing", "zipkin", "address"], at, problems);
        if let Some(Err(why)) = zipkin.as_deref().map(str::parse::<crate::core::compile::ZipkinAddress>) {
            let collector = tracing.field("zipkin");
            problems.invalid(&collector.field("address"), zipkin.clone().unwrap_or_default(), why);
        }
        Self {
            outbound: taken(value, &["outboundTrafficPolicy", "mode"], at, problems),
            access_log: file.map(|file| (!file.is_empty()).then(|| encoding.unwrap_or_default())),
            tracing: taken(value, &["enableTracing"], at, problems),
            zipkin,
            sampling,
            retries: taken(value, &["defaultHttpRetryPolicy"], at, problems),
            detection_timeout: taken(value, &["protocolDetectionTimeout"], at, problems),
            localities: taken(value, &["localityLbSetting"], at, problems),
        }
    }
}

/// A field by the names on the way to it.
fn taken<T: Decode>(value: &Value, names: &[&str], at: &Path<'_>, problems: &mut Problems) -> Option<T> {
    match names {
        [] => Option::<T>::decode(value, at, problems).flatten(),
        [name, rest @ ..] => taken(value.get(name)?, rest, &at.field(name), problems),
    }
}

/// Fields beside the way to what is taken.
fn left_over(value: &Value, taken: &[&[&str]], at: &str, unused: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let here = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        let below: Vec<&[&str]> = taken.iter().filter_map(|names| names.strip_prefix(&[name.as_str()][..])).collect();
        if below.is_empty() {
            unused.push(here);
        } else if !below.iter().any(|names| names.is_empty()) {
            left_over(value, &below, &here, unused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_in_force_are_read_and_the_others_told() {
        let text = "outboundTrafficPolicy:\n  mode: ALLOW_ANY\naccessLogFile: /dev/stdout\naccessLogEncoding: JSON\n\
            enableTracing: true\ndefaultConfig:\n  concurrency: 2\n  tracing:\n    sampling: 12.5\n    tlsSettings: {}\n    zipkin:\n      \
            address: zipkin:9411\ndefaultHttpRetryPolicy:\n  attempts: 4\n  retryOn: 5xx\nprotocolDetectionTimeout: 0.5s\n\
            localityLbSetting:\n  enabled: false\nrootNamespace: istio-config\ntrustDomain: example.com\n";
        let (found, unused) = MeshConfig::read(text).expect("good");
        assert_eq!(found.outbound, Some(OutboundMode::AllowAny));
        assert_eq!((found.access_log, found.tracing), (Some(Some(Encoding::Json)), Some(true)));
        assert_eq!((found.zipkin.as_deref(), found.sampling), (Some("zipkin:9411"), Some(12.5)));
        assert_eq!(found.retries.map(|retries| (retries.attempts, retries.retry_on)), Some((4, "5xx".to_owned())));
        assert_eq!(found.detection_timeout, Some(Duration::from_millis(500)));
        assert_eq!(found.localities.and_then(|localities| localities.enabled), Some(false));
        assert_eq!(unused, ["defaultConfig.concurrency", "defaultConfig.tracing.tlsSettings", "rootNamespace", "trustDomain"]);
        assert_eq!(MeshConfig::read("").expect("nothing is good"), (MeshConfig::default(), vec![]));
        assert_eq!(MeshConfig::read("accessLogFile: ''").expect("good").0.access_log, Some(None));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_path() {
        for (text, want) in [
            ("a: [", "data.mesh: Invalid value: \"\": it is not YAML"),
            ("- a", "data.mesh: Invalid value"),
            ("outboundTrafficPolicy: {mode: NONE}", "data.mesh.outboundTrafficPolicy.mode: Unsupported value: \"NONE\""),
            ("accessLogFile: /var/log/x", "data.mesh.accessLogFile: Invalid value: \"/var/log/x\": proxies write to /dev/stdout"),
            ("defaultConfig: {tracing: {sampling: 101}}", "data.mesh.defaultConfig.tracing.sampling: Invalid value"),
            (
                "defaultConfig: {tracing: {zipkin: {address: zipkin}}}",
                "data.mesh.defaultConfig.tracing.zipkin.address: Invalid value",
            ),
            ("defaultHttpRetryPolicy: {attemps: 3}", "unknown field \"data.mesh.defaultHttpRetryPolicy.attemps\""),
            ("protocolDetectionTimeout: 5", "data.mesh.protocolDetectionTimeout: Invalid value"),
        ] {
            let found = MeshConfig::read(text).expect_err(text).to_string();
            assert!(found.contains(want), "{text}: {found}");
        }
    }
}
