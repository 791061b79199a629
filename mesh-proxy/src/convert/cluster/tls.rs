//! `transport_socket`: plain, or TLS with certificates that are in the message, in a file, or come as Secrets. Files are read here, once, as
//! in Envoy.

use crate::convert::at::{At, Invalid};
use crate::convert::common::{string, unpack};
use crate::convert::tls::{Source, certified, sds, trusted};
use crate::upstream_tls::{Credentials, Material, San, SanKind, Sds, UpstreamTls};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use prost::Message;
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use std::mem::take;
use std::sync::Arc;

const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
const RAW: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
/// Files of certificates are a few KiB; this keeps a wrong name from filling the memory.
const FILE: u64 = 1024 * 1024;

/// Names taken from each request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Names {
    /// SNI is the request's host.
    pub(super) auto_sni: bool,
    /// The certificate must be for the request's host.
    pub(super) auto_san: bool,
}

/// TLS of a cluster.
pub(super) enum Tls {
    /// All of it is here.
    Ready(UpstreamTls),
    /// It waits for Secrets.
    Sds(Sds),
}

/// A context as it is read.
#[derive(Default)]
struct Context {
    material: Material,
    certificate: Option<Source<CertifiedKey>>,
    authorities: Option<Source<RootCertStore>>,
    /// What was read of files, which may change where the message does not.
    read: Vec<u8>,
}

pub(super) fn transport_socket(at: &At<'_>, socket: core::TransportSocket, names: Names) -> Result<Option<Tls>, Invalid> {
    use core::transport_socket::ConfigType;
    let at = at.field("typed_config");
    let Some(ConfigType::TypedConfig(any)) = socket.config_type else {
        return if socket.name == "envoy.transport_sockets.raw_buffer" { Ok(None) } else { Err(at.missing()) };
    };
    if any.type_url.ends_with(RAW) {
        return Ok(None);
    }
    let message: tls::UpstreamTlsContext = unpack(&at, &any, TLS)?;
    let Context { material, certificate, authorities, read } = context(&at, message.clone(), names)?;
    let mut key = message.encode_to_vec();
    key.extend(read);
    key.push(u8::from(material.name_is_checked));
    let credentials = match (certificate, authorities) {
        (None, None) => Credentials::default(),
        (None, Some(Source::Inline(roots))) => Credentials { certificate: None, authorities: Some(roots) },
        (Some(Source::Inline(own)), None) => Credentials { certificate: Some(own), authorities: None },
        (Some(Source::Inline(own)), Some(Source::Inline(roots))) => {
            Credentials { certificate: Some(own), authorities: Some(roots) }
        }
        (certificate, authorities) => return Ok(Some(Tls::Sds(Sds { material, certificate, authorities, key }))),
    };
    UpstreamTls::new(&material, credentials, key).map(|tls| Some(Tls::Ready(tls))).map_err(|error| at.value(error))
}

fn context(at: &At<'_>, mut message: tls::UpstreamTlsContext, names: Names) -> Result<Context, Invalid> {
    let mut context = Context {
        material: Material { auto_sni: names.auto_sni, name_is_checked: names.auto_san, ..Material::default() },
        ..Context::default()
    };
    let material = &mut context.material;
    material.sni = Some(take(&mut message.sni)).filter(|sni| !sni.is_empty());
    material.name_is_checked |= take(&mut message.auto_sni_san_validation);
    // Resumption is the library's; renegotiation is not in TLS 1.3 and not done in 1.2.
    message.max_session_keys = None;
    let common = message.common_tls_context.take();
    at.nothing_else(&message)?;
    let Some(mut common) = common else { return Ok(context) };
    let at = at.field("common_tls_context");
    material.alpn = take(&mut common.alpn_protocols);
    if let Some(mut params) = common.tls_params.take() {
        let at = at.field("tls_params");
        material.versions = versions(&at, &mut params)?;
        at.nothing_else(&params)?;
    }
    shown(&at, &mut common, &mut context)?;
    believed(&at, &mut common, &mut context)?;
    at.nothing_else(&common)?;
    let (material, at) = (&context.material, at.field("validation_context.trusted_ca"));
    let checked = material.name_is_checked || !(material.names.is_empty() || material.accept_untrusted);
    if checked && context.authorities.is_none() {
        return Err(at.value("missing, but names are to be checked"));
    }
    Ok(context)
}

/// The certificate that the proxy shows.
fn shown(at: &At<'_>, common: &mut tls::CommonTlsContext, context: &mut Context) -> Result<(), Invalid> {
    let (inline, named) = (take(&mut common.tls_certificates), take(&mut common.tls_certificate_sds_secret_configs));
    let at_named = at.field("tls_certificate_sds_secret_configs");
    let at = at.field("tls_certificates");
    if inline.len() + named.len() > 1 {
        return Err(if inline.is_empty() { at_named } else { at }.value("only one is supported"));
    }
    if let Some(config) = named.into_iter().next() {
        context.certificate = Some(sds(&at_named.index(0), config)?);
    }
    if let Some(certificate) = inline.into_iter().next() {
        let at = at.index(0);
        let (chain, key) = pair(&at, certificate)?;
        context.certificate = Some(Source::Inline(Arc::new(certified(&at, &chain, &key)?)));
        context.read.extend([chain, key].concat());
    }
    Ok(())
}

/// Whom the proxy believes.
fn believed(at: &At<'_>, common: &mut tls::CommonTlsContext, context: &mut Context) -> Result<(), Invalid> {
    use tls::common_tls_context::ValidationContextType as Validation;
    match common.validation_context_type.take() {
        None => Ok(()),
        Some(Validation::ValidationContext(given)) => validation(&at.field("validation_context"), given, context),
        Some(Validation::ValidationContextSdsSecretConfig(config)) => {
            context.authorities = Some(sds(&at.field("validation_context_sds_secret_config"), config)?);
            Ok(())
        }
        Some(Validation::CombinedValidationContext(mut combined)) => {
            let at = at.field("combined_validation_context");
            if let Some(default) = combined.default_validation_context.take() {
                let at = at.field("default_validation_context");
                if default.trusted_ca.is_some() {
                    return Err(at.field("trusted_ca").unsupported());
                }
                validation(&at, default, context)?;
            }
            let at_config = at.field("validation_context_sds_secret_config");
            let config = at_config.required(combined.validation_context_sds_secret_config.take())?;
            at.nothing_else(&combined)?;
            context.authorities = Some(sds(&at_config, config)?);
            Ok(())
        }
        Some(_) => Err(at.field("validation_context_certificate_provider").unsupported()),
    }
}

/// `(1.2, 1.3)`.
fn versions(at: &At<'_>, params: &mut tls::TlsParameters) -> Result<(bool, bool), Invalid> {
    use tls::tls_parameters::TlsProtocol as Version;
    let min = Version::try_from(take(&mut params.tls_minimum_protocol_version)).ok();
    let max = Version::try_from(take(&mut params.tls_maximum_protocol_version)).ok();
    match (min, max) {
        (Some(Version::TlsAuto | Version::TlSv12), Some(Version::TlsAuto | Version::TlSv13)) => Ok((true, true)),
        (Some(Version::TlsAuto | Version::TlSv12), Some(Version::TlSv12)) => Ok((true, false)),
        (Some(Version::TlSv13), Some(Version::TlsAuto | Version::TlSv13)) => Ok((false, true)),
        _ => Err(at.field("tls_minimum_protocol_version").value("only TLS 1.2 and 1.3 are supported")),
    }
}

fn pair(at: &At<'_>, mut message: tls::TlsCertificate) -> Result<(Vec<u8>, Vec<u8>), Invalid> {
    let chain = at.field("certificate_chain");
    let chain = source(&chain, chain.required(message.certificate_chain.take())?)?;
    let key = at.field("private_key");
    let key = source(&key, key.required(message.private_key.take())?)?;
    at.nothing_else(&message)?;
    Ok((chain, key))
}

fn validation(at: &At<'_>, mut message: tls::CertificateValidationContext, context: &mut Context) -> Result<(), Invalid> {
    use tls::certificate_validation_context::TrustChainVerification;
    use tls::subject_alt_name_matcher::SanType;
    if let Some(authorities) = message.trusted_ca.take() {
        let at = at.field("trusted_ca");
        let bytes = source(&at, authorities)?;
        context.authorities = Some(Source::Inline(Arc::new(trusted(&at, &bytes)?)));
        context.read.extend(bytes);
    }
    let material = &mut context.material;
    for (index, mut san) in take(&mut message.match_typed_subject_alt_names).into_iter().enumerate() {
        let at = at.field("match_typed_subject_alt_names");
        let at = at.index(index);
        let kind = match SanType::try_from(take(&mut san.san_type)) {
            Ok(SanType::Dns) => SanKind::Dns,
            Ok(SanType::Uri) => SanKind::Uri,
            _ => return Err(at.field("san_type").value("only DNS and URI are supported")),
        };
        let at_matcher = at.field("matcher");
        let value = string(&at_matcher, at_matcher.required(san.matcher.take())?)?;
        at.nothing_else(&san)?;
        material.names.push(San { kind, value });
    }
    if message.trust_chain_verification == TrustChainVerification::AcceptUntrusted as i32 {
        message.trust_chain_verification = 0;
        material.accept_untrusted = true;
    }
    // Nothing is told to clients here.
    message.suppress_client_ca_list = false;
    at.nothing_else(&message)
}

/// What is in the message or in the file that it names.
fn source(at: &At<'_>, source: core::DataSource) -> Result<Vec<u8>, Invalid> {
    use core::data_source::Specifier;
    if source.watched_directory.is_some() {
        return Err(at.field("watched_directory").unsupported());
    }
    match source.specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes),
        Some(Specifier::InlineString(text)) => Ok(text.into_bytes()),
        Some(Specifier::Filename(name)) => {
            let at = at.field("filename");
            let file = std::fs::metadata(&name).map_err(|error| at.value(format_args!("{name}: {error}")))?;
            // A device has no end and a pipe no writer, whatever length they say they have.
            if !file.is_file() {
                return Err(at.value(format_args!("{name} is no regular file")));
            }
            let length = file.len();
            if length > FILE {
                return Err(at.value(format_args!("{name}: {length} bytes are more than {FILE}")));
            }
            std::fs::read(&name).map_err(|error| at.value(format_args!("{name}: {error}")))
        }
        Some(Specifier::EnvironmentVariable(_)) => Err(at.field("environment_variable").unsupported()),
        None => Err(at.missing()),
    }
}
