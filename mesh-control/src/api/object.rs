//! The conventions of Kubernetes objects: names, metadata that the server sets, what a write may change. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::status::{self, ApiError};
use crate::config_map;
use crate::istio::enforced::Abilities;
use crate::istio::problem::{Path, Problems};
use crate::istio::{self, Kind, resource::seconds};
use crate::secret::{self, Secret};
use crate::store::{self, Collection, Key, Stored};

/// Metadata that is kept as the client gave it.
const KEPT: [&str; 2] = ["labels", "annotations"];
/// Metadata that the server sets; given by a client it is a precondition or ignored.
const SERVERS: [&str; 10] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];
/// Metadata that would have no effect here.
const REFUSED: [&str; 3] = ["finalizers", "ownerReferences", "generateName"];
/// As in Kubernetes.
const MAX_ANNOTATION_BYTES: usize = 256 * 1024;

const NAME_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start \
     and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_RULE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start \
     and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is \
     '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

/// The apiVersion of a collection in a version of the API.
pub(super) fn api_version(collection: Collection, version: &str) -> String {
    match status::group(collection) {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

/// A stored object as a version of the API shows it.
pub(super) fn shown(stored: &Stored, version: &str) -> Value {
    let mut object = stored.object.clone();
    object["apiVersion"] = Value::String(api_version(stored.key.collection, version));
    object
}

/// The identity of an object to be created.
pub(super) fn key_of(collection: Collection, namespace: Option<&str>, body: &Value) -> Result<Key, ApiError> {
    let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let given = body["metadata"]["namespace"].as_str().unwrap_or_default();
    let namespace = match (collection, namespace) {
        (Collection::Namespaces, _) => String::new(),
        (Collection::ConfigMaps | Collection::Secrets | Collection::Istio(_), Some(namespace)) => namespace.to_owned(),
        (Collection::ConfigMaps | Collection::Secrets | Collection::Istio(_), None) => {
            return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
        }
    };
    if !given.is_empty() && given != namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(Key { collection, namespace, name })
}

/// A new object, or everything that is wrong with it.
pub(super) fn created(key: &Key, version: &str, body: &Value, now: Timestamp) -> Result<Value, ApiError> {
    check_type(key.collection, version, body)?;
    if body["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    check(key, version, body)?;
    let mut object = match key.collection {
        Collection::Namespaces => store::new_namespace(&key.name, now),
        Collection::Secrets => {
            let mut object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": new_meta(key, now) });
            put_data(&mut object, secret::normal(body));
            object
        }
        Collection::ConfigMaps => {
            let mut object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": new_meta(key, now) });
            put_data(&mut object, config_map::normal(body));
            object
        }
        Collection::Istio(kind) => {
            let mut meta = new_meta(key, now);
            meta["generation"] = json!(1);
            let version = api_version(key.collection, kind.version());
            json!({ "apiVersion": version, "kind": kind.name(), "metadata": meta, "spec": body["spec"] })
        }
    };
    keep(key, &mut object, &body["metadata"]);
    Ok(object)
}

fn new_meta(key: &Key, now: Timestamp) -> Value {
    json!({
        "name": key.name,
        "namespace": key.namespace,
        "uid": uuid::Uuid::new_v4().to_string(),
        "creationTimestamp": seconds(now),
    })
}

/// Writes what a client gave of a secret or a ConfigMap, in the form in which it is kept.
fn put_data(object: &mut Value, normal: Value) {
    let (Some(fields), Value::Object(normal)) = (object.as_object_mut(), normal) else { return };
    for name in ["immutable", "data", "binaryData"] {
        fields.shift_remove(name);
    }
    fields.extend(normal);
}

/// What may not change of a ConfigMap.
fn check_config_map_update(old: &Stored, body: &Value, version: &str) -> Result<(), ApiError> {
    let (was, now) = (&old.object, config_map::normal(body));
    let mut problems = Problems::default();
    if was["immutable"] == true {
        for field in ["data", "binaryData", "immutable"].into_iter().filter(|field| was[field] != now[field]) {
            problems.forbidden(&Path::root(field), "field is immutable when `immutable` is set");
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ApiError::problems(old.key.collection, version, &old.key.name, &problems)) }
}

/// What may not change of a secret.
fn check_secret_update(old: &Stored, body: &Value, version: &str) -> Result<(), ApiError> {
    let (was, now) = (&old.object, secret::normal(body));
    let mut problems = Problems::default();
    if was["type"] != now["type"] {
        problems.invalid(&Path::root("type"), now["type"].clone(), "field is immutable");
    }
    if was["immutable"] == true {
        let why = "field is immutable when `immutable` is set";
        for field in ["data", "immutable"].into_iter().filter(|field| was[field] != now[field]) {
            problems.forbidden(&Path::root(field), why);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ApiError::problems(old.key.collection, version, &old.key.name, &problems)) }
}

/// The object after an update; `None` if nothing changes.
pub(super) fn updated(old: &Stored, version: &str, body: &Value) -> Result<Option<Value>, ApiError> {
    let Key { collection, name, namespace } = &old.key;
    check_type(*collection, version, body)?;
    let meta = &body["metadata"];
    if meta["name"].as_str() != Some(name) {
        let given = meta["name"].as_str().unwrap_or_default();
        let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
        return Err(ApiError::bad_request(message));
    }
    if meta["namespace"].as_str().is_some_and(|given| given != namespace) {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if meta["resourceVersion"].as_str().is_some_and(|given| !given.is_empty() && given != old.version.to_string()) {
        return Err(ApiError::modified(*collection, name));
    }
    let uid = old.object["metadata"]["uid"].as_str().unwrap_or_default();
    if let Some(given) = meta["uid"].as_str().filter(|given| *given != uid) {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
        return Err(ApiError::conflict(*collection, name, &why));
    }
    check(&old.key, version, body)?;
    let mut object = old.object.clone();
    keep(&old.key, &mut object, meta);
    if *collection == Collection::Secrets {
        check_secret_update(old, body, version)?;
        put_data(&mut object, secret::normal(body));
    }
    if *collection == Collection::ConfigMaps {
        check_config_map_update(old, body, version)?;
        put_data(&mut object, config_map::normal(body));
    }
    if matches!(collection, Collection::Istio(_)) && object["spec"] != body["spec"] {
        object["spec"] = body["spec"].clone();
        object["metadata"]["generation"] = json!(old.object["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
    }
    Ok((object != old.object).then_some(object))
}

/// Takes over what the client may set; empty maps are left out. A namespace keeps the label of its name.
fn keep(key: &Key, object: &mut Value, meta: &Value) {
    let Some(fields) = object["metadata"].as_object_mut() else { return };
    for name in KEPT {
        match &meta[name] {
            Value::Object(map) if !map.is_empty() => drop(fields.insert(name.to_owned(), Value::Object(map.clone()))),
            _ => drop(fields.shift_remove(name)),
        }
    }
    if key.collection == Collection::Namespaces {
        let labels = fields.entry("labels").or_insert_with(|| json!({}));
        labels["kubernetes.io/metadata.name"] = json!(key.name);
    }
}

fn check_type(collection: Collection, version: &str, body: &Value) -> Result<(), ApiError> {
    if !body.is_object() {
        return Err(ApiError::bad_request("the object provided is unrecognized: it is not a JSON object"));
    }
    let wanted = api_version(collection, version);
    let (given, kind) = (body["apiVersion"].as_str().unwrap_or_default(), body["kind"].as_str().unwrap_or_default());
    let expected = status::kind(collection);
    if kind != expected {
        let message =
            format!("{kind} in version {:?} cannot be handled as a {expected}: no kind {kind:?} is registered here", version);
        return Err(ApiError::bad_request(message));
    }
    if given != wanted {
        let message = format!("the API version in the data ({given}) does not match the expected API version ({wanted})");
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

/// Names, metadata and spec, all problems at once.
fn check(key: &Key, version: &str, body: &Value) -> Result<(), ApiError> {
    let mut problems = Problems::default();
    let empty = Map::new();
    let own: &[&str] = match key.collection {
        Collection::Secrets => &["data", "stringData", "type", "immutable"],
        Collection::ConfigMaps => &["data", "binaryData", "immutable"],
        Collection::Namespaces | Collection::Istio(_) => &["spec", "status"],
    };
    for name in body.as_object().unwrap_or(&empty).keys() {
        if !(["apiVersion", "kind", "metadata"].contains(&name.as_str()) || own.contains(&name.as_str())) {
            problems.unknown(&Path::root(name));
        }
    }
    check_meta(key, &body["metadata"], &mut problems);
    let admitted = match key.collection {
        Collection::Namespaces => Ok(()),
        Collection::Secrets => Secret::read(body).map(|_secret| ()),
        Collection::ConfigMaps => config_map::read(&key.namespace, &key.name, body).map(|_mesh| ()),
        Collection::Istio(kind) => istio::admit(kind, body),
    };
    if let Err(found) = admitted {
        problems.extend(found);
    }
    if problems.is_empty() { Ok(()) } else { Err(ApiError::problems(key.collection, version, &key.name, &problems)) }
}

fn check_meta(key: &Key, meta: &Value, problems: &mut Problems) {
    let root = Path::root("metadata");
    let Some(fields) = meta.as_object() else {
        problems.required(&root, "");
        return;
    };
    let is_set = |v: &Value| !(v.is_null() || v.as_array().is_some_and(Vec::is_empty) || v.as_str() == Some(""));
    for (name, value) in fields {
        let at = root.field(name);
        if REFUSED.contains(&name.as_str()) {
            if is_set(value) {
                problems.forbidden(&at, "it has no effect here, and nothing is stored without effect");
            }
        } else if KEPT.contains(&name.as_str()) {
            check_strings(value, &at, name == "labels", problems);
        } else if !SERVERS.contains(&name.as_str()) {
            problems.unknown(&at);
        }
    }
    let at = root.field("name");
    if key.name.is_empty() {
        problems.required(&at, "name or generateName is required");
    } else if !is_subdomain(&key.name) || (key.collection == Collection::Namespaces && key.name.contains('.')) {
        problems.invalid(&at, key.name.as_str(), NAME_RULE);
    }
}

fn check_strings(value: &Value, at: &Path<'_>, labels: bool, problems: &mut Problems) {
    let Some(map) = value.as_object() else {
        if !value.is_null() {
            problems.wrong_type(at, "object", value);
        }
        return;
    };
    let mut bytes = 0;
    for (key, value) in map {
        let Some(text) = value.as_str() else {
            problems.wrong_type(&at.key(key), "string", value);
            continue;
        };
        bytes += key.len() + text.len();
        let (prefix, name) = key.split_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
        if name.is_empty() || !is_label(name) || prefix.is_some_and(|p| !is_subdomain(&p.to_ascii_lowercase())) {
            problems.invalid(at, key.as_str(), "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
        }
        if labels && !is_label(text) {
            problems.invalid(at, text, LABEL_RULE);
        }
    }
    if !labels && bytes > MAX_ANNOTATION_BYTES {
        problems.invalid(at, bytes, format_args!("Too long: must have at most {MAX_ANNOTATION_BYTES} bytes"));
    }
}

/// RFC 1123 subdomain.
pub(super) fn is_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
        })
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    let bytes = text.as_bytes();
    text.len() <= 63
        && edge(bytes.first().copied())
        && edge(bytes.last().copied())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

/// What is stored but not honoured yet.
pub(super) fn warnings(key: &Key, object: &Value) -> Vec<String> {
    match key.collection {
        Collection::Namespaces | Collection::Secrets => vec![],
        Collection::ConfigMaps => config_map::warnings(&key.namespace, &key.name, object),
        Collection::Istio(kind) => unenforced(kind, object),
    }
}

fn unenforced(kind: Kind, object: &Value) -> Vec<String> {
    let found = istio::enforced::of_object(kind, object, Abilities::MESH_PROXY);
    let (group, name) = (kind.group(), kind.name());
    let old = kind.successor().map(|new| format!("{group} {name} is deprecated; use {new}"));
    let found = istio::older::of_object(kind, object).into_iter().chain(found);
    old.into_iter().chain(found.map(|(path, why)| format!("{path}: {why}"))).collect()
}
