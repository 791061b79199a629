//! TLS towards a cluster's endpoints. Files are the node's: the proxy reads them, not the pod.

use crate::core::compile::envoy::{core, matcher, pack_any, tls};
use crate::istio::destination_rule::{ClientTlsSettings, TlsMode};
use tls::common_tls_context::ValidationContextType;
use tls::subject_alt_name_matcher::SanType;

/// The transport socket; `None` is plain text.
pub(super) fn socket(rule: &ClientTlsSettings, http2: bool, system_ca: &str) -> Option<core::TransportSocket> {
    if !is_in_force(rule) {
        return None;
    }
    let tls_certificates = match rule.mode {
        TlsMode::Mutual => vec![tls::TlsCertificate {
            certificate_chain: Some(file(&rule.client_certificate)),
            private_key: Some(file(&rule.private_key)),
            ..Default::default()
        }],
        _ => Vec::new(),
    };
    let common = tls::CommonTlsContext {
        tls_certificates,
        alpn_protocols: if http2 { vec!["h2".to_owned()] } else { Vec::new() },
        validation_context_type: validation(rule, system_ca).map(ValidationContextType::ValidationContext),
        ..Default::default()
    };
    let context = tls::UpstreamTlsContext { common_tls_context: Some(common), sni: rule.sni.clone(), ..Default::default() };
    Some(core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack_any(context))),
    })
}

/// Certificates by file; those of secrets and of the mesh itself are reported.
fn is_in_force(rule: &ClientTlsSettings) -> bool {
    matches!(rule.mode, TlsMode::Simple | TlsMode::Mutual) && rule.credential_name.is_empty()
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
