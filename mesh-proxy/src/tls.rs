//! From what the control plane said about TLS to what a handshake runs with. No I/O; certificates were read at conversion.

use crate::convert::tls::{Downstream, Secret, Source, Versions};
use rustls::crypto::ring::default_provider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A filter chain's TLS with every Secret found. Equal ones share a [`ServerConfig`], and with it the tickets of resumed sessions.
#[derive(Clone, Debug)]
pub struct Resolved {
    spec: Arc<Downstream>,
    certificate: Arc<CertifiedKey>,
    clients: Option<Arc<RootCertStore>>,
}

impl Resolved {
    /// Finds the Secrets; `None` while one is missing or holds something else.
    #[must_use]
    pub fn new(spec: &Arc<Downstream>, secrets: &BTreeMap<String, Secret>) -> Option<Self> {
        let certificate = match &spec.certificate {
            Source::Inline(certificate) => Arc::clone(certificate),
            Source::Named(name) => match secrets.get(name)? {
                Secret::Certificate(certificate) => Arc::clone(certificate),
                Secret::Roots(_) => return None,
            },
        };
        let clients = match &spec.clients {
            None => None,
            Some(Source::Inline(roots)) => Some(Arc::clone(roots)),
            Some(Source::Named(name)) => match secrets.get(name)? {
                Secret::Roots(roots) => Some(Arc::clone(roots)),
                Secret::Certificate(_) => return None,
            },
        };
        Some(Self { spec: Arc::clone(spec), certificate, clients })
    }

    /// Would a handshake be the same?
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let clients = match (&self.clients, &other.clients) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        };
        Arc::ptr_eq(&self.spec, &other.spec) && Arc::ptr_eq(&self.certificate, &other.certificate) && clients
    }

    /// What a handshake runs with.
    ///
    /// # Errors
    /// If rustls refuses the authorities.
    pub fn server(&self) -> Result<Arc<ServerConfig>, String> {
        let provider = Arc::new(default_provider());
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions(self.spec.versions));
        let builder = builder.map_err(|error| error.to_string())?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider);
                let verifier = if self.spec.require_client { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Only(Arc::clone(&self.certificate))));
        config.alpn_protocols.clone_from(&self.spec.alpn);
        Ok(Arc::new(config))
    }
}

fn versions(allowed: Versions) -> &'static [&'static SupportedProtocolVersion] {
    use rustls::version::{TLS12, TLS13};
    static BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
    match allowed {
        Versions { v12: true, v13: true } => BOTH,
        Versions { v12: true, .. } => &BOTH[1..],
        Versions { .. } => &BOTH[..1],
    }
}

/// The chain was chosen by the server name already: there is one certificate, whatever the name.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
