//! TLS towards endpoints whose certificates come as Secrets: what a cluster says, until they are there, and what becomes of it then.

use super::{Credentials, Material, UpstreamTls};
use crate::convert::tls::{Secret, Source};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub struct Sds {
    /// Without certificates.
    pub material: Material,
    /// What the proxy shows.
    pub certificate: Option<Source<CertifiedKey>>,
    /// Whom it believes.
    pub authorities: Option<Source<RootCertStore>>,
    /// The message that it comes from.
    pub key: Vec<u8>,
}

impl PartialEq for Sds {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.material.auto_sni == other.material.auto_sni
    }
}

impl Sds {
    /// Names of the Secrets that it waits for.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.certificate.as_ref().and_then(Source::name).into_iter().chain(self.authorities.as_ref().and_then(Source::name))
    }

    /// Finds the Secrets; `None` while one is missing or holds something else.
    #[must_use]
    pub fn find(&self, secrets: &BTreeMap<String, Secret>) -> Option<Credentials> {
        let certificate = match &self.certificate {
            None => None,
            Some(Source::Inline(certificate)) => Some(Arc::clone(certificate)),
            Some(Source::Named(name)) => match secrets.get(name)? {
                Secret::Certificate(certificate) => Some(Arc::clone(certificate)),
                Secret::Roots(_) => return None,
            },
        };
        let authorities = match &self.authorities {
            None => None,
            Some(Source::Inline(roots)) => Some(Arc::clone(roots)),
            Some(Source::Named(name)) => match secrets.get(name)? {
                Secret::Roots(roots) => Some(Arc::clone(roots)),
                Secret::Certificate(_) => return None,
            },
        };
        Some(Credentials { certificate, authorities })
    }

    /// With its Secrets.
    ///
    /// # Errors
    /// If the library does not take it.
    pub fn complete(&self, credentials: Credentials) -> Result<UpstreamTls, String> {
        UpstreamTls::new(&self.material, credentials, self.key.clone())
    }

    /// Without them: every dial fails.
    #[must_use]
    pub fn incomplete(&self) -> UpstreamTls {
        UpstreamTls::with(&self.material, None, self.key.clone())
    }
}
