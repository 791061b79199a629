//! Kubernetes' protobuf envelope, as far as kubectl cannot do without: since 1.32 `kubectl create namespace` sends nothing else.

use std::collections::HashMap;

use prost::Message;
use serde_json::{Value, json};

use super::status::ApiError;

/// The media type.
pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

#[derive(Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Message)]
struct TypeMeta {
    #[prost(string, tag = "1")]
    api_version: String,
    #[prost(string, tag = "2")]
    kind: String,
}

#[derive(Message)]
struct Namespace {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

#[derive(Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(map = "string, string", tag = "11")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "12")]
    annotations: HashMap<String, String>,
}

/// The object as JSON; only a Namespace is known.
pub(super) fn json(bytes: &[u8]) -> Result<Value, ApiError> {
    let wrong = |why: &str| ApiError::bad_request(format!("the object provided is unrecognized: {why}"));
    let envelope = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin as Kubernetes' protobuf does"))?;
    let envelope = Unknown::decode(envelope).map_err(|e| wrong(&e.to_string()))?;
    let TypeMeta { api_version, kind } = envelope.type_meta.unwrap_or_default();
    if (api_version.as_str(), kind.as_str()) != ("v1", "Namespace") {
        return Err(ApiError::unsupported_media("application/json"));
    }
    let namespace = Namespace::decode(envelope.raw.as_slice()).map_err(|e| wrong(&e.to_string()))?;
    let ObjectMeta { name, labels, annotations } = namespace.metadata.unwrap_or_default();
    Ok(
        json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": name, "labels": labels, "annotations": annotations } }),
    )
}
