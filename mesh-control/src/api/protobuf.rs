//! Kubernetes' protobuf envelope, as far as kubectl cannot do without: since 1.32 `kubectl create namespace` and
//! `kubectl create secret` send nothing else.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use serde_json::{Map, Value, json};

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

/// No `Debug` that prints what it holds.
#[derive(Message)]
#[prost(skip_debug)]
struct Secret {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(map = "string, bytes", tag = "2")]
    data: HashMap<String, Vec<u8>>,
    #[prost(string, tag = "3")]
    r#type: String,
    #[prost(map = "string, string", tag = "4")]
    string_data: HashMap<String, String>,
    #[prost(bool, optional, tag = "5")]
    immutable: Option<bool>,
}

#[derive(Message)]
struct ConfigMap {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(map = "string, string", tag = "2")]
    data: HashMap<String, String>,
    #[prost(map = "string, bytes", tag = "3")]
    binary_data: HashMap<String, Vec<u8>>,
    #[prost(bool, optional, tag = "4")]
    immutable: Option<bool>,
}

#[derive(Message)]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(map = "string, string", tag = "11")]
    labels: HashMap<String, String>,
    #[prost(map = "string, string", tag = "12")]
    annotations: HashMap<String, String>,
}

/// The object as JSON; only a ConfigMap, a Namespace and a Secret are known.
pub(super) fn json(bytes: &[u8]) -> Result<Value, ApiError> {
    let wrong = |why: &str| ApiError::bad_request(format!("the object provided is unrecognized: {why}"));
    let envelope = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not begin as Kubernetes' protobuf does"))?;
    let envelope = Unknown::decode(envelope).map_err(|e| wrong(&e.to_string()))?;
    let TypeMeta { api_version, kind } = envelope.type_meta.unwrap_or_default();
    let raw = envelope.raw.as_slice();
    match (api_version.as_str(), kind.as_str()) {
        ("v1", "Namespace") => {
            let namespace = Namespace::decode(raw).map_err(|e| wrong(&e.to_string()))?;
            Ok(json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata(namespace.metadata) }))
        }
        ("v1", "Secret") => {
            let secret = Secret::decode(raw).map_err(|e| wrong(&e.to_string()))?;
            let data = secret.data.into_iter().map(|(key, value)| (key, Value::String(BASE64_STANDARD.encode(value))));
            let mut object = json!({
                "apiVersion": api_version, "kind": kind, "metadata": metadata(secret.metadata),
                "data": data.collect::<Map<_, _>>(), "stringData": secret.string_data, "type": secret.r#type,
            });
            if let Some(immutable) = secret.immutable {
                object["immutable"] = json!(immutable);
            }
            Ok(object)
        }
        ("v1", "ConfigMap") => {
            let map = ConfigMap::decode(raw).map_err(|e| wrong(&e.to_string()))?;
            let binary = map.binary_data.into_iter().map(|(key, value)| (key, Value::String(BASE64_STANDARD.encode(value))));
            let mut object = json!({
                "apiVersion": api_version, "kind": kind, "metadata": metadata(map.metadata),
                "data": map.data, "binaryData": binary.collect::<Map<_, _>>(),
            });
            if let Some(immutable) = map.immutable {
                object["immutable"] = json!(immutable);
            }
            Ok(object)
        }
        _ => Err(ApiError::unsupported_media("application/json")),
    }
}

fn metadata(meta: Option<ObjectMeta>) -> Value {
    let ObjectMeta { name, namespace, labels, annotations } = meta.unwrap_or_default();
    json!({ "name": name, "namespace": namespace, "labels": labels, "annotations": annotations })
}
