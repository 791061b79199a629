//! Which instance this is. Made once at start from the environment that Mesos gives a task; every answer carries it.

use serde::Serialize;

/// The two fields by which every JSON answer names its author.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Identity {
    pub(crate) podname: String,
    pub(crate) version: String,
}

impl Identity {
    /// Under Mesos the name comes from `MESOS_TASK_ID`, elsewhere from the host name.
    pub(crate) fn from_env(role: &str, version: &str, env: impl Fn(&str) -> Option<String>) -> Self {
        let podname = env("MESOS_TASK_ID")
            .map(|task| podname_of_task(&task))
            .or_else(|| env("HOSTNAME").or_else(hostname).map(|host| format!("{role}-{version}-{host}")))
            .unwrap_or_else(|| format!("{role}-{version}"));
        Self { podname, version: version.to_owned() }
    }
}

fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// `reviews-v2.instance-488b3441-7bb5-….reviews.1` becomes `reviews-v2-488b3441`: the pod, and as much of the instance's UUID
/// as a person compares. An id of another form is taken as it is.
fn podname_of_task(task: &str) -> String {
    let Some((pod, rest)) = task.rsplit_once(".instance-").or_else(|| task.rsplit_once(".marathon-")) else {
        return task.to_owned();
    };
    let uuid = rest.split(['.', '_']).next().unwrap_or(rest);
    let short = uuid.split('-').next().unwrap_or(uuid);
    format!("{pod}-{short}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_of_every_marathon_become_short_names() {
        for (task, name) in [
            ("reviews-v2.instance-488b3441-7bb5-11e9-b931-8ae30e1b1bb7.reviews", "reviews-v2-488b3441"),
            ("reviews-v2.instance-488b3441-7bb5-11e9-b931-8ae30e1b1bb7.reviews.1", "reviews-v2-488b3441"),
            ("group_details.instance-488b3441-7bb5-11e9-b931-8ae30e1b1bb7._app.3", "group_details-488b3441"),
            ("a.b.instance-488b3441-7bb5._app.3", "a.b-488b3441"),
            ("details.marathon-488b3441-7bb5.x", "details-488b3441"),
            ("unforeseen", "unforeseen"),
        ] {
            assert_eq!(podname_of_task(task), name, "{task}");
        }
    }

    #[test]
    fn without_mesos_the_host_names_the_instance() {
        let env = |name: &str| (name == "HOSTNAME").then(|| "box".to_owned());
        assert_eq!(Identity::from_env("ratings", "v1", env).podname, "ratings-v1-box");
    }
}
