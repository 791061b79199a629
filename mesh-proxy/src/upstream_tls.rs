//! TLS towards endpoints: what a cluster's context says, made into the library's configuration once. Used by the pool when it dials; never
//! for connections of clients.

mod sds;

use crate::core::matching::StringMatch;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
pub use sds::Sds;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Envoy's words for a cluster of which a Secret has not come.
pub const NO_SECRET: &str = "Secret is not supplied by SDS";

/// Who the proxy is, and whom it believes.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Chain and key that the endpoint may ask for.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// Who may have signed the endpoint's. `None`: anybody, as in Envoy.
    pub authorities: Option<Arc<RootCertStore>>,
}

impl Credentials {
    /// Would a handshake be the same?
    #[must_use]
    pub fn are(&self, other: &Self) -> bool {
        fn same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
            match (one, other) {
                (None, None) => true,
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => false,
            }
        }
        same(self.certificate.as_ref(), other.certificate.as_ref()) && same(self.authorities.as_ref(), other.authorities.as_ref())
    }
}

/// What a cluster says of TLS besides.
#[derive(Debug)]
pub struct Material {
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
#[derive(Clone, Debug)]
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
    /// `None` without the Secrets: nothing is dialled.
    configs: Option<[Arc<ClientConfig>; 4]>,
    sni: Option<String>,
    auto_sni: bool,
    /// Two are the same if they came from the same message and the same files.
    key: Vec<u8>,
    /// A hash of it.
    id: u64,
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
    /// `key` is what it comes from.
    ///
    /// # Errors
    /// If the library does not take the versions.
    pub fn new(material: &Material, credentials: Credentials, key: Vec<u8>) -> Result<Self, String> {
        let Material { accept_untrusted, names, name_is_checked, alpn, versions, .. } = material;
        let provider = Arc::new(ring::default_provider());
        let roots = credentials.authorities.filter(|_| !accept_untrusted);
        let verifier =
            Verifier { provider: Arc::clone(&provider), roots, names: names.clone(), name_is_checked: *name_is_checked };
        let enabled = [(versions.0, &rustls::version::TLS12), (versions.1, &rustls::version::TLS13)];
        let enabled: Vec<_> = enabled.into_iter().filter(|(enabled, _)| *enabled).map(|(_, version)| version).collect();
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&enabled)
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match credentials.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate))),
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
        Ok(Self::with(material, Some(configs), key))
    }

    fn with(material: &Material, configs: Option<[Arc<ClientConfig>; 4]>, key: Vec<u8>) -> Self {
        let mut hasher = DefaultHasher::new();
        (&key, material.auto_sni).hash(&mut hasher);
        Self { configs, sni: material.sni.clone(), auto_sni: material.auto_sni, key, id: hasher.finish() }
    }

    /// See [`crate::config::PoolSettings::tls_id`].
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Can hands be shaken? Not while a Secret is missing.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.configs.is_some()
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
        let configs = self.configs.as_ref().ok_or_else(|| std::io::Error::other(NO_SECRET))?;
        let config = match inside {
            Inside::Http1 => &configs[0],
            Inside::Http2 => &configs[1],
            Inside::Either => &configs[2],
            Inside::Bytes => &configs[3],
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

/// As Envoy: the chain against the authorities, if there are any; names as the context says, not as the library would.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    roots: Option<Arc<RootCertStore>>,
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
