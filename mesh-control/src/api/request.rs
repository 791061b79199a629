//! From method, path and query to what is asked. Pure; every other module of the API works on its result.

use http::{HeaderMap, Method, Uri, header};

use super::running::Running;
use super::status::ApiError;
use super::{crds, refused};
use crate::istio::{self, Kind};
use crate::store::{Collection, Key};

/// What a path names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Endpoint {
    Health,
    Version,
    CoreVersions,
    Groups,
    Group(&'static str),
    CoreResources,
    GroupResources {
        group: &'static str,
        version: &'static str,
    },
    OpenApi,
    /// The definitions of Istio's kinds, or the one of this name.
    Definitions(Option<String>),
    DefinitionResources,
    /// What Marathon runs: all of a kind, or one.
    Running {
        of: Running,
        namespace: Option<String>,
        name: Option<String>,
    },
    /// Kinds that are refused.
    Refused(refused::Asked),
    RefusedResources {
        group: &'static str,
        version: &'static str,
    },
    /// A core resource that is always empty here: kubectl asks for it on the way (`describe`, `cluster-info`).
    Empty(&'static str),
    Objects {
        collection: Collection,
        version: &'static str,
        namespace: Option<String>,
    },
    Object {
        key: Key,
        version: &'static str,
    },
}

impl Endpoint {
    /// Reads a path.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz"] => Some(Self::Health),
            ["version"] => Some(Self::Version),
            ["openapi", "v2"] => Some(Self::OpenApi),
            ["api"] => Some(Self::CoreVersions),
            ["api", "v1"] => Some(Self::CoreResources),
            ["api", "v1", "events"] | ["api", "v1", "namespaces", _, "events"] => Some(Self::Empty("EventList")),
            ["api", "v1", "namespaces"] => {
                Some(Self::Objects { collection: Collection::Namespaces, version: "v1", namespace: None })
            }
            ["api", "v1", "namespaces", name] => Some(Self::Object { key: Key::namespace(name), version: "v1" }),
            ["api", "v1", plural] if Running::parse(plural).is_some() => Self::running(plural, None, None),
            ["api", "v1", plural, name] => Self::running(plural, None, Some(name)).filter(|found| !found.is_namespaced()),
            ["api", "v1", "namespaces", namespace, plural] if Running::parse(plural).is_some() => {
                Self::running(plural, Some(namespace), None).filter(Self::is_namespaced)
            }
            ["api", "v1", "namespaces", namespace, plural, name] if Running::parse(plural).is_some() => {
                Self::running(plural, Some(namespace), Some(name)).filter(Self::is_namespaced)
            }
            ["api", "v1", plural] => Some(Self::Objects { collection: core(plural)?, version: "v1", namespace: None }),
            ["api", "v1", "namespaces", namespace, plural] => {
                Some(Self::Objects { collection: core(plural)?, version: "v1", namespace: Some((*namespace).to_owned()) })
            }
            ["api", "v1", "namespaces", namespace, plural, name] => {
                let key = Key { collection: core(plural)?, namespace: (*namespace).to_owned(), name: (*name).to_owned() };
                Some(Self::Object { key, version: "v1" })
            }
            ["apis"] => Some(Self::Groups),
            ["apis", crds::GROUP] => Some(Self::Group(crds::GROUP)),
            ["apis", crds::GROUP, crds::VERSION] => Some(Self::DefinitionResources),
            ["apis", crds::GROUP, crds::VERSION, crds::PLURAL] => Some(Self::Definitions(None)),
            ["apis", crds::GROUP, crds::VERSION, crds::PLURAL, name] => Some(Self::Definitions(Some((*name).to_owned()))),
            ["apis", group, rest @ ..] if refused::GROUPS.iter().any(|(name, _)| name == group) => {
                let (group, versions) = refused::GROUPS.into_iter().find(|(name, _)| name == group)?;
                let Some((version, rest)) = rest.split_first() else { return Some(Self::Group(group)) };
                let version = versions.iter().find(|v| *v == version)?;
                match rest {
                    [] => Some(Self::RefusedResources { group, version }),
                    rest => refused::Asked::parse(group, version, rest).map(Self::Refused),
                }
            }
            ["apis", group, rest @ ..] => {
                let (group, versions) = istio::GROUPS.into_iter().find(|(name, _)| name == group)?;
                let Some((version, rest)) = rest.split_first() else { return Some(Self::Group(group)) };
                Self::istio(group, versions.iter().find(|v| *v == version)?, rest)
            }
            _ => None,
        }
    }

    fn running(plural: &str, namespace: Option<&str>, name: Option<&str>) -> Option<Self> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Self::Running { of: Running::parse(plural)?, namespace: owned(namespace), name: owned(name) })
    }

    const fn is_namespaced(&self) -> bool {
        !matches!(self, Self::Running { of: Running::Nodes, .. })
    }

    fn istio(group: &'static str, version: &'static str, rest: &[&str]) -> Option<Self> {
        let mut kinds = Kind::ALL.into_iter().filter(|kind| kind.group() == group);
        let mut kind = |plural: &str| kinds.find(|kind| kind.plural() == plural).map(Collection::Istio);
        match rest {
            [] => Some(Self::GroupResources { group, version }),
            [plural] => Some(Self::Objects { collection: kind(plural)?, version, namespace: None }),
            ["namespaces", namespace, plural] => {
                Some(Self::Objects { collection: kind(plural)?, version, namespace: Some((*namespace).to_owned()) })
            }
            ["namespaces", namespace, plural, name] => {
                let key = Key { collection: kind(plural)?, namespace: (*namespace).to_owned(), name: (*name).to_owned() };
                Some(Self::Object { key, version })
            }
            _ => None,
        }
    }
}

/// The collections of the core group that are in namespaces.
fn core(plural: &str) -> Option<Collection> {
    [Collection::ConfigMaps, Collection::Secrets].into_iter().find(|collection| collection.plural() == plural)
}

/// What the query asks. Parameters that change nothing here (`pretty`, `timeout`, `fieldManager`, `fieldValidation`) are not kept:
/// unknown fields are refused whatever `fieldValidation` says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Options {
    pub(super) limit: usize,
    pub(super) continue_token: String,
    pub(super) label_selector: String,
    pub(super) field_selector: String,
    pub(super) watch: bool,
    pub(super) bookmarks: bool,
    pub(super) initial_events: bool,
    pub(super) resource_version: String,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) dry_run: bool,
    pub(super) include_object: String,
}

impl Options {
    /// Reads a query.
    pub(super) fn parse(uri: &Uri) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::bad_request(format!("the query cannot be read: {e}")))?;
        let mut options = Self::default();
        for (name, value) in pairs.0 {
            let number = || value.parse::<u64>().map_err(|e| ApiError::bad_request(format!("{name}: {value:?}: {e}")));
            let truth = || matches!(value.as_str(), "1" | "true" | "");
            match name.as_str() {
                "limit" => options.limit = usize::try_from(number()?).unwrap_or(usize::MAX),
                "continue" => options.continue_token = value,
                "labelSelector" => options.label_selector = value,
                "fieldSelector" => options.field_selector = value,
                "watch" => options.watch = truth(),
                "allowWatchBookmarks" => options.bookmarks = truth(),
                "sendInitialEvents" => options.initial_events = truth(),
                "resourceVersion" => options.resource_version = value,
                "timeoutSeconds" => options.timeout_seconds = Some(number()?),
                "dryRun" => options.dry_run = dry_run(&value)?,
                "includeObject" => options.include_object = value,
                _ => {}
            }
        }
        Ok(options)
    }
}

/// `All` is the only way to run dry.
pub(super) fn dry_run(value: &str) -> Result<bool, ApiError> {
    if value == "All" {
        return Ok(true);
    }
    Err(ApiError::invalid(format!("dryRun: Unsupported value: {value:?}: supported values: \"All\"")))
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    Json,
    /// A `Table` of meta.k8s.io in this version.
    Table(&'static str),
}

impl Form {
    /// The first acceptable form, in the order of the header.
    pub(super) fn negotiate(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Self::Json) };
        let accept = accept.to_str().unwrap_or_default();
        for entry in accept.split(',') {
            let mut parameters = entry.split(';').map(str::trim);
            let media = parameters.next().unwrap_or_default();
            let get = |name: &str| entry.split(';').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('='));
            match (media, get("as")) {
                ("application/json", Some("Table")) if get("v") == Some("v1") => return Ok(Self::Table("v1")),
                ("application/json", Some("Table")) if get("v") == Some("v1beta1") => return Ok(Self::Table("v1beta1")),
                ("application/json" | "application/*" | "*/*", None) => return Ok(Self::Json),
                _ => {}
            }
        }
        Err(ApiError::not_acceptable())
    }
}

/// Kubernetes' verb, for audit and refusals.
pub(super) fn verb(method: &Method, endpoint: &Endpoint, watch: bool) -> &'static str {
    let one =
        matches!(endpoint, Endpoint::Object { .. } | Endpoint::Definitions(Some(_)) | Endpoint::Running { name: Some(_), .. });
    match *method {
        Method::GET if watch => "watch",
        Method::GET if one => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    }
}
