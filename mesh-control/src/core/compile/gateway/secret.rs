//! Certificates for gateways: only those that a server names, only for the proxies that have the server.

use super::super::credentials::{AUTHORITIES, authorities, certificate};
use super::super::views::ROOT;
use super::{Bound, Making};
use crate::istio::gateway::ServerTlsSettings;
use crate::secret::{Credential, Secret};

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
        let clients =
            if mutual { Some(self.authorities(bound, settings, name, &resource, credential.authorities)?) } else { None };
        self.edge.secrets.insert(resource.clone(), certificate(&resource, pair));
        Ok((resource, clients))
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
        let trusted = apart.or(own).ok_or_else(missing)?;
        let resource = format!("{resource}{AUTHORITIES}");
        self.edge.secrets.insert(resource.clone(), authorities(&resource, trusted));
        Ok(resource)
    }

    /// The usable content of a Secret, and the name under which proxies get it.
    fn credential(&self, bound: &Bound<'_>, name: &str) -> Result<(String, Credential), String> {
        let home = bound.gateway.meta.namespace.as_str();
        let named = |namespace: &str| {
            let secret: &Secret = self.config.secrets.get(&(namespace.to_owned(), name.to_owned()))?;
            Some((format!("kubernetes-gateway://{namespace}/{name}"), secret))
        };
        let missing = || format!("{name}: there is no such Secret in {home} or {ROOT}, so the server is left out");
        let (resource, secret) = named(home).or_else(|| named(ROOT)).ok_or_else(missing)?;
        let credential = secret.credential().map_err(|why| format!("{name}: the Secret cannot be used: {why}"))?;
        Ok((resource, credential))
    }
}
