//! Refusals in the form that kubectl prints: Kubernetes `Status` objects, with the texts of a real API server.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use crate::istio::{Problems, problem::Class};
use crate::store::{Collection, StoreError};

/// A refusal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) code: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    details: Option<Value>,
}

/// The API group of a collection; the core group is empty.
pub(super) const fn group(collection: Collection) -> &'static str {
    match collection {
        Collection::ConfigMaps | Collection::Namespaces | Collection::Secrets => "",
        Collection::Istio(kind) => kind.group(),
    }
}

/// The kind of a collection's objects.
pub(super) const fn kind(collection: Collection) -> &'static str {
    match collection {
        Collection::ConfigMaps => "ConfigMap",
        Collection::Namespaces => "Namespace",
        Collection::Secrets => "Secret",
        Collection::Istio(kind) => kind.name(),
    }
}

/// `virtualservices.networking.istio.io`, or `namespaces`.
fn resource(collection: Collection) -> String {
    match group(collection) {
        "" => collection.plural().to_owned(),
        group => format!("{}.{group}", collection.plural()),
    }
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(mut self, collection: Collection, name: &str) -> Self {
        self.details = Some(json!({ "name": name, "group": group(collection), "kind": collection.plural() }));
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// The user may not do this.
    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
    }

    /// Nobody may do this to this object.
    pub(super) fn refused(collection: Collection, name: &str, why: &str) -> Self {
        let message = format!("{} {name:?} is forbidden: {why}", resource(collection));
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(collection, name)
    }

    pub(super) fn not_found(collection: Collection, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource(collection));
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about(collection, name)
    }

    /// The same for what is not stored.
    pub(super) fn not_there(group: &str, plural: &str, name: &str) -> Self {
        let details = json!({ "name": name, "group": group, "kind": plural });
        let message = format!("{plural}.{group} {name:?} not found");
        Self { details: Some(details), ..Self::new(StatusCode::NOT_FOUND, "NotFound", message) }
    }

    /// The same for what would be of the core group.
    pub(super) fn nothing_runs(plural: &str, name: &str) -> Self {
        let details = json!({ "name": name, "kind": plural });
        Self { details: Some(details), ..Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{plural} {name:?} not found")) }
    }

    /// What Marathon runs is Marathon's.
    pub(super) fn marathons(plural: &str) -> Self {
        let message = format!("{plural} are what Marathon runs: they can be read here, and are changed there");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(super) fn built_in() -> Self {
        let message = "the kinds of this server are built in: their definitions can be read, not changed";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(super) fn already_exists(collection: Collection, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource(collection));
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(collection, name)
    }

    pub(super) fn modified(collection: Collection, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(collection, name, why)
    }

    pub(super) fn conflict(collection: Collection, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource(collection));
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(collection, name)
    }

    /// Everything that is wrong with an object: 400 for fields that the schema does not have, else 422.
    pub(super) fn problems(collection: Collection, version: &str, name: &str, problems: &Problems) -> Self {
        let kind = kind(collection);
        if problems.has_unknown() {
            let unknown = problems.iter().filter(|p| p.class == Class::Unknown).map(ToString::to_string);
            let list = unknown.collect::<Vec<_>>().join(", ");
            let message = format!("{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {list}");
            return Self::bad_request(message);
        }
        let name_shown = if name.is_empty() { "" } else { name };
        let full = if group(collection).is_empty() { kind.to_owned() } else { format!("{kind}.{}", group(collection)) };
        let causes: Vec<Value> =
            problems.iter().map(|p| json!({ "reason": p.class.reason(), "message": p.message, "field": p.field })).collect();
        let message = format!("{full} {name_shown:?} is invalid: {problems}");
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        error.details = Some(json!({ "name": name, "group": group(collection), "kind": kind, "causes": causes }));
        error
    }

    /// One problem without an object.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(super) fn not_acceptable() -> Self {
        let message =
            "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(super) fn unsupported_media(accepted: &str) -> Self {
        let message = format!("the body of the request was in an unknown format - accepted media types include: {accepted}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub(super) fn timeout(message: &str) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    pub(super) fn too_many(message: &str) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        error.details = Some(json!({ "retryAfterSeconds": 1 }));
        error
    }

    pub(super) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(StatusCode::GONE, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// The `Status` object.
    pub(super) fn to_json(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status["code"] = json!(self.code.as_u16());
        status
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = json_response(self.code, &self.to_json());
        if self.code == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", format!("Request entity too large: {error}"))
            }
            StoreError::TooManyObjects => Self::forbidden(format!("exceeded quota: {error}")),
            error => {
                tracing::error!(%error, "the store failed");
                Self::internal(format!("Internal error occurred: {error}"))
            }
        }
    }
}

/// A JSON answer.
pub(super) fn json_response(code: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
