//! Fields that are stored but not honoured yet. The API warns of each; the compiler engineer shortens the list as it honours them.

use serde_json::Value;

use super::kind::Kind;

/// A path below `spec`; `[]` is every element of a list.
type Row = (&'static str, &'static str);

const NOT_YET: &str = "is not enforced by this version";

const VIRTUAL_SERVICE: &[Row] = &[
    ("tcp", NOT_YET),
    ("tls", NOT_YET),
    ("exportTo", NOT_YET),
    ("http[].delegate", NOT_YET),
    ("http[].mirror", NOT_YET),
    ("http[].mirrors", NOT_YET),
    ("http[].mirrorPercent", NOT_YET),
    ("http[].mirrorPercentage", NOT_YET),
    ("http[].corsPolicy", NOT_YET),
    ("http[].match[].sourceLabels", NOT_YET),
    ("http[].match[].sourceNamespace", NOT_YET),
    ("http[].match[].statPrefix", NOT_YET),
    ("http[].retries.retryRemoteLocalities", NOT_YET),
];

const DESTINATION_RULE: &[Row] = &[
    ("exportTo", NOT_YET),
    ("workloadSelector", NOT_YET),
    ("trafficPolicy.loadBalancer.consistentHash", NOT_YET),
    ("trafficPolicy.loadBalancer.localityLbSetting", NOT_YET),
    ("trafficPolicy.loadBalancer.zoneAwareLbSetting", NOT_YET),
    ("trafficPolicy.loadBalancer.warmup", NOT_YET),
    ("trafficPolicy.loadBalancer.warmupDurationSecs", NOT_YET),
    ("trafficPolicy.connectionPool", NOT_YET),
    ("trafficPolicy.outlierDetection", NOT_YET),
    ("trafficPolicy.tls", NOT_YET),
    ("trafficPolicy.portLevelSettings", NOT_YET),
    ("trafficPolicy.tunnel", NOT_YET),
    ("trafficPolicy.proxyProtocol", NOT_YET),
    ("trafficPolicy.retryBudget", NOT_YET),
];

const SERVICE_ENTRY: &[Row] = &[
    ("exportTo", NOT_YET),
    ("workloadSelector", NOT_YET),
    ("subjectAltNames", NOT_YET),
    ("ports[].targetPort", NOT_YET),
    ("endpoints[].ports", NOT_YET),
    ("endpoints[].labels", NOT_YET),
];

/// Which fields of a spec have no effect, with their paths and the sentence to say.
pub(crate) fn unenforced(kind: Kind, spec: &Value) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    let mut look = |pattern: &str, why: &'static str| {
        let segments: Vec<&str> = pattern.split('.').collect();
        walk(spec, &segments, "spec".to_owned(), &mut |path| found.push((path, why)));
    };
    match kind {
        Kind::VirtualService => {
            VIRTUAL_SERVICE.iter().for_each(|(pattern, why)| look(pattern, why));
            found.extend(faults_that_never_happen(spec));
        }
        Kind::DestinationRule => {
            for (pattern, why) in DESTINATION_RULE {
                look(pattern, why);
                if pattern.starts_with("trafficPolicy") {
                    look(&format!("subsets[].{pattern}"), why);
                }
            }
        }
        Kind::ServiceEntry => SERVICE_ENTRY.iter().for_each(|(pattern, why)| look(pattern, why)),
        // Refused whole.
        Kind::Gateway => {}
    }
    found
}

/// Istio takes an absent percentage for zero, which hardly anybody means.
fn faults_that_never_happen(spec: &Value) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    for (i, route) in spec["http"].as_array().into_iter().flatten().enumerate() {
        for what in ["delay", "abort"] {
            let Some(fault) = route["fault"][what].as_object() else { continue };
            if !fault.contains_key("percentage") && !fault.contains_key("percent") {
                found.push((format!("spec.http[{i}].fault.{what}"), "has neither percentage nor percent, so it never happens"));
            }
        }
    }
    found
}

fn walk(value: &Value, segments: &[&str], path: String, found: &mut impl FnMut(String)) {
    let Some((segment, rest)) = segments.split_first() else {
        return found(path);
    };
    let name = segment.trim_end_matches("[]");
    let Some(value) = value.get(name).filter(|v| !v.is_null()) else { return };
    let path = format!("{path}.{name}");
    if *segment == name {
        return walk(value, rest, path, found);
    }
    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
        walk(item, rest, format!("{path}[{i}]"), found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_each_field_without_effect() {
        let spec = json!({ "hosts": ["a"], "http": [{ "route": [] }, { "mirror": { "host": "b" }, "match": [{ "sourceLabels": {} }] }] });
        let paths: Vec<String> = unenforced(Kind::VirtualService, &spec).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["spec.http[1].mirror", "spec.http[1].match[0].sourceLabels"]);
        let spec =
            json!({ "http": [{ "fault": { "abort": { "httpStatus": 500 }, "delay": { "percent": 1, "fixedDelay": "1s" } } }] });
        let paths: Vec<String> = unenforced(Kind::VirtualService, &spec).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["spec.http[0].fault.abort"]);
        let spec = json!({ "host": "a", "subsets": [{ "name": "v1", "trafficPolicy": { "tls": { "mode": "DISABLE" } } }] });
        let paths: Vec<String> = unenforced(Kind::DestinationRule, &spec).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["spec.subsets[0].trafficPolicy.tls"]);
    }
}
