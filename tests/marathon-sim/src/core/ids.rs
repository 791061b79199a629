//! Identifiers exactly as Marathon 1.8 and later writes them. Pure.

/// What each path segment must fully match.
pub(crate) const PATTERN: &str = "([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?";

/// Path without the leading slash, `/` turned to `_`: `/mygroup/myapp` is `mygroup_myapp`.
pub(crate) fn safe(spec_id: &str) -> String {
    spec_id.trim_start_matches('/').replace('/', "_")
}

pub(crate) fn instance(spec_id: &str, uuid: &str) -> String {
    format!("{}.instance-{uuid}", safe(spec_id))
}

pub(crate) fn task(instance_id: &str, container: &str, incarnation: u32) -> String {
    format!("{instance_id}.{container}.{incarnation}")
}

/// An app's executor is named like its task, a pod's `instance-<safe>.<uuid>`.
pub(crate) fn executor(instance_id: &str) -> String {
    match instance_id.rsplit_once(".instance-") {
        Some((safe, uuid)) => format!("instance-{safe}.{uuid}"),
        None => instance_id.to_owned(),
    }
}

/// DC/OS' discovery name: path segments reversed, joined by `-`; `/mygroup/myapp` is `myapp-mygroup`.
pub(crate) fn discovery_name(spec_id: &str) -> String {
    spec_id.split('/').filter(|s| !s.is_empty()).rev().collect::<Vec<_>>().join("-")
}

/// With one leading slash, without a trailing one.
pub(crate) fn canonical(id: &str) -> String {
    format!("/{}", id.trim_matches('/'))
}

/// Marathon's rule for each path segment: `PATTERN`.
pub(crate) fn is_valid(id: &str) -> bool {
    let segments = id.trim_start_matches('/');
    !segments.is_empty() && segments.split('/').all(|segment| segment.split('.').all(is_label))
}

fn is_label(label: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !label.is_empty() && label.chars().all(legal) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_marathon_1_8() {
        let id = instance("/mygroup/myapp", "488b3441-7bb5-11e9-b931-8ae30e1b1bb7");
        assert_eq!(id, "mygroup_myapp.instance-488b3441-7bb5-11e9-b931-8ae30e1b1bb7");
        assert_eq!(task(&id, "_app", 1), "mygroup_myapp.instance-488b3441-7bb5-11e9-b931-8ae30e1b1bb7._app.1");
        assert_eq!(task(&id, "proxy", 2), "mygroup_myapp.instance-488b3441-7bb5-11e9-b931-8ae30e1b1bb7.proxy.2");
        assert_eq!(executor(&id), "instance-mygroup_myapp.488b3441-7bb5-11e9-b931-8ae30e1b1bb7");
        assert_eq!(discovery_name("/mygroup/myapp"), "myapp-mygroup");
    }

    #[test]
    fn paths() {
        for good in ["/a", "/mesh/node-agent", "/a.b/c", "/reviews-v1"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["/", "", "/A", "/a_b", "/-a", "/a-", "/a..b", "/a//b"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
