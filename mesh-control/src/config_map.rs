//! `ConfigMap` of Kubernetes' core group: what kubectl writes, and the one that is read, `istio` in `istio-system`, which has the MeshConfig.

use serde_json::{Value, json};

use crate::istio::mesh_config::{self, MeshConfig};
use crate::istio::problem::{Path, Problems};

/// Is this the one with the MeshConfig?
pub(crate) fn is_mesh(namespace: &str, name: &str) -> bool {
    (namespace, name) == (mesh_config::NAMESPACE, mesh_config::NAME)
}

/// The object in the form in which it is kept.
pub(crate) fn normal(object: &Value) -> Value {
    let map = |field: &str| object[field].as_object().filter(|map| !map.is_empty()).map(|map| (field.to_owned(), json!(map)));
    let mut normal: serde_json::Map<_, _> = ["data", "binaryData"].into_iter().filter_map(map).collect();
    if object["immutable"] == true {
        normal.insert("immutable".to_owned(), json!(true));
    }
    Value::Object(normal)
}

/// Checks an object and reads what is in force of it.
///
/// # Errors
/// With everything that is wrong.
pub(crate) fn read(namespace: &str, name: &str, object: &Value) -> Result<Option<MeshConfig>, Problems> {
    let mut problems = Problems::default();
    for field in ["data", "binaryData"] {
        let at = Path::root(field);
        match &object[field] {
            Value::Null => {}
            Value::Object(entries) => {
                for (key, _) in entries.iter().filter(|(_, value)| !value.is_string()) {
                    problems.wrong_type(&at.key(key), "string", &entries[key]);
                }
            }
            other => problems.wrong_type(&at, "object", other),
        }
    }
    if !(object["immutable"].is_null() || object["immutable"].is_boolean()) {
        problems.wrong_type(&Path::root("immutable"), "boolean", &object["immutable"]);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let text = object["data"][mesh_config::KEY].as_str().filter(|_| is_mesh(namespace, name));
    text.map(|text| MeshConfig::read(text).map(|(found, _)| found)).transpose()
}

/// What of it has no effect.
pub(crate) fn warnings(namespace: &str, name: &str, object: &Value) -> Vec<String> {
    if !is_mesh(namespace, name) {
        return vec![format!(
            "only the ConfigMap {} in {} has an effect in this version",
            mesh_config::NAME,
            mesh_config::NAMESPACE
        )];
    }
    let entries = ["data", "binaryData"].into_iter().flat_map(|field| {
        let keys = object[field].as_object().into_iter().flatten().map(|(key, _)| key);
        keys.filter(move |key| field != "data" || *key != mesh_config::KEY).map(move |key| format!("{field}.{key}"))
    });
    let text = object["data"][mesh_config::KEY].as_str().unwrap_or_default();
    let unused = MeshConfig::read(text).map(|(_, unused)| unused).unwrap_or_default();
    let unused = unused.into_iter().map(|field| format!("data.{}.{field}", mesh_config::KEY));
    entries.chain(unused).map(|field| format!("{field}: is not enforced by this version")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_meshs_own_is_read_and_what_has_no_effect_is_told() {
        let object = json!({ "data": { "mesh": "enableTracing: false\ntrustDomain: a.b", "meshNetworks": "networks: {}" } });
        let mesh = read("istio-system", "istio", &object).expect("good").expect("the mesh's");
        assert_eq!(mesh.tracing, Some(false));
        assert_eq!(
            warnings("istio-system", "istio", &object),
            ["data.meshNetworks: is not enforced by this version", "data.mesh.trustDomain: is not enforced by this version"]
        );
        assert_eq!(read("default", "istio", &json!({ "data": { "mesh": "a: [" } })).expect("not read"), None);
        assert_eq!(warnings("default", "istio", &object).len(), 1);
        let wrong = read("default", "any", &json!({ "data": { "a": 1 }, "immutable": "yes" })).expect_err("wrong").to_string();
        assert!(wrong.contains("data[a]") && wrong.contains("immutable"), "{wrong}");
    }
}
