//! `Table` answers: the columns that `kubectl get` prints, with Istio's printer columns.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::request::Form;
use crate::istio::Kind;
use crate::store::Collection;

/// A column: name, OpenAPI type, description, and where its value is in the object.
type Column = (&'static str, &'static str, &'static str);

/// Of a map the number of its entries is shown: what a secret holds is in no table.
const DATA: &str = "/data";

const fn columns(collection: Collection) -> &'static [Column] {
    match collection {
        Collection::Namespaces => &[("Status", "The status of the namespace", "/status/phase")],
        Collection::Istio(Kind::VirtualService) => &[
            ("Gateways", "The names of gateways and sidecars that should apply these routes", "/spec/gateways"),
            ("Hosts", "The destination hosts to which traffic is being sent", "/spec/hosts"),
        ],
        Collection::Istio(Kind::DestinationRule) => &[("Host", "The name of a service from the service registry", "/spec/host")],
        Collection::ConfigMaps => &[("Data", "How many keys it has.", DATA)],
        Collection::Secrets => &[
            ("Type", "Used to facilitate programmatic handling of secret data.", "/type"),
            ("Data", "How many keys it has.", DATA),
        ],
        Collection::Istio(Kind::Gateway | Kind::DestinationPolicy) => &[],
        Collection::Istio(Kind::ServiceEntry) => &[
            ("Hosts", "The hosts associated with the ServiceEntry", "/spec/hosts"),
            ("Location", "Whether the service is external to the mesh or part of the mesh", "/spec/location"),
            ("Resolution", "Service resolution mode for the hosts", "/spec/resolution"),
        ],
    }
}

/// What `includeObject` asks of each row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Include {
    Metadata,
    Object,
    None,
}

impl Include {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "Object" => Self::Object,
            "None" => Self::None,
            _ => Self::Metadata,
        }
    }
}

/// The table of some objects; `meta` is the list's. A watch sends the columns only once.
pub(super) fn table(
    collection: Collection,
    version: &str,
    objects: &[Value],
    meta: Value,
    include: Include,
    with_columns: bool,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.iter().map(|object| row(collection, version, object, include, now)).collect();
    let columns = if with_columns { definitions(collection) } else { Value::Null };
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn definitions(collection: Collection) -> Value {
    let definition = |name: &str, kind: &str, format: &str, description: &str| json!({ "name": name, "type": kind, "format": format, "description": description, "priority": 0 });
    let mut all = vec![definition("Name", "string", "name", "Name must be unique within a namespace.")];
    all.extend(columns(collection).iter().map(|(name, description, _)| definition(name, "string", "", description)));
    let age = "CreationTimestamp is the server time when this object was created.";
    // Istio's Age is a date, which kubectl shows as given; a duration is written here either way.
    all.push(definition("Age", "string", "", age));
    Value::Array(all)
}

fn row(collection: Collection, version: &str, object: &Value, include: Include, now: Timestamp) -> Value {
    let mut cells = vec![object["metadata"]["name"].clone()];
    cells.extend(columns(collection).iter().map(|(_, _, pointer)| match object.pointer(pointer) {
        // As the API server prints arrays.
        Some(list @ Value::Array(_)) => Value::String(list.to_string()),
        Some(Value::Object(map)) => json!(map.len()),
        Some(value) => value.clone(),
        None => Value::Null,
    }));
    let created = object["metadata"]["creationTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    cells.push(json!(created.map_or_else(|| "<unknown>".to_owned(), |created| age(now.as_second() - created.as_second()))));
    let mut row = json!({ "cells": cells });
    match include {
        Include::None => {}
        Include::Object => row["object"] = object.clone(),
        Include::Metadata => {
            row["object"] = json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": object["metadata"],
            });
        }
    }
    row
}

/// `HumanDuration` of apimachinery.
fn age(seconds: i64) -> String {
    let (m, h, d) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two =
        |big: i64, a: char, small: i64, b: char| if small == 0 { format!("{big}{a}") } else { format!("{big}{a}{small}{b}") };
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(m, 'm', seconds % 60, 's'),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => two(h, 'h', m % 60, 'm'),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => two(d, 'd', h % 24, 'h'),
        691_200..63_072_000 => format!("{d}d"),
        63_072_000..252_288_000 => two(d / 365, 'y', d % 365, 'd'),
        _ => format!("{}y", d / 365),
    }
}

/// A list or a table of objects.
pub(super) fn list(
    collection: Collection,
    form: Form,
    api_version: &str,
    objects: Vec<Value>,
    meta: Value,
    include: Include,
) -> Value {
    match form {
        Form::Table(version) => table(collection, version, &objects, meta, include, true, Timestamp::now()),
        Form::Json => json!({
            "kind": format!("{}List", super::status::kind(collection)),
            "apiVersion": api_version,
            "metadata": meta,
            "items": objects,
        }),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ages_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-3, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (3600, "60m"),
            (10_860, "3h1m"),
            (90_000, "25h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (864_000, "10d"),
        ] {
            assert_eq!(super::age(seconds), text);
        }
    }
}
