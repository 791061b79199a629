//! `Secret` of Kubernetes' core group: what kubectl writes, and the certificates in it.
//!
//! The API admits an object by reading it here, the compiler takes certificates from the same. What is in a secret is never in a message,
//! a log line or the output of `Debug`: problems name the key.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use crate::istio::problem::{Path, Problems};

/// The most that the values may have together. Certificates have a few KiB; the object, base64 and kubectl's copy of it in an annotation
/// included, must stay below the store's limit.
pub(crate) const MAX_DATA_BYTES: usize = 64 * 1024;
/// The most keys.
const MAX_KEYS: usize = 64;
/// Kubernetes' type of a certificate with its key.
pub(crate) const TLS: &str = "kubernetes.io/tls";
/// The type where none is given.
pub(crate) const OPAQUE: &str = "Opaque";

/// A secret with its values decoded.
#[derive(Clone, Default, Eq, PartialEq)]
pub(crate) struct Secret {
    data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.data.keys()).finish()
    }
}

/// A chain of certificates and the key of the first, in PEM.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// What a server shows and what it believes.
#[derive(Clone, Eq, PartialEq)]
pub(crate) struct Credential {
    /// PEM: the chain, and its key.
    pub(crate) pair: Option<Pair>,
    /// PEM: whose clients are believed.
    pub(crate) authorities: Option<Vec<u8>>,
}

/// The object in the form in which it is kept: `stringData` is written into `data`, the type is filled in.
pub(crate) fn normal(object: &Value) -> Value {
    let mut data = object["data"].as_object().cloned().unwrap_or_default();
    for (key, value) in object["stringData"].as_object().into_iter().flatten() {
        data.insert(key.clone(), json!(BASE64_STANDARD.encode(value.as_str().unwrap_or_default())));
    }
    let kind = object["type"].as_str().filter(|kind| !kind.is_empty()).unwrap_or(OPAQUE);
    let mut normal = json!({ "data": data, "type": kind });
    if object["immutable"] == true {
        normal["immutable"] = json!(true);
    }
    normal
}

impl Secret {
    /// Reads an object.
    ///
    /// # Errors
    /// With everything that is wrong, naming keys, never values.
    pub(crate) fn read(object: &Value) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut secret = Self::default();
        let (data, strings) = (Path::root("data"), Path::root("stringData"));
        for (field, at, encoded) in [("data", data, true), ("stringData", strings, false)] {
            match &object[field] {
                Value::Null => {}
                Value::Object(entries) => secret.take(entries, &at, encoded, &mut problems),
                other => problems.wrong_type(&at, "object", other),
            }
        }
        for (field, wanted, wrong) in [
            ("type", "string", !(object["type"].is_null() || object["type"].is_string())),
            ("immutable", "boolean", !(object["immutable"].is_null() || object["immutable"].is_boolean())),
        ] {
            if wrong {
                problems.wrong_type(&Path::root(field), wanted, &object[field]);
            }
        }
        let bytes: usize = secret.data.values().map(Vec::len).sum();
        if bytes > MAX_DATA_BYTES || secret.data.len() > MAX_KEYS {
            let why = format!("Too long: may have at most {MAX_DATA_BYTES} bytes in {MAX_KEYS} keys");
            problems.forbidden(&data, &why);
        }
        if object["type"] == TLS && problems.is_empty() {
            secret.check_tls(&data, &mut problems);
        }
        if problems.is_empty() { Ok(secret) } else { Err(problems) }
    }

    fn take(&mut self, entries: &serde_json::Map<String, Value>, at: &Path<'_>, encoded: bool, problems: &mut Problems) {
        for (key, value) in entries {
            let at = at.key(key);
            let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            if !plain || key.is_empty() || key.len() > 253 || key == "." || key == ".." {
                problems.forbidden(&at, "a valid config key must consist of alphanumeric characters, '-', '_' or '.'");
            }
            let bytes = match value {
                // As Go's JSON: null is no bytes.
                Value::Null => Some(Vec::new()),
                Value::String(text) if encoded => BASE64_STANDARD.decode(text).ok(),
                Value::String(text) => Some(text.clone().into_bytes()),
                _ => None,
            };
            match bytes {
                Some(bytes) => drop(self.data.insert(key.clone(), bytes)),
                None => problems.forbidden(&at, if encoded { "it is not base64" } else { "it is not a string" }),
            }
        }
    }

    fn check_tls(&self, at: &Path<'_>, problems: &mut Problems) {
        for key in ["tls.crt", "tls.key"] {
            if !self.data.contains_key(key) {
                problems.required(&at.key(key), "");
            }
        }
        if problems.is_empty()
            && let Err(why) = self.pair()
        {
            problems.forbidden(at, &why);
        }
    }

    fn one_of(&self, keys: &[&'static str]) -> Option<(&'static str, &Vec<u8>)> {
        keys.iter().find_map(|key| self.data.get(*key).filter(|value| !value.is_empty()).map(|value| (*key, value)))
    }

    /// The certificate and its key, which belong together; `None` if there is neither.
    fn pair(&self) -> Result<Option<Pair>, String> {
        let (certificate, key) = (self.one_of(&["tls.crt", "cert"]), self.one_of(&["tls.key", "key"]));
        let ((name, certificate), (key_name, key)) = match (certificate, key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return Err("it has a certificate, but neither tls.key nor key".to_owned()),
            (None, Some(_)) => return Err("it has a key, but neither tls.crt nor cert".to_owned()),
        };
        let chain = certificates(name, certificate)?;
        let der = PrivateKeyDer::from_pem_slice(key).map_err(|_secret| format!("{key_name} holds no private key in PEM"))?;
        let provider = rustls::crypto::ring::default_provider();
        let signer = provider.key_provider.load_private_key(der);
        let signer = signer.map_err(|_secret| format!("{key_name} holds a private key that cannot be used"))?;
        match rustls::sign::CertifiedKey::new(chain, Arc::clone(&signer)).keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(format!("{key_name} is not the key of {name}")),
            Err(error) => return Err(format!("{name} cannot be used: {error}")),
        }
        Ok(Some((certificate.clone(), key.clone())))
    }

    /// What a server takes from it. `NAME-cacert` is asked for authorities alone, which some keep apart.
    ///
    /// # Errors
    /// If what is there cannot be used.
    pub(crate) fn credential(&self) -> Result<Credential, String> {
        let authorities = self.one_of(&["ca.crt", "cacert"]);
        if let Some((name, pem)) = authorities {
            certificates(name, pem)?;
        }
        Ok(Credential { pair: self.pair()?, authorities: authorities.map(|(_, pem)| pem.clone()) })
    }
}

fn certificates(name: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(format!("{name} holds no certificate in PEM")),
    }
}
