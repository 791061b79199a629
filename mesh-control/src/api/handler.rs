//! One request: who asks, may they, what is asked, and the audit line if it wrote.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::ApiArgs;
use super::metrics::RequestLabels;
use super::request::{Endpoint, Form, Options, verb};
use super::running::Runs;
use super::status::{self, ApiError, json_response};
use super::watch::Watch;
use super::write::Patch;
use super::{ApiMetrics, body, crds, discovery, protobuf, read, refused, running, write};
use crate::auth::{ADMINS, Tokens, User};
use crate::store::{Collection, Key, Store};

/// Open watches: kubectl needs one, a controller a few; each holds a connection.
const MAX_WATCHES: usize = 128;
/// Everything but a watch ends by then; a disk that syncs more slowly is broken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What every request shares.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) tokens: Arc<Tokens>,
    pub(super) metrics: ApiMetrics,
    pub(super) stop: CancellationToken,
    pub(super) watches: Arc<Semaphore>,
    pub(super) runs: Arc<dyn Runs>,
}

impl Shared {
    pub(super) fn new(args: &ApiArgs) -> Self {
        let ApiArgs { store, tokens, metrics, stop, runs, .. } = args;
        let (store, tokens, metrics) = (store.clone(), Arc::clone(tokens), metrics.clone());
        Self {
            store,
            tokens,
            metrics,
            stop: stop.clone(),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            runs: Arc::clone(runs),
        }
    }

    /// Answers a request.
    pub(super) async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let endpoint = Endpoint::parse(request.uri().path());
        if endpoint == Some(Endpoint::Health) {
            return Response::new(Body::from("ok"));
        }
        let answered = tokio::time::timeout(REQUEST_TIMEOUT, self.authorized(endpoint, request)).await;
        answered.unwrap_or_else(|_elapsed| ApiError::timeout("the request was not finished in 30 s").into_response())
    }

    async fn authorized(&self, endpoint: Option<Endpoint>, request: Request<Body>) -> Response<Body> {
        let options = Options::parse(request.uri());
        let method = request.method().clone();
        let watch = options.as_ref().is_ok_and(|options| options.watch);
        let verb = endpoint.as_ref().map_or("other", |endpoint| verb(&method, endpoint, watch));
        let resource = match &endpoint {
            Some(Endpoint::Objects { collection, .. }) => collection.plural(),
            Some(Endpoint::Object { key, .. }) => key.collection.plural(),
            _ => "other",
        };
        let user = bearer(&request).and_then(|token| self.tokens.user(token)).cloned();
        let path = request.uri().path().to_owned();
        let result = match (&user, endpoint, options) {
            (None, _, _) => Err(ApiError::unauthorized()),
            (Some(user), endpoint, _) if !user.is_in(ADMINS) => Err(forbidden(user, verb, endpoint.as_ref(), &path)),
            (Some(_), None, _) => Ok(unknown_path()),
            (Some(_), Some(_), Err(error)) => Err(error),
            (Some(_), Some(endpoint), Ok(options)) => self.dispatch(endpoint, options, request).await,
        };
        let failure = result.as_ref().err().map(|error| error.message.clone());
        let response = result.unwrap_or_else(ApiError::into_response);
        let code = response.status().as_u16();
        self.metrics.requests.get_or_create(&RequestLabels { verb, resource, code }).inc();
        if method != Method::GET {
            let user = user.map_or_else(|| "-".to_owned(), |user| user.name);
            tracing::info!(target: "audit", user, verb, path, code, error = failure, "write");
        }
        response
    }

    async fn dispatch(&self, endpoint: Endpoint, options: Options, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let fixed = match endpoint {
            Endpoint::Health => return Ok(Response::new(Body::from("ok"))),
            Endpoint::Objects { collection, version, namespace } => {
                return self.collection((collection, version, namespace), options, request).await;
            }
            Endpoint::Object { key, version } => return self.object(key, version, options, request).await,
            Endpoint::OpenApi => return Ok(discovery::openapi()),
            Endpoint::Running { of, .. } if request.method() != Method::GET => return Err(ApiError::marathons(of.plural())),
            Endpoint::Running { of, namespace, name } => {
                let (form, config) = (Form::negotiate(request.headers())?, self.store.config().borrow().clone());
                let from = (&*self.runs, &*config);
                return match name {
                    None => running::list(of, namespace.as_deref(), from, form, &options),
                    Some(name) => running::get(of, (namespace.as_deref(), &name), from, form, &options),
                };
            }
            Endpoint::Refused(asked) => return asked.answer(request.method()),
            Endpoint::RefusedResources { group, version } => refused::resources(group, version),
            Endpoint::Definitions(_) if request.method() != Method::GET => return Err(ApiError::built_in()),
            Endpoint::Definitions(None) => return crds::list(Form::negotiate(request.headers())?, &options),
            Endpoint::Definitions(Some(name)) => return crds::get(&name, Form::negotiate(request.headers())?),
            Endpoint::DefinitionResources => crds::resources(),
            Endpoint::Version => discovery::version(),
            Endpoint::CoreVersions => discovery::core_versions(),
            Endpoint::Groups => discovery::groups(),
            Endpoint::Group(group) => discovery::group(group),
            Endpoint::CoreResources => discovery::core_resources(),
            Endpoint::GroupResources { group, version } => discovery::group_resources(group, version),
            Endpoint::Empty(kind) => json!({
                "kind": kind, "apiVersion": "v1", "metadata": { "resourceVersion": self.store.version().to_string() }, "items": [],
            }),
        };
        if request.method() == Method::GET {
            Ok(json_response(StatusCode::OK, &fixed))
        } else {
            Err(ApiError::method_not_allowed())
        }
    }

    async fn collection(
        &self,
        (collection, version, namespace): (Collection, &'static str, Option<String>),
        options: Options,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let scope = (collection, version, namespace.as_deref());
        match *request.method() {
            Method::GET if options.watch => {
                let form = Form::negotiate(request.headers())?;
                let permit = Arc::clone(&self.watches).try_acquire_owned();
                let permit = permit.map_err(|_full| ApiError::too_many("there are already 128 watches, which is the limit"))?;
                let watch =
                    Watch::begin(&self.store, (collection, version, namespace), form, &options, permit, self.stop.clone())?;
                Ok(watch.into_response(self.metrics.watches.clone()))
            }
            Method::GET => read::list(&self.store, scope, Form::negotiate(request.headers())?, &options),
            Method::POST => {
                let body = self.json(request).await?;
                self.blocking(move |store| write::create(store, (collection, version, namespace.as_deref()), &body, &options))
                    .await
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    async fn object(
        &self,
        key: Key,
        version: &'static str,
        options: Options,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        match *request.method() {
            Method::GET => read::get(&self.store, &key, version, Form::negotiate(request.headers())?, &options),
            Method::PUT => {
                let body = self.json(request).await?;
                self.blocking(move |store| write::update(store, &key, version, &body, &options)).await
            }
            Method::PATCH => {
                let patch = Patch::of(key.collection, body::media_type(request.headers()));
                let patch = patch.ok_or_else(|| ApiError::unsupported_media(Patch::accepted(key.collection)))?;
                let body = body::json(&body::read(request.into_body()).await?)?;
                self.blocking(move |store| write::patch(store, (&key, version), patch, &body, &options)).await
            }
            Method::DELETE => {
                let bytes = body::read(request.into_body()).await?;
                let body = if bytes.is_empty() { Value::Null } else { body::json(&bytes)? };
                self.blocking(move |store| write::delete(store, &key, &body, &options)).await
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    /// The body of a POST or PUT.
    async fn json(&self, request: Request<Body>) -> Result<Value, ApiError> {
        match body::media_type(request.headers()) {
            "application/json" | "" => body::json(&body::read(request.into_body()).await?),
            protobuf::MEDIA_TYPE => protobuf::json(&body::read(request.into_body()).await?),
            _ => Err(ApiError::unsupported_media("application/json")),
        }
    }

    /// Runs a write where waiting for the disk holds nobody up. It goes on if the client leaves: its result is durable or it is not, never
    /// half.
    async fn blocking(
        &self,
        work: impl FnOnce(&Store) -> Result<Response<Body>, ApiError> + Send + 'static,
    ) -> Result<Response<Body>, ApiError> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| Err(ApiError::internal(format!("Internal error occurred: {error}"))))
    }
}

fn bearer(request: &Request<Body>) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// In the words of the API server.
fn forbidden(user: &User, verb: &str, endpoint: Option<&Endpoint>, path: &str) -> ApiError {
    let (collection, namespace) = match endpoint {
        Some(Endpoint::Objects { collection, namespace, .. }) => (*collection, namespace.clone()),
        Some(Endpoint::Object { key, .. }) => (key.collection, Some(key.namespace.clone()).filter(|n| !n.is_empty())),
        _ => return ApiError::forbidden(format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name)),
    };
    let scope = namespace.map_or_else(|| "at the cluster scope".to_owned(), |n| format!("in the namespace {n:?}"));
    let (resource, group) = (collection.plural(), status::group(collection));
    let what = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    ApiError::forbidden(format!(
        "{what} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}",
        user.name
    ))
}

/// As plain text, which is how kubectl tells a missing API from a missing object.
fn unknown_path() -> Response<Body> {
    let mut response = Response::new(Body::from("404 page not found\n"));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
