//! `create`, `update`, `patch`, `delete`: each decided under the store's lock, so that what is answered is what happened.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{self, shown};
use super::request::{self, Options};
use super::status::{self, ApiError, json_response};
use crate::store::{Change, Collection, Key, NAMESPACES, Store, Stored, View};

/// The most warnings on one answer; kubectl prints each on a line.
const MAX_WARNINGS: usize = 10;

/// A patch, by its media type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Patch {
    Json,
    Merge,
    /// Without lists it is a merge: the core kinds here have none, and directives for them are refused.
    Strategic,
}

impl Patch {
    /// The types that are taken, as a refusal lists them.
    pub(super) const fn accepted(collection: Collection) -> &'static str {
        match collection {
            Collection::Istio(_) => "application/json-patch+json, application/merge-patch+json",
            Collection::ConfigMaps | Collection::Namespaces | Collection::Secrets => {
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
            }
        }
    }

    /// kubectl sends strategic patches for kinds that it has compiled in.
    pub(super) fn of(collection: Collection, media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" if !matches!(collection, Collection::Istio(_)) => Some(Self::Strategic),
            _ => None,
        }
    }
}

/// `POST` to a collection.
pub(super) fn create(
    store: &Store,
    (collection, version, namespace): (Collection, &str, Option<&str>),
    body: &Value,
    options: &Options,
) -> Result<Response<Body>, ApiError> {
    let key = object::key_of(collection, namespace, body)?;
    let object = object::created(&key, version, body, Timestamp::now())?;
    let warnings = object::warnings(&key, &object);
    let written = store.write(options.dry_run, |view| {
        if collection != Collection::Namespaces && view.get(&Key::namespace(&key.namespace)).is_none() {
            return Err(ApiError::not_found(Collection::Namespaces, &key.namespace));
        }
        if view.get(&key).is_some() {
            return Err(ApiError::already_exists(collection, &key.name));
        }
        Ok(vec![Change::Put(key, object)])
    })?;
    answer(StatusCode::CREATED, written.first().map(AsRef::as_ref), version, &warnings)
}

/// `PUT` of an object.
pub(super) fn update(
    store: &Store,
    key: &Key,
    version: &str,
    body: &Value,
    options: &Options,
) -> Result<Response<Body>, ApiError> {
    if body["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty) && key.collection != Collection::Namespaces {
        let group = status::group(key.collection);
        let why = "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
        let message = format!("{}.{group} {:?} is invalid: {why}", key.collection.plural(), key.name);
        return Err(ApiError::invalid(message));
    }
    change(store, key, version, options, |_| Ok(body.clone()))
}

/// `PATCH` of an object.
pub(super) fn patch(
    store: &Store,
    (key, version): (&Key, &str),
    patch: Patch,
    body: &Value,
    options: &Options,
) -> Result<Response<Body>, ApiError> {
    change(store, key, version, options, |old| {
        let mut object = shown(old, version);
        match patch {
            Patch::Strategic if has_directive(body) => {
                return Err(ApiError::bad_request("directives ($patch, ...) of strategic merge patches are not supported"));
            }
            Patch::Merge | Patch::Strategic => json_patch::merge(&mut object, body),
            Patch::Json => {
                let patch: json_patch::Patch = serde_json::from_value(body.clone())
                    .map_err(|e| ApiError::bad_request(format!("the JSON patch cannot be read: {e}")))?;
                json_patch::patch(&mut object, &patch).map_err(|e| {
                    ApiError::invalid(format!("the server rejected our request due to an error in our request: {e}"))
                })?;
            }
        }
        Ok(object)
    })
}

fn has_directive(patch: &Value) -> bool {
    let fields = || patch.as_object().into_iter().flatten();
    fields().any(|(name, value)| name.starts_with('$') || (value.is_object() && has_directive(value)))
}

/// Replaces an object by what `next` makes of it.
fn change(
    store: &Store,
    key: &Key,
    version: &str,
    options: &Options,
    next: impl FnOnce(&Stored) -> Result<Value, ApiError>,
) -> Result<Response<Body>, ApiError> {
    let mut warnings = Vec::new();
    let written = store.write(options.dry_run, |view| {
        let old = found(view, key)?;
        let object = object::updated(old, version, &next(old)?)?;
        warnings = object::warnings(key, object.as_ref().unwrap_or(&old.object));
        Ok::<_, ApiError>(object.map(|object| Change::Put(key.clone(), object)).into_iter().collect())
    })?;
    match written.first() {
        Some(stored) => answer(StatusCode::OK, Some(stored), version, &warnings),
        // Nothing changed: the version stays, as in the API server.
        None => answer(StatusCode::OK, store.get(key).as_deref(), version, &warnings),
    }
}

fn found<'v>(view: &'v View<'_>, key: &Key) -> Result<&'v Stored, ApiError> {
    view.get(key).ok_or_else(|| ApiError::not_found(key.collection, &key.name))
}

/// `DELETE` of an object. A namespace takes everything in it along, in the same transaction.
pub(super) fn delete(store: &Store, key: &Key, body: &Value, options: &Options) -> Result<Response<Body>, ApiError> {
    let mut dry_run = options.dry_run;
    for value in body["dryRun"].as_array().into_iter().flatten() {
        dry_run |= request::dry_run(value.as_str().unwrap_or_default())?;
    }
    if key.collection == Collection::Namespaces && NAMESPACES.contains(&key.name.as_str()) {
        return Err(ApiError::refused(key.collection, &key.name, "this namespace may not be deleted"));
    }
    let mut uid = Value::Null;
    store.write(dry_run, |view| {
        let old = found(view, key)?;
        uid = old.object["metadata"]["uid"].clone();
        let wanted = &body["preconditions"];
        let version = Value::String(old.version.to_string());
        for (field, wanted, have) in [("UID", &wanted["uid"], &uid), ("ResourceVersion", &wanted["resourceVersion"], &version)] {
            if !wanted.is_null() && wanted != have {
                let why = format!("Precondition failed: {field} in precondition: {wanted}, {field} in object meta: {have}");
                return Err(ApiError::conflict(key.collection, &key.name, &why));
            }
        }
        let inside = if key.collection == Collection::Namespaces { view.in_namespace(&key.name) } else { vec![] };
        Ok(inside.into_iter().chain([key.clone()]).map(Change::Delete).collect())
    })?;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": { "name": key.name, "group": status::group(key.collection), "kind": key.collection.plural(), "uid": uid },
    });
    Ok(json_response(StatusCode::OK, &status))
}

fn answer(code: StatusCode, stored: Option<&Stored>, version: &str, warnings: &[String]) -> Result<Response<Body>, ApiError> {
    let stored = stored.ok_or_else(|| ApiError::internal("Internal error occurred: the write wrote nothing"))?;
    let mut response = json_response(code, &shown(stored, version));
    for text in warnings.iter().take(MAX_WARNINGS) {
        let quoted: String = text.chars().filter(|c| c.is_ascii() && !c.is_ascii_control()).flat_map(escaped).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    Ok(response)
}

/// The quoting of RFC 9110's quoted-string.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let escape = matches!(c, '"' | '\\').then_some('\\');
    escape.into_iter().chain([c])
}
