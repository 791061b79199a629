//! `kubectl get crds`: the kinds of Istio that this server has, as CustomResourceDefinitions. They are part of the program, so they are read
//! only; what they say of schemas is that the server checks fields itself.

use axum::body::Body;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::request::{Form, Options};
use super::select::Selector;
use super::status::{ApiError, json_response};
use crate::istio::{GROUPS, Kind};

/// The API group.
pub(super) const GROUP: &str = "apiextensions.k8s.io";
/// Its only version here.
pub(super) const VERSION: &str = "v1";
/// The resource in paths.
pub(super) const PLURAL: &str = "customresourcedefinitions";
/// Nobody made them.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// `/apis/apiextensions.k8s.io/v1`.
pub(super) fn resources() -> Value {
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [{
            "name": PLURAL, "singularName": "customresourcedefinition", "namespaced": false, "kind": "CustomResourceDefinition",
            "verbs": ["get", "list"], "shortNames": ["crd", "crds"], "categories": ["api-extensions"],
        }],
    })
}

/// All that a query means.
pub(super) fn list(form: Form, options: &Options) -> Result<Response<Body>, ApiError> {
    if options.watch {
        return Err(ApiError::method_not_allowed());
    }
    let selector = Selector::parse(&options.label_selector, &options.field_selector)?;
    let found = Kind::ALL.into_iter().map(definition).filter(|definition| selector.matches(definition)).collect();
    let answer = match form {
        Form::Table(version) => table(version, found),
        Form::Json => json!({
            "kind": "CustomResourceDefinitionList", "apiVersion": format!("{GROUP}/{VERSION}"),
            "metadata": { "resourceVersion": "1" }, "items": found,
        }),
    };
    Ok(json_response(StatusCode::OK, &answer))
}

/// One, by its name `PLURAL.GROUP`.
pub(super) fn get(name: &str, form: Form) -> Result<Response<Body>, ApiError> {
    let kind = Kind::ALL.into_iter().find(|kind| full_name(*kind) == name);
    let found = definition(kind.ok_or_else(|| ApiError::not_there(GROUP, PLURAL, name))?);
    let answer = match form {
        Form::Table(version) => table(version, vec![found]),
        Form::Json => found,
    };
    Ok(json_response(StatusCode::OK, &answer))
}

fn full_name(kind: Kind) -> String {
    format!("{}.{}", kind.plural(), kind.group())
}

fn definition(kind: Kind) -> Value {
    let versions = GROUPS.iter().find(|(group, _)| *group == kind.group()).map_or(&[][..], |(_, versions)| *versions);
    let version = |version: &&str| {
        json!({
            "name": version, "served": true, "storage": *version == kind.version(),
            "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
        })
    };
    let names = json!({
        "plural": kind.plural(), "singular": kind.singular(), "kind": kind.name(), "listKind": format!("{}List", kind.name()),
        "shortNames": kind.short().into_iter().collect::<Vec<_>>(), "categories": kind.categories(),
    });
    let condition = |what: &str, reason: &str, message: &str| json!({ "type": what, "status": "True", "lastTransitionTime": CREATED, "reason": reason, "message": message });
    json!({
        "kind": "CustomResourceDefinition", "apiVersion": format!("{GROUP}/{VERSION}"),
        "metadata": { "name": full_name(kind), "uid": full_name(kind), "resourceVersion": "1", "generation": 1, "creationTimestamp": CREATED },
        "spec": {
            "group": kind.group(), "scope": "Namespaced", "names": names, "conversion": { "strategy": "None" },
            "versions": versions.iter().map(version).collect::<Vec<_>>(),
        },
        "status": {
            "acceptedNames": names, "storedVersions": [kind.version()],
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
        },
    })
}

fn table(version: &str, definitions: Vec<Value>) -> Value {
    let column = |name: &str, kind: &str, format: &str, description: &str| json!({ "name": name, "type": kind, "format": format, "description": description, "priority": 0 });
    let row = |definition: Value| {
        let meta = &definition["metadata"];
        let object = json!({ "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": meta });
        json!({ "cells": [meta["name"], meta["creationTimestamp"]], "object": object })
    };
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": { "resourceVersion": "1" },
        "columnDefinitions": [
            column("Name", "string", "name", "Name must be unique within a namespace."),
            column("Created At", "date", "", "When this object was created."),
        ],
        "rows": definitions.into_iter().map(row).collect::<Vec<_>>(),
    })
}
