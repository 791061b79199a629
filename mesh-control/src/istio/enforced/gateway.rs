//! Fields of Gateways without effect.

use super::{Abilities, Enforced, Findings};
use crate::istio::gateway::{Gateway, ServerTlsMode, ServerTlsSettings, TlsProtocol};

impl Enforced for Gateway {
    fn look(&self, _can: Abilities, found: &mut Findings) {
        for (i, server) in self.servers.iter().enumerate() {
            let at = format!("spec.servers[{i}]");
            let mapped = server.port.target_port != 0 && server.port.target_port != server.port.number;
            found.if_set(format!("{at}.port.targetPort"), mapped);
            found.if_set(format!("{at}.defaultEndpoint"), !server.default_endpoint.is_empty());
            if let Some(settings) = &server.tls {
                tls(settings, &format!("{at}.tls"), found);
            }
        }
    }
}

fn tls(tls: &ServerTlsSettings, at: &str, found: &mut Findings) {
    let left_out = "is not supported by this version, so the server is left out";
    match tls.mode {
        ServerTlsMode::AutoPassthrough | ServerTlsMode::IstioMutual | ServerTlsMode::OptionalMutual => {
            found.tell(format!("{at}.mode"), left_out);
        }
        ServerTlsMode::Passthrough | ServerTlsMode::Simple | ServerTlsMode::Mutual => {}
    }
    let files = "names a file; certificates are taken from Secrets by credentialName";
    for (field, given) in [
        ("serverCertificate", &tls.server_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ] {
        if !given.is_empty() {
            found.tell(format!("{at}.{field}"), files);
        }
    }
    found.if_set(format!("{at}.caCrl"), !tls.ca_crl.is_empty());
    found.if_set(format!("{at}.credentialNames"), tls.credential_names.len() > 1);
    found.if_set(format!("{at}.tlsCertificates"), !tls.tls_certificates.is_empty());
    found.if_set(format!("{at}.subjectAltNames"), !tls.subject_alt_names.is_empty());
    found.if_set(format!("{at}.verifyCertificateSpki"), !tls.verify_certificate_spki.is_empty());
    found.if_set(format!("{at}.verifyCertificateHash"), !tls.verify_certificate_hash.is_empty());
    found.if_set(format!("{at}.cipherSuites"), !tls.cipher_suites.is_empty());
    found.if_set(format!("{at}.insecureSkipVerify"), tls.insecure_skip_verify == Some(true));
    let older = |version| matches!(version, TlsProtocol::V1_0 | TlsProtocol::V1_1);
    if older(tls.min_protocol_version) || older(tls.max_protocol_version) {
        found.tell(format!("{at}.minProtocolVersion"), "is not supported below TLS 1.2");
    }
}
