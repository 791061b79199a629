//! TLS: DownstreamTlsContext and Secret. Certificates and keys are read here, so that bad ones are refused by name and never in force.

use super::at::{At, Invalid};
use super::common::{over_ads, unpack};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::mem::take;
use std::sync::Arc;

const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
/// Largest certificate chain, key or list of authorities, as PEM: ten times a public root store's usual share of one service.
const PEM_BYTES: usize = 1024 * 1024;

/// Something that is in the resource or comes as a Secret.
#[derive(Clone, Debug)]
pub enum Source<T> {
    /// Here.
    Inline(Arc<T>),
    /// In the Secret of this name.
    Named(String),
}

impl<T> Source<T> {
    /// Of the Secret.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Inline(_) => None,
            Self::Named(name) => Some(name),
        }
    }
}

/// What a Secret holds.
#[derive(Clone, Debug)]
pub enum Secret {
    /// A chain and its key.
    Certificate(Arc<CertifiedKey>),
    /// Authorities.
    Roots(Arc<RootCertStore>),
}

/// A range of protocol versions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Versions {
    /// TLS 1.2 is allowed.
    pub v12: bool,
    /// TLS 1.3 is allowed.
    pub v13: bool,
}

/// How TLS ends at a filter chain.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// What the server shows.
    pub certificate: Source<CertifiedKey>,
    /// Who signs clients' certificates; `None`: clients are not asked for any.
    pub clients: Option<Source<RootCertStore>>,
    /// A client without a certificate is refused.
    pub require_client: bool,
    /// In the server's order.
    pub alpn: Vec<Vec<u8>>,
    /// Protocol versions.
    pub versions: Versions,
}

impl Downstream {
    /// Names of the Secrets that it waits for.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let certificate = self.certificate.name();
        let clients = self.clients.as_ref().and_then(Source::name);
        certificate.into_iter().chain(clients)
    }
}

/// Reads a transport socket of a filter chain; `None`: plain text.
pub(super) fn downstream(at: &At<'_>, socket: core::TransportSocket) -> Result<Option<Downstream>, Invalid> {
    let at = at.field("typed_config");
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = socket.config_type else { return Err(at.missing()) };
    if any.type_url.rsplit('/').next() == Some(RAW_BUFFER) {
        return Ok(None);
    }
    let mut message: pb::DownstreamTlsContext = unpack(&at, &any, DOWNSTREAM)?;
    let require_client = message.require_client_certificate.take().is_some_and(|require| require.value);
    let mut common = at.field("common_tls_context").required(message.common_tls_context.take())?;
    at.nothing_else(&message)?;
    let at = at.field("common_tls_context");
    let versions = versions(&at.field("tls_params"), common.tls_params.take())?;
    let certificate = certificate_source(&at, &mut common)?.ok_or_else(|| at.field("tls_certificates").missing())?;
    let clients = validation(&at, &mut common)?;
    if require_client && clients.is_none() {
        return Err(at.field("validation_context").missing());
    }
    let alpn = take(&mut common.alpn_protocols).into_iter().map(String::into_bytes).collect();
    at.nothing_else(&common)?;
    Ok(Some(Downstream { certificate, clients, require_client, alpn, versions }))
}

/// Reads a Secret.
///
/// # Errors
/// Names the field that is not taken, without its content.
pub fn secret(at: &At<'_>, message: pb::Secret) -> Result<Secret, Invalid> {
    use pb::secret::Type;
    match at.field("type").required(message.r#type)? {
        Type::TlsCertificate(message) => Ok(Secret::Certificate(Arc::new(certificate(&at.field("tls_certificate"), message)?))),
        Type::ValidationContext(message) => {
            roots(&at.field("validation_context"), message).map(|roots| Secret::Roots(Arc::new(roots)))
        }
        Type::SessionTicketKeys(_) => Err(at.field("session_ticket_keys").unsupported()),
        Type::GenericSecret(_) => Err(at.field("generic_secret").unsupported()),
    }
}

/// The one certificate of a context, if it has any.
pub(super) fn certificate_source(
    at: &At<'_>,
    common: &mut pb::CommonTlsContext,
) -> Result<Option<Source<CertifiedKey>>, Invalid> {
    let inline = take(&mut common.tls_certificates);
    let named = take(&mut common.tls_certificate_sds_secret_configs);
    let many = inline.len() + named.len();
    if many > 1 {
        let at = at.field(if inline.is_empty() { "tls_certificate_sds_secret_configs" } else { "tls_certificates" });
        return Err(at.value(format_args!("{many} certificates; one is supported (a filter chain for each server name)")));
    }
    if let Some(message) = inline.into_iter().next() {
        let certificate = certificate(&at.field("tls_certificates").index(0), message)?;
        return Ok(Some(Source::Inline(Arc::new(certificate))));
    }
    let at = at.field("tls_certificate_sds_secret_configs");
    named.into_iter().next().map(|config| sds(&at.index(0), config)).transpose()
}

/// Who signs the peer's certificate, if it is checked.
pub(super) fn validation(at: &At<'_>, common: &mut pb::CommonTlsContext) -> Result<Option<Source<RootCertStore>>, Invalid> {
    use pb::common_tls_context::ValidationContextType as Type;
    match common.validation_context_type.take() {
        None => Ok(None),
        Some(Type::ValidationContext(message)) => {
            Ok(Some(Source::Inline(Arc::new(roots(&at.field("validation_context"), message)?))))
        }
        Some(Type::ValidationContextSdsSecretConfig(config)) => {
            sds(&at.field("validation_context_sds_secret_config"), config).map(Some)
        }
        Some(Type::CombinedValidationContext(mut combined)) => {
            let at = at.field("combined_validation_context");
            if let Some(default) = combined.default_validation_context.take() {
                at.field("default_validation_context").nothing_else(&default)?;
            }
            let config = combined.validation_context_sds_secret_config.take();
            let config = at.field("validation_context_sds_secret_config").required(config)?;
            at.nothing_else(&combined)?;
            sds(&at.field("validation_context_sds_secret_config"), config).map(Some)
        }
        Some(_) => Err(at.field("validation_context_type").unsupported()),
    }
}

pub(super) fn sds<T>(at: &At<'_>, config: pb::SdsSecretConfig) -> Result<Source<T>, Invalid> {
    over_ads(&at.field("sds_config"), config.sds_config)?;
    if config.name.is_empty() { Err(at.field("name").missing()) } else { Ok(Source::Named(config.name)) }
}

fn versions(at: &At<'_>, message: Option<pb::TlsParameters>) -> Result<Versions, Invalid> {
    use pb::tls_parameters::TlsProtocol::{TlSv12, TlSv13, TlsAuto};
    let Some(mut message) = message else { return Ok(Versions { v12: true, v13: true }) };
    let known = |field: &str, version: i32| match version {
        version if version == TlsAuto as i32 => Ok(None),
        version if version == TlSv12 as i32 => Ok(Some(12)),
        version if version == TlSv13 as i32 => Ok(Some(13)),
        _ => Err(at.field(field).value("not TLSv1_2, TLSv1_3 or TLS_AUTO")),
    };
    let lowest = known("tls_minimum_protocol_version", take(&mut message.tls_minimum_protocol_version))?.unwrap_or(12);
    let highest = known("tls_maximum_protocol_version", take(&mut message.tls_maximum_protocol_version))?.unwrap_or(13);
    at.nothing_else(&message)?;
    if lowest > highest {
        return Err(at.value("the minimum is above the maximum"));
    }
    Ok(Versions { v12: lowest == 12, v13: highest == 13 })
}

fn certificate(at: &At<'_>, mut message: pb::TlsCertificate) -> Result<CertifiedKey, Invalid> {
    let chain = pem(&at.field("certificate_chain"), message.certificate_chain.take())?;
    let key = pem(&at.field("private_key"), message.private_key.take())?;
    at.nothing_else(&message)?;
    certified(at, &chain, &key)
}

/// A certificate of which chain and key are there, as PEM.
pub(super) fn certified(at: &At<'_>, chain: &[u8], key: &[u8]) -> Result<CertifiedKey, Invalid> {
    let at_chain = at.field("certificate_chain");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| at_chain.value(format_args!("not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(at_chain.value("no certificate in it"));
    }
    let at_key = at.field("private_key");
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_secret| at_key.value("no private key as PEM"))?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| at.value(error))
}

fn roots(at: &At<'_>, mut message: pb::CertificateValidationContext) -> Result<RootCertStore, Invalid> {
    let at_ca = at.field("trusted_ca");
    let bytes = pem(&at_ca, message.trusted_ca.take())?;
    at.nothing_else(&message)?;
    trusted(&at_ca, &bytes)
}

/// Authorities as PEM.
pub(super) fn trusted(at: &At<'_>, bytes: &[u8]) -> Result<RootCertStore, Invalid> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        let certificate = certificate.map_err(|error| at.value(format_args!("not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| at.value(error))?;
    }
    if roots.is_empty() { Err(at.value("no certificate in it")) } else { Ok(roots) }
}

/// The bytes of a source. Files of the node are not read: this process may not even see them, and who writes resources is not who owns them.
fn pem(at: &At<'_>, source: Option<core::DataSource>) -> Result<Vec<u8>, Invalid> {
    use core::data_source::Specifier;
    let mut source = at.required(source)?;
    let bytes = match at.required(source.specifier.take())? {
        Specifier::InlineBytes(bytes) => bytes,
        Specifier::InlineString(text) => text.into_bytes(),
        Specifier::Filename(_) => return Err(at.field("filename").unsupported()),
        Specifier::EnvironmentVariable(_) => return Err(at.field("environment_variable").unsupported()),
    };
    at.nothing_else(&source)?;
    if bytes.len() > PEM_BYTES { Err(at.value(format_args!("more than {PEM_BYTES} bytes"))) } else { Ok(bytes) }
}
