//! TLS towards a cluster's endpoints. Files are the node's: the proxy reads them, not the pod. Secrets are [`super::super::credentials`]'.

use crate::core::compile::credentials::Named;
use crate::core::compile::envoy::{self, core, matcher, pack_any, tls};
use crate::istio::destination_rule::{ClientTlsSettings, TlsMode};
use tls::common_tls_context::ValidationContextType;
use tls::subject_alt_name_matcher::SanType;

/// The transport socket; `None` is plain text. `named` are the Secrets, where the rule names one.
pub(super) fn socket(
    rule: &ClientTlsSettings,
    named: Option<Named>,
    http2: bool,
    system_ca: &str,
) -> Option<core::TransportSocket> {
    if !is_in_force(rule) {
        return None;
    }
    let common = named.map_or_else(|| of_files(rule, system_ca), |named| of_secrets(rule, named));
    let alpn_protocols = if http2 { vec!["h2".to_owned()] } else { Vec::new() };
    let common = tls::CommonTlsContext { alpn_protocols, ..common };
    let context = tls::UpstreamTlsContext { common_tls_context: Some(common), sni: rule.sni.clone(), ..Default::default() };
    Some(core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack_any(context))),
    })
}

fn of_files(rule: &ClientTlsSettings, system_ca: &str) -> tls::CommonTlsContext {
    let tls_certificates = match rule.mode {
        TlsMode::Mutual => vec![tls::TlsCertificate {
            certificate_chain: Some(file(&rule.client_certificate)),
            private_key: Some(file(&rule.private_key)),
            ..Default::default()
        }],
        _ => Vec::new(),
    };
    let validation = validation(rule, system_ca).map(ValidationContextType::ValidationContext);
    tls::CommonTlsContext { tls_certificates, validation_context_type: validation, ..Default::default() }
}

/// As Istio: the certificate for MUTUAL only, and authorities unless nobody checks them.
fn of_secrets(rule: &ClientTlsSettings, named: Named) -> tls::CommonTlsContext {
    use tls::common_tls_context::CombinedCertificateValidationContext as Combined;
    let sds = |name: String| tls::SdsSecretConfig { name, sds_config: Some(envoy::ads()) };
    let combined = named.authorities.map(|authorities| {
        let names = tls::CertificateValidationContext {
            match_typed_subject_alt_names: rule.subject_alt_names.iter().map(|name| exact(name)).collect(),
            ..Default::default()
        };
        ValidationContextType::CombinedValidationContext(Combined {
            default_validation_context: Some(names),
            validation_context_sds_secret_config: Some(sds(authorities)),
            ..Default::default()
        })
    });
    tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: named.certificate.map(sds).into_iter().collect(),
        validation_context_type: combined,
        ..Default::default()
    }
}

/// Those of the mesh itself are reported.
fn is_in_force(rule: &ClientTlsSettings) -> bool {
    matches!(rule.mode, TlsMode::Simple | TlsMode::Mutual)
}

/// `None`: the endpoint is believed.
fn validation(rule: &ClientTlsSettings, system_ca: &str) -> Option<tls::CertificateValidationContext> {
    if rule.insecure_skip_verify == Some(true) {
        return None;
    }
    let authorities = if rule.ca_certificates.is_empty() { system_ca } else { &rule.ca_certificates };
    Some(tls::CertificateValidationContext {
        trusted_ca: Some(file(authorities)),
        match_typed_subject_alt_names: rule.subject_alt_names.iter().map(|name| exact(name)).collect(),
        ..Default::default()
    })
}

fn exact(name: &str) -> tls::SubjectAltNameMatcher {
    let san_type = if name.contains("://") { SanType::Uri } else { SanType::Dns };
    let pattern = matcher::string_matcher::MatchPattern::Exact(name.to_owned());
    let matcher = Some(matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() });
    tls::SubjectAltNameMatcher { san_type: san_type.into(), matcher, ..Default::default() }
}

/// Without a name in the rule, each request's host is asked for, and is what the certificate must be for if no other name is.
pub(super) fn from_requests(rule: &ClientTlsSettings) -> Option<core::UpstreamHttpProtocolOptions> {
    (is_in_force(rule) && rule.sni.is_empty()).then(|| core::UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: rule.subject_alt_names.is_empty() && rule.insecure_skip_verify != Some(true),
        ..Default::default()
    })
}

fn file(name: &str) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::Filename(name.to_owned())), ..Default::default() }
}
