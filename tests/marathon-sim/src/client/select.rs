//! Which container is meant: by app or pod id, instance id, or a prefix of one. Pure.

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The instance and one of its containers. Of several instances of an app, the first that runs.
pub(crate) fn container<'a>(instances: &'a Value, pod: &str, container: Option<&str>) -> Result<(&'a Value, &'a Value)> {
    let instance = instance(instances, pod)?;
    let containers = instance["containers"].as_array().map_or(&[][..], Vec::as_slice);
    let names: Vec<&str> = containers.iter().filter_map(|c| c["name"].as_str()).collect();
    let found = match container {
        None => containers.first().with_context(|| format!("{pod} has no container yet"))?,
        Some(name) => {
            let found = containers.iter().find(|c| c["name"] == *name);
            found.with_context(|| format!("{pod} has no container {name}; it has {}", names.join(", ")))?
        }
    };
    Ok((instance, found))
}

fn instance<'a>(instances: &'a Value, pod: &str) -> Result<&'a Value> {
    let all: Vec<&Value> = instances.as_array().into_iter().flatten().collect();
    let wanted = pod.trim_matches('/');
    let app = |i: &Value| i["app"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
    let id = |i: &Value| i["id"].as_str().unwrap_or_default().to_owned();
    let exact: Vec<&Value> = all.iter().copied().filter(|i| app(i) == wanted || id(i) == wanted).collect();
    let prefixed = || all.iter().copied().filter(|i| app(i).starts_with(wanted) || id(i).starts_with(wanted)).collect::<Vec<_>>();
    let candidates = if exact.is_empty() { prefixed() } else { exact };
    let Some(first) = candidates.first() else {
        let mut apps: Vec<String> = all.iter().map(|i| format!("/{}", app(i))).collect();
        apps.dedup();
        let apps = if apps.is_empty() { "none".to_owned() } else { apps.join(", ") };
        bail!("no app, pod or instance {pod}; there are: {apps}");
    };
    if let Some(other) = candidates.iter().find(|i| app(i) != app(first)) {
        bail!("{pod} is ambiguous: /{}, /{}", app(first), app(other));
    }
    Ok(candidates.iter().find(|i| i["running"] == true).unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn by_id_and_prefix() {
        let of = |app: &str, id: &str, running: bool| json!({"app": app, "id": id, "running": running, "containers": [{"name": "a"}, {"name": "b"}]});
        let all = json!([
            of("/reviews-v1", "reviews-v1.instance-1", false),
            of("/reviews-v1", "reviews-v1.instance-2", true),
            of("/reviews-v2", "reviews-v2.instance-3", true),
        ]);
        let id = |pod: &str, c: Option<&str>| container(&all, pod, c).map(|(i, c)| format!("{}/{}", i["id"], c["name"]));
        assert_eq!(id("/reviews-v1", None).unwrap(), "\"reviews-v1.instance-2\"/\"a\"");
        assert_eq!(id("reviews-v1.instance-1", Some("b")).unwrap(), "\"reviews-v1.instance-1\"/\"b\"");
        assert_eq!(id("reviews-v2", None).unwrap(), "\"reviews-v2.instance-3\"/\"a\"");
        assert!(id("reviews", None).unwrap_err().to_string().contains("ambiguous"));
        assert_eq!(
            id("nope", None).unwrap_err().to_string(),
            "no app, pod or instance nope; there are: /reviews-v1, /reviews-v2"
        );
        assert!(id("reviews-v2", Some("c")).unwrap_err().to_string().contains("it has a, b"));
    }
}
