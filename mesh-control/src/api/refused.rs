//! Kinds that users of Istio and Kubernetes know and that are not in force here: each is refused with a sentence, and none is ever stored.

use axum::body::Body;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::status::{ApiError, json_response};

/// Groups that have nothing else, with their versions, the preferred one first.
pub(super) const GROUPS: [(&str, &[&str]); 2] = [("security.istio.io", &["v1", "v1beta1"]), ("apps", &["v1"])];

/// A kind, and why there is none.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Refused {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    why: &'static str,
}

const KINDS: [Refused; 4] = [
    Refused {
        group: "security.istio.io",
        kind: "PeerAuthentication",
        plural: "peerauthentications",
        short: "pa",
        why: "mutual TLS between workloads is not enforced by this version, so the rule is not stored; connections within the mesh are \
              as the applications make them",
    },
    Refused {
        group: "security.istio.io",
        kind: "RequestAuthentication",
        plural: "requestauthentications",
        short: "ra",
        why: "the tokens of requests are not checked by this version, so the rule is not stored: it would let pass what it seems to refuse",
    },
    Refused {
        group: "security.istio.io",
        kind: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        short: "ap",
        why: "requests are not authorized by this version, so the policy is not stored: it would let pass what it seems to deny; what \
              workloads may reach outside the mesh is said by ServiceEntries",
    },
    Refused {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        short: "deploy",
        why: "Marathon runs the workloads: post a pod to its /v2/pods (or an app to /v2/apps) with the containers, `scaling.instances` \
              for replicas, the labels that rules select by, and for the service an endpoint with the label VIP_0=/NAME:PORT",
    },
];

/// Something of such a kind, or all of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Asked {
    of: &'static Refused,
    version: &'static str,
    name: Option<String>,
}

impl Asked {
    /// Reads what follows `/apis/GROUP/VERSION/`.
    pub(super) fn parse(group: &str, version: &'static str, rest: &[&str]) -> Option<Self> {
        let of = |plural: &str| KINDS.iter().find(|kind| kind.group == group && kind.plural == plural);
        let (of, name) = match rest {
            [plural] | ["namespaces", _, plural] => (of(plural)?, None),
            ["namespaces", _, plural, name] => (of(plural)?, Some((*name).to_owned())),
            _ => return None,
        };
        Some(Self { of, version, name })
    }

    /// There are none, and there will be none.
    pub(super) fn answer(&self, method: &Method) -> Result<Response<Body>, ApiError> {
        let Refused { group, kind, plural, why, .. } = self.of;
        match (method, &self.name) {
            (&Method::GET, None) => {
                let list = json!({
                    "kind": format!("{kind}List"), "apiVersion": format!("{group}/{}", self.version),
                    "metadata": { "resourceVersion": "1" }, "items": [],
                });
                Ok(json_response(StatusCode::OK, &list))
            }
            (&(Method::GET | Method::DELETE), Some(name)) => Err(ApiError::not_there(group, plural, name)),
            (&(Method::POST | Method::PUT | Method::PATCH), _) => {
                Err(ApiError::forbidden(format!("{plural}.{group} is forbidden: {why}")))
            }
            _ => Err(ApiError::method_not_allowed()),
        }
    }
}

/// `/apis/GROUP/VERSION`.
pub(super) fn resources(group: &str, version: &str) -> Value {
    let resource = |kind: &Refused| {
        json!({
            "name": kind.plural, "singularName": kind.kind.to_ascii_lowercase(), "namespaced": true, "kind": kind.kind,
            "verbs": ["create", "get", "list"], "shortNames": [kind.short],
        })
    };
    let kinds: Vec<_> = KINDS.iter().filter(|kind| kind.group == group).map(resource).collect();
    json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{group}/{version}"), "resources": kinds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_refused_with_its_sentence_and_never_there() {
        for kind in &KINDS {
            let (_, versions) = GROUPS.iter().find(|(group, _)| *group == kind.group).expect("a group");
            for version in *versions {
                let all = Asked::parse(kind.group, version, &["namespaces", "shop", kind.plural]).expect("known");
                assert_eq!(all.answer(&Method::GET).expect("a list").status(), StatusCode::OK);
                let error = all.answer(&Method::POST).expect_err("refused");
                assert!(error.code == StatusCode::FORBIDDEN && error.message.ends_with(kind.why), "{error:?}");
                let one = Asked::parse(kind.group, version, &["namespaces", "shop", kind.plural, "x"]).expect("known");
                assert_eq!(one.answer(&Method::GET).expect_err("none").code, StatusCode::NOT_FOUND);
                assert_eq!(one.answer(&Method::PATCH).expect_err("refused").code, StatusCode::FORBIDDEN);
                let listed = resources(kind.group, version);
                assert!(listed["resources"].as_array().expect("some").iter().any(|one| one["kind"] == kind.kind), "{listed}");
            }
        }
        assert_eq!(Asked::parse("apps", "v1", &["namespaces", "shop", "statefulsets"]), None);
    }
}
