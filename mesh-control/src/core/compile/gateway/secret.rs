//! Certificates for gateways: only those that a server names, only for the proxies that have the server.

use super::super::envoy::{core, versioned};
use super::{Bound, Making};
use crate::istio::gateway::ServerTlsSettings;
use crate::secret::{Credential, Secret};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

/// Where Istio's gateways run, and so where its users put certificates. Asked after the Gateway's own namespace.
const GATEWAYS: &str = "istio-system";
/// Istio's suffix of a Secret that has only authorities.
const AUTHORITIES: &str = "-cacert";

impl Making<'_, '_, '_> {
    /// Names of the certificate of a server, and of the authorities of its clients; both are then among the secrets.
    pub(super) fn credentials(
        &mut self,
        bound: &Bound<'_>,
        settings: &ServerTlsSettings,
        mutual: bool,
    ) -> Result<(String, Option<String>), String> {
        let name = Some(&settings.credential_name).filter(|name| !name.is_empty()).or_else(|| settings.credential_names.first());
        let name = name.ok_or("is missing, so the server is left out")?;
        let (resource, credential) = self.credential(bound, name)?;
        let pair = credential.pair.ok_or_else(|| format!("{name}: the Secret has no certificate, so the server is left out"))?;
        let authorities =
            if mutual { Some(self.authorities(bound, settings, name, &resource, credential.authorities)?) } else { None };
        let certificate = pb::TlsCertificate {
            certificate_chain: Some(inline(pair.0)),
            private_key: Some(inline(pair.1)),
            ..Default::default()
        };
        self.keep(&resource, pb::secret::Type::TlsCertificate(certificate));
        Ok((resource, authorities))
    }

    /// Istio's order: a Secret named for it, `NAME-cacert`, else what is in the certificate's own.
    fn authorities(
        &mut self,
        bound: &Bound<'_>,
        settings: &ServerTlsSettings,
        name: &str,
        resource: &str,
        own: Option<Vec<u8>>,
    ) -> Result<String, String> {
        let apart = match settings.ca_cert_credential_name.as_str() {
            "" => format!("{name}{AUTHORITIES}"),
            given => given.to_owned(),
        };
        let apart = self.credential(bound, &apart).ok().and_then(|(_, credential)| credential.authorities);
        let missing = || format!("{name}: neither the Secret nor {name}{AUTHORITIES} has ca.crt, so the server is left out");
        let trusted_ca = Some(inline(apart.or(own).ok_or_else(missing)?));
        let resource = format!("{resource}{AUTHORITIES}");
        let context = pb::CertificateValidationContext { trusted_ca, ..Default::default() };
        self.keep(&resource, pb::secret::Type::ValidationContext(context));
        Ok(resource)
    }

    /// The usable content of a Secret, and the name under which proxies get it.
    fn credential(&self, bound: &Bound<'_>, name: &str) -> Result<(String, Credential), String> {
        let home = bound.gateway.meta.namespace.as_str();
        let named = |namespace: &str| {
            let secret: &Secret = self.config.secrets.get(&(namespace.to_owned(), name.to_owned()))?;
            Some((format!("kubernetes-gateway://{namespace}/{name}"), secret))
        };
        let missing = || format!("{name}: there is no such Secret in {home} or {GATEWAYS}, so the server is left out");
        let (resource, secret) = named(home).or_else(|| named(GATEWAYS)).ok_or_else(missing)?;
        let credential = secret.credential().map_err(|why| format!("{name}: the Secret cannot be used: {why}"))?;
        Ok((resource, credential))
    }

    fn keep(&mut self, name: &str, content: pb::secret::Type) {
        let secret = pb::Secret { name: name.to_owned(), r#type: Some(content) };
        self.edge.secrets.insert(name.to_owned(), versioned(&secret));
    }
}

fn inline(bytes: Vec<u8>) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::InlineBytes(bytes)), ..Default::default() }
}
