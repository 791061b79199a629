//! An authority made for this run, and what it certifies: backends that speak TLS, and proxies as their clients.

use super::fields::inline;
use crate::world::any;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::Any;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::sync::Arc;

/// The name that backends are certified for, and asked for.
const NAME: &str = "backend.test";

/// See the module.
pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Certificates {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        // Not the authority's, or Envoy takes the certificate for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).expect("signed"), key)
    }

    /// For a backend; `mutual`: its clients must show a certificate.
    pub fn server(&self, mutual: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.der.clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = self.issue(NAME);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).expect("a pair"))
    }

    /// For a cluster: SIMPLE, or MUTUAL.
    pub fn client(&self, mutual: bool) -> core::TransportSocket {
        let context = tls::CertificateValidationContext { trusted_ca: Some(inline(&self.pem)), ..Default::default() };
        let mut common = tls::CommonTlsContext {
            validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(context)),
            ..Default::default()
        };
        if mutual {
            let (certificate, key) = self.issue("proxy.test");
            common.tls_certificates = vec![tls::TlsCertificate {
                certificate_chain: Some(inline(&certificate.pem())),
                private_key: Some(inline(&key.serialize_pem())),
                ..Default::default()
            }];
        }
        let context = tls::UpstreamTlsContext { sni: NAME.to_owned(), common_tls_context: Some(common), ..Default::default() };
        socket("envoy.transport_sockets.tls", any(&context))
    }
}

/// DISABLE.
pub fn plain() -> core::TransportSocket {
    socket("envoy.transport_sockets.raw_buffer", any(&RawBuffer {}))
}

fn socket(name: &str, config: Any) -> core::TransportSocket {
    let config_type = Some(core::transport_socket::ConfigType::TypedConfig(config));
    core::TransportSocket { name: name.to_owned(), config_type }
}
