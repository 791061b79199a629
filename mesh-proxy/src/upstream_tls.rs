//! TLS towards endpoints: what a cluster's context says, made into the library's configuration once. Used by the pool when it dials; never
//! for connections of clients.

use crate::core::matching::StringMatch;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What a cluster says of TLS.
#[derive(Debug)]
pub struct Material {
    /// PEM: chain and key that the endpoint may ask for.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// PEM: who may have signed the endpoint's. `None`: anybody, as in Envoy.
    pub authorities: Option<Vec<u8>>,
    /// The chain is not checked.
    pub accept_untrusted: bool,
    /// The certificate must carry one of them; empty: any.
    pub names: Vec<San>,
    /// The certificate must be for the server name.
    pub name_is_checked: bool,
    /// SNI.
    pub sni: Option<String>,
    /// SNI is the request's host.
    pub auto_sni: bool,
    /// Offered; empty: what the protocol needs.
    pub alpn: Vec<String>,
    /// TLS 1.2 and 1.3.
    pub versions: (bool, bool),
}

impl Default for Material {
    fn default() -> Self {
        Self {
            certificate: None,
            authorities: None,
            accept_untrusted: false,
            names: Vec::new(),
            name_is_checked: false,
            sni: None,
            auto_sni: false,
            alpn: Vec::new(),
            versions: (true, true),
        }
    }
}

/// A subject alternative name.
#[derive(Debug)]
pub struct San {
    /// Of this kind.
    pub kind: SanKind,
    /// Like this.
    pub value: StringMatch,
}

/// Kinds of names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SanKind {
    /// A host.
    Dns,
    /// A URI, such as a SPIFFE identity.
    Uri,
}

/// Which protocols may be spoken inside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inside {
    /// Only this.
    Http1,
    /// Only this.
    Http2,
    /// What the endpoint prefers.
    Either,
    /// No HTTP.
    Bytes,
}

/// TLS of a cluster, ready for use.
pub struct UpstreamTls {
    configs: [Arc<ClientConfig>; 4],
    sni: Option<String>,
    auto_sni: bool,
    /// Two are the same if they came from the same message and the same files.
    key: Vec<u8>,
}

impl PartialEq for UpstreamTls {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.auto_sni == other.auto_sni
    }
}

impl fmt::Debug for UpstreamTls {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("sni", &self.sni).field("auto_sni", &self.auto_sni).finish_non_exhaustive()
    }
}

impl UpstreamTls {
    /// `key` is the message that it comes from.
    ///
    /// # Errors
    /// If a certificate or key cannot be used.
    pub fn new(material: Material, mut key: Vec<u8>) -> Result<Self, String> {
        let Material { certificate, authorities, accept_untrusted, names, name_is_checked, sni, auto_sni, alpn, versions } =
            material;
        let provider = Arc::new(ring::default_provider());
        // A file may have changed where the message has not.
        key.extend(authorities.iter().chain(certificate.iter().flat_map(|(chain, key)| [chain, key])).flatten());
        key.push(u8::from(name_is_checked));
        let roots = match authorities {
            Some(pem) if !accept_untrusted => Some(roots(&pem)?),
            _ => None,
        };
        let verifier = Verifier { provider: Arc::clone(&provider), roots, names, name_is_checked };
        let enabled = [(versions.0, &rustls::version::TLS12), (versions.1, &rustls::version::TLS13)];
        let enabled: Vec<_> = enabled.into_iter().filter(|(enabled, _)| *enabled).map(|(_, version)| version).collect();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&enabled)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some((chain, private)) => {
                let private = PrivateKeyDer::from_pem_slice(&private).map_err(|error| format!("private_key: {error}"))?;
                let chain = certificates(&chain).map_err(|error| format!("certificate_chain: {error}"))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| format!("certificate: {error}"))?
            }
        };
        let offering = |protocols: &[&str]| {
            let mut config = config.clone();
            config.alpn_protocols = if alpn.is_empty() {
                protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
            } else {
                alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect()
            };
            Arc::new(config)
        };
        let configs = [offering(&["http/1.1"]), offering(&["h2"]), offering(&["h2", "http/1.1"]), offering(&[])];
        Ok(Self { configs, sni, auto_sni, key })
    }

    /// The server name for a request: connections made for different names are kept apart.
    #[must_use]
    pub fn server_name(&self, authority: &str) -> Option<Arc<str>> {
        if !self.auto_sni {
            return self.sni.as_deref().map(Arc::from);
        }
        Some(Arc::from(host(authority)))
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// If the endpoint's certificate is not accepted, or the connection ends.
    pub async fn connect(
        &self,
        stream: TcpStream,
        inside: Inside,
        name: Option<&str>,
        address: IpAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = match inside {
            Inside::Http1 => &self.configs[0],
            Inside::Http2 => &self.configs[1],
            Inside::Either => &self.configs[2],
            Inside::Bytes => &self.configs[3],
        };
        // Without a name no SNI is sent.
        let name = name.and_then(|name| ServerName::try_from(name.to_owned()).ok()).unwrap_or_else(|| address.into());
        tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, stream).await
    }
}

/// Without port and brackets.
fn host(authority: &str) -> &str {
    let end = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => colon,
        _ => authority.len(),
    };
    authority[..end].trim_start_matches('[').trim_end_matches(']')
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| error.to_string())?;
    if found.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(found) }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(|error| format!("trusted_ca: {error}"))? {
        roots.add(certificate).map_err(|error| format!("trusted_ca: {error}"))?;
    }
    Ok(roots)
}

/// As Envoy: the chain against the authorities, if there are any; names as the context says, not as the library would.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    roots: Option<RootCertStore>,
    names: Vec<San>,
    name_is_checked: bool,
}

impl Verifier {
    fn has_a_name(&self, certificate: &CertificateDer<'_>) -> Result<bool, Error> {
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|_bad| CertificateError::BadEncoding)?;
        let dns = || parsed.valid_dns_names();
        Ok(self.names.iter().any(|name| match name.kind {
            SanKind::Dns => dns().any(|found| name.value.matches(found) || wildcard(found, &name.value)),
            SanKind::Uri => parsed.valid_uri_names().any(|found| name.value.matches(found)),
        }))
    }
}

/// A wildcard in the certificate stands for one label.
fn wildcard(found: &str, wanted: &StringMatch) -> bool {
    let crate::core::matching::Pattern::Exact(wanted) = &wanted.pattern else { return false };
    let parent = found.strip_prefix("*.");
    parent.is_some_and(|parent| wanted.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        }
        if self.name_is_checked {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        if !self.names.is_empty() && !self.has_a_name(end_entity)? {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::matching::Pattern;

    #[test]
    fn hosts_lose_port_and_brackets() {
        for (authority, expected) in [("a.b:80", "a.b"), ("a.b", "a.b"), ("[fd00::1]:80", "fd00::1"), ("[fd00::1]", "fd00::1")] {
            assert_eq!(host(authority), expected);
        }
    }

    #[test]
    fn a_wildcard_is_one_label() {
        let wanted = |name: &str| StringMatch::new(Pattern::Exact(name.to_owned()));
        assert!(wildcard("*.example.com", &wanted("a.example.com")));
        assert!(!wildcard("*.example.com", &wanted("a.b.example.com")));
        assert!(!wildcard("*.example.com", &wanted("example.com")));
        assert!(!wildcard("a.example.com", &wanted("a.example.com")));
    }
}
