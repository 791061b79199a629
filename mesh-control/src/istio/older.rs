//! Older spellings: honoured, and each told with the form that Istio has now.

use serde_json::Value;

use super::Kind;

/// Kind, where the field is (without the places in lists), and what to write instead.
const FIELDS: [(Kind, &str, &str); 11] = [
    (Kind::VirtualService, "spec.http.fault.abort.percent", "percentage.value"),
    (Kind::VirtualService, "spec.http.fault.delay.percent", "percentage.value"),
    (Kind::VirtualService, "spec.http.mirror_percent", "mirrorPercentage.value"),
    (Kind::VirtualService, "spec.http.mirrorPercent", "mirrorPercentage.value"),
    (Kind::VirtualService, "spec.http.corsPolicy.allowOrigin", "allowOrigins"),
    (Kind::DestinationRule, "outlierDetection.consecutiveErrors", "consecutiveGatewayErrors (or consecutive5xxErrors)"),
    (Kind::DestinationRule, "loadBalancer.warmupDurationSecs", "warmup.duration"),
    (Kind::DestinationRule, "loadBalancer.consistentHash.minimumRingSize", "ringHash.minimumRingSize"),
    (Kind::DestinationRule, "spec.trafficPolicy.loadBalancer.simple=LEAST_CONN", "LEAST_REQUEST"),
    (Kind::DestinationRule, "portLevelSettings.loadBalancer.simple=LEAST_CONN", "LEAST_REQUEST"),
    (Kind::DestinationRule, "subsets.trafficPolicy.loadBalancer.simple=LEAST_CONN", "LEAST_REQUEST"),
];

/// What is old in an object that was admitted, by its path: the end of a sentence that begins with the path.
pub(crate) fn of_object(kind: Kind, object: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(kind, &object["spec"], ("spec".to_owned(), "spec".to_owned()), &mut found);
    found
}

/// `path` is as it is told, `plain` without the places in lists.
fn walk(kind: Kind, value: &Value, (path, plain): (String, String), found: &mut Vec<(String, String)>) {
    let is_old = |field: &str| match field.split_once('=') {
        Some((field, old)) => ends(&plain, field) && *value == old,
        None => ends(&plain, field) && !value.is_null(),
    };
    if let Some((_, _, now)) = FIELDS.iter().find(|(of, field, _)| *of == kind && is_old(field)) {
        found.push((path.clone(), format!("is an older spelling, which is honoured; write {now}")));
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                walk(kind, value, (format!("{path}.{name}"), format!("{plain}.{name}")), found);
            }
        }
        Value::Array(items) => {
            // An old field that is a list was told as a whole.
            for (i, item) in items.iter().enumerate().filter(|(_, item)| item.is_object()) {
                walk(kind, item, (format!("{path}[{i}]"), plain.clone()), found);
            }
        }
        _ => {}
    }
}

/// Whole names only.
fn ends(path: &str, field: &str) -> bool {
    path.strip_suffix(field).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(kind: Kind, spec: Value) -> Vec<String> {
        let object = json!({ "spec": spec });
        crate::istio::admit(kind, &object).expect("an admissible spec");
        of_object(kind, &object).into_iter().map(|(path, why)| format!("{path}: {why}")).collect()
    }

    #[test]
    fn each_older_spelling_is_told_with_the_current_form() {
        let to = json!([{ "destination": { "host": "a" } }]);
        let fault = json!({ "abort": { "httpStatus": 500, "percent": 100 }, "delay": { "fixedDelay": "1s", "percent": 10 } });
        let http = json!([{ "route": to }, { "route": to, "fault": fault, "mirror": { "host": "b" }, "mirror_percent": 5,
            "corsPolicy": { "allowOrigin": ["x"] } }]);
        let is = "is an older spelling, which is honoured; write";
        let mut found = told(Kind::VirtualService, json!({ "hosts": ["a"], "http": http }));
        found.sort();
        assert_eq!(
            found,
            [
                format!("spec.http[1].corsPolicy.allowOrigin: {is} allowOrigins"),
                format!("spec.http[1].fault.abort.percent: {is} percentage.value"),
                format!("spec.http[1].fault.delay.percent: {is} percentage.value"),
                format!("spec.http[1].mirror_percent: {is} mirrorPercentage.value"),
            ]
        );
        let policy = |balancer: Value| json!({ "outlierDetection": { "consecutiveErrors": 5 }, "loadBalancer": balancer });
        let subset = json!({ "name": "v1", "trafficPolicy": policy(json!({ "consistentHash": { "useSourceIp": true, "minimumRingSize": 9 } })) });
        let spec = json!({ "host": "a", "trafficPolicy": policy(json!({ "simple": "LEAST_CONN", "warmupDurationSecs": "1s" })), "subsets": [subset] });
        let mut found = told(Kind::DestinationRule, spec);
        found.sort();
        let (one, two) = ("spec.subsets[0].trafficPolicy", "spec.trafficPolicy");
        assert_eq!(
            found,
            [
                format!("{one}.loadBalancer.consistentHash.minimumRingSize: {is} ringHash.minimumRingSize"),
                format!("{one}.outlierDetection.consecutiveErrors: {is} consecutiveGatewayErrors (or consecutive5xxErrors)"),
                format!("{two}.loadBalancer.simple: {is} LEAST_REQUEST"),
                format!("{two}.loadBalancer.warmupDurationSecs: {is} warmup.duration"),
                format!("{two}.outlierDetection.consecutiveErrors: {is} consecutiveGatewayErrors (or consecutive5xxErrors)"),
            ]
        );
    }

    #[test]
    fn current_forms_are_not_told() {
        let to = json!([{ "destination": { "host": "a" } }]);
        let fault = json!({ "abort": { "httpStatus": 500, "percentage": { "value": 100 } } });
        let http = json!([{ "route": to, "fault": fault, "mirror": { "host": "b" }, "mirrorPercentage": { "value": 5 } }]);
        assert_eq!(told(Kind::VirtualService, json!({ "hosts": ["a"], "http": http })), [""; 0]);
        let policy =
            json!({ "outlierDetection": { "consecutiveGatewayErrors": 5 }, "loadBalancer": { "simple": "LEAST_REQUEST" } });
        assert_eq!(told(Kind::DestinationRule, json!({ "host": "a", "trafficPolicy": policy })), [""; 0]);
    }
}
