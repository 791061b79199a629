//! What kubectl asks before it asks for anything: versions, groups, resources, and the OpenAPI document it cannot do without.

use axum::body::Body;
use http::{HeaderValue, Response, header};
use serde_json::{Value, json};

use super::running::Running;
use super::{crds, refused};
use crate::istio::{GROUPS, Kind};

/// kubectl wants a semantic version and warns if it is more than one minor version off; this is the API level that we imitate.
const KUBERNETES: &str = "v1.33.0";

/// `/version`.
pub(super) fn version() -> Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": format!("{KUBERNETES}+mesh.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

/// `/api`.
pub(super) fn core_versions() -> Value {
    json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
}

/// `/apis`.
pub(super) fn groups() -> Value {
    let names = GROUPS.iter().chain(&refused::GROUPS).map(|(name, _)| *name).chain([crds::GROUP]);
    let groups = names.map(|name| {
        let mut group = group(name);
        if let Some(fields) = group.as_object_mut() {
            fields.retain(|name, _| name != "kind" && name != "apiVersion");
        }
        group
    });
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups.collect::<Vec<_>>() })
}

/// `/apis/GROUP`.
pub(super) fn group(name: &str) -> Value {
    let version = |v: &&str| json!({ "groupVersion": format!("{name}/{v}"), "version": v });
    let crds = (crds::GROUP, &[crds::VERSION][..]);
    let versions = GROUPS
        .iter()
        .chain(&refused::GROUPS)
        .chain([&crds])
        .find(|(group, _)| *group == name)
        .map_or(&[][..], |(_, versions)| *versions);
    json!({
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

const VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];

/// `/api/v1`.
pub(super) fn core_resources() -> Value {
    let mut all = json!({
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {
                "name": "configmaps", "singularName": "configmap", "namespaced": true, "kind": "ConfigMap", "verbs": VERBS,
                "shortNames": ["cm"],
            },
            { "name": "events", "singularName": "event", "namespaced": true, "kind": "Event", "verbs": ["list"], "shortNames": ["ev"] },
            {
                "name": "namespaces", "singularName": "namespace", "namespaced": false, "kind": "Namespace", "verbs": VERBS,
                "shortNames": ["ns"],
            },
            { "name": "secrets", "singularName": "secret", "namespaced": true, "kind": "Secret", "verbs": VERBS },
        ],
    });
    if let Some(resources) = all["resources"].as_array_mut() {
        resources.extend(Running::resources());
    }
    all
}

/// `/apis/GROUP/VERSION`.
pub(super) fn group_resources(group: &str, version: &str) -> Value {
    let resource = |kind: Kind| {
        json!({
            "name": kind.plural(),
            "singularName": kind.singular(),
            "namespaced": true,
            "kind": kind.name(),
            "verbs": VERBS,
            "shortNames": kind.short().into_iter().collect::<Vec<_>>(),
            "categories": kind.categories(),
        })
    };
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.group() == group);
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": format!("{group}/{version}"),
        "resources": kinds.map(resource).collect::<Vec<_>>(),
    })
}

/// `/openapi/v2`: gnostic's protobuf form of a Swagger document. Without it no version of kubectl applies anything. It has no schemas (the
/// server checks more than a schema could) but says of each kind that PATCH takes `dryRun` and `fieldValidation`, which kubectl looks up
/// before it uses them.
pub(super) fn openapi() -> Response<Body> {
    let mut document = Vec::new();
    bytes(&mut document, 1, b"2.0");
    let mut info = Vec::new();
    bytes(&mut info, 1, b"mesh-control");
    bytes(&mut info, 2, KUBERNETES.as_bytes());
    bytes(&mut document, 2, &info);
    let mut paths = Vec::new();
    for (group, versions) in GROUPS {
        for (version, kind) in versions.iter().flat_map(|v| Kind::ALL.map(|kind| (v, kind))).filter(|(_, k)| k.group() == group) {
            let path = format!("/apis/{group}/{version}/namespaces/{{namespace}}/{}/{{name}}", kind.plural());
            bytes(&mut paths, 2, &path_item(&path, group, version, kind.name()));
        }
    }
    bytes(&mut paths, 2, &path_item("/api/v1/namespaces/{name}", "", "v1", "Namespace"));
    bytes(&mut paths, 2, &path_item("/api/v1/namespaces/{namespace}/secrets/{name}", "", "v1", "Secret"));
    bytes(&mut paths, 2, &path_item("/api/v1/namespaces/{namespace}/configmaps/{name}", "", "v1", "ConfigMap"));
    bytes(&mut document, 8, &paths);
    let mut response = Response::new(Body::from(document));
    // Not the media type that was asked for: Go's parser refuses its '@'. The real server does the same.
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

/// `NamedPathItem { name, value: PathItem { patch: Operation { parameters, vendor_extension } } }`.
fn path_item(path: &str, group: &str, version: &str, kind: &str) -> Vec<u8> {
    let mut operation = Vec::new();
    for parameter in ["dryRun", "fieldManager", "fieldValidation"] {
        // QueryParameterSubSchema { in: 2, name: 4, type: 6 } in NonBodyParameter (3), Parameter (2), ParametersItem (1).
        let mut query = Vec::new();
        bytes(&mut query, 2, b"query");
        bytes(&mut query, 4, parameter.as_bytes());
        bytes(&mut query, 6, b"string");
        bytes(&mut operation, 8, &wrapped(1, &wrapped(2, &wrapped(3, &query))));
    }
    let yaml = format!("group: {group:?}\nkind: {kind}\nversion: {version}\n");
    let mut extension = Vec::new();
    bytes(&mut extension, 1, b"x-kubernetes-group-version-kind");
    bytes(&mut extension, 2, &wrapped(2, yaml.as_bytes()));
    bytes(&mut operation, 13, &extension);
    let mut item = Vec::new();
    bytes(&mut item, 1, path.as_bytes());
    bytes(&mut item, 2, &wrapped(8, &operation));
    item
}

fn wrapped(field: u32, content: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    bytes(&mut message, field, content);
    message
}

/// One length-delimited protobuf field.
fn bytes(message: &mut Vec<u8>, field: u32, content: &[u8]) {
    prost::encoding::encode_varint(u64::from(field << 3 | 2), message);
    prost::encoding::encode_varint(content.len() as u64, message);
    message.extend_from_slice(content);
}
