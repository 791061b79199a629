//! What admission would say of an object, without a server: `mesh-control validate`. The same code as a `create`; only what is stored already is not
//! known.

use super::object;
use super::status;
use crate::istio::GROUPS;
use crate::store::Collection;
use jiff::Timestamp;
use serde_json::Value;

/// How an object is called, and what is said of it.
#[derive(Debug, PartialEq)]
pub(crate) struct Verdict {
    /// `VirtualService default/reviews`.
    pub(crate) object: String,
    /// The refusal, or warnings of what has no effect.
    pub(crate) said: Result<Vec<String>, String>,
}

/// What `kubectl create` would print. `namespace` is for objects that name none.
pub(crate) fn verdict(body: &Value, namespace: &str) -> Verdict {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, name, own) = (text(&body["kind"]), text(&body["metadata"]["name"]), text(&body["metadata"]["namespace"]));
    let namespace = if own.is_empty() { namespace } else { &own };
    let object = if kind == "Namespace" { format!("{kind} {name}") } else { format!("{kind} {namespace}/{name}") };
    Verdict { object, said: judge(body, &kind, namespace) }
}

fn judge(body: &Value, kind: &str, namespace: &str) -> Result<Vec<String>, String> {
    let given = body["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = given.split_once('/').unwrap_or(("", given));
    let served = |group: &str, version: &str| match GROUPS.iter().find(|(name, _)| *name == group) {
        Some((_, versions)) => versions.contains(&version),
        None => group.is_empty() && version == "v1",
    };
    let collection = Collection::ALL.into_iter().find(|one| status::kind(*one) == kind && status::group(*one) == group);
    let collection = collection
        .filter(|_| served(group, version))
        .ok_or_else(|| format!("no matches for kind {kind:?} in version {given:?}"))?;
    let namespace = (collection != Collection::Namespaces).then_some(namespace);
    let checked = object::key_of(collection, namespace, body)
        .and_then(|key| Ok((object::created(&key, version, body, Timestamp::UNIX_EPOCH)?, key)));
    let (object, key) = checked.map_err(|error| error.message)?;
    Ok(object::warnings(&key, &object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(version: &str, spec: Value) -> Value {
        json!({"apiVersion": format!("networking.istio.io/{version}"), "kind": "VirtualService", "metadata": {"name": "reviews"}, "spec": spec})
    }

    #[test]
    fn what_kubectl_would_be_told() {
        let good = json!({"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]});
        let verdict = verdict(&rule("v1alpha3", good.clone()), "shop");
        assert_eq!(verdict, Verdict { object: "VirtualService shop/reviews".to_owned(), said: Ok(Vec::new()) });
        let said = |body: &Value| super::verdict(body, "default").said;
        assert!(said(&rule("v2", good)).is_err_and(|why| why.contains("no matches for kind")));
        assert!(said(&rule("v1", json!({"hosts": []}))).is_err_and(|why| why.contains("is invalid")));
        assert!(said(&rule("v1", json!({"host": "a"}))).is_err_and(|why| why.contains("unknown field")));
        let none = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}});
        assert!(said(&none).is_err_and(|why| why.contains("Deployment")));
        let mesh = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"}, "data": {"mesh": "trustDomain: x"}});
        let warned = super::verdict(&mesh, "default");
        assert_eq!(warned.object, "ConfigMap istio-system/istio");
        assert!(said(&mesh).is_ok_and(|warnings| warnings.len() == 1 && warnings[0].contains("trustDomain")));
    }
}
