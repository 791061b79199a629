//! `get` and `list`.

use axum::body::Body;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::object::{api_version, shown};
use super::request::{Form, Options};
use super::select::Selector;
use super::status::{ApiError, json_response};
use super::table::{self, Include};
use crate::store::{Collection, Key, Store};

/// One object.
pub(super) fn get(store: &Store, key: &Key, version: &str, form: Form, options: &Options) -> Result<Response<Body>, ApiError> {
    let stored = store.get(key).ok_or_else(|| ApiError::not_found(key.collection, &key.name))?;
    let object = shown(&stored, version);
    let meta = json!({ "resourceVersion": stored.version.to_string() });
    let answer = match form {
        Form::Json => object,
        Form::Table(_) => {
            let include = Include::parse(&options.include_object);
            table::list(key.collection, form, version, vec![object], meta, include)
        }
    };
    Ok(json_response(StatusCode::OK, &answer))
}

/// The objects of a collection, in pages if `limit` asks for them.
pub(super) fn list(
    store: &Store,
    (collection, version, namespace): (Collection, &str, Option<&str>),
    form: Form,
    options: &Options,
) -> Result<Response<Body>, ApiError> {
    let selector = Selector::parse(&options.label_selector, &options.field_selector)?;
    let resumed = if options.continue_token.is_empty() { None } else { Some(resume(collection, &options.continue_token)?) };
    let (current, stored) = store.list(collection, namespace, resumed.as_ref().map(|(_, after)| after));
    // Later pages keep the version of the first: who then watches from it sees every change made in between.
    let listed = resumed.map_or(current, |(listed, _)| listed);
    let mut matching = stored.into_iter().filter(|s| selector.matches(&s.object)).peekable();
    let limit = if options.limit == 0 { usize::MAX } else { options.limit };
    let page: Vec<_> = matching.by_ref().take(limit).collect();
    let mut meta = json!({ "resourceVersion": listed.to_string() });
    if matching.peek().is_some()
        && let Some(last) = page.last()
    {
        meta["continue"] = Value::String(token(listed, &last.key));
        meta["remainingItemCount"] = json!(matching.count());
    }
    let objects = page.iter().map(|s| shown(s, version)).collect();
    let include = Include::parse(&options.include_object);
    let answer = table::list(collection, form, &api_version(collection, version), objects, meta, include);
    Ok(json_response(StatusCode::OK, &answer))
}

fn token(listed: u64, last: &Key) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(json!([listed, last.namespace, last.name]).to_string())
}

fn resume(collection: Collection, token: &str) -> Result<(u64, Key), ApiError> {
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(token).ok();
    let fields = decoded.and_then(|bytes| serde_json::from_slice::<(u64, String, String)>(&bytes).ok());
    let Some((listed, namespace, name)) = fields else {
        return Err(ApiError::bad_request("continue key is not valid: it did not come from this server"));
    };
    Ok((listed, Key { collection, namespace, name }))
}
