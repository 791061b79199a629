//! Hosts of servers and of rules, and which they have in common.

/// Is a rule of a namespace visible in another? An empty list is `*`.
pub(in super::super) fn exported(to: &[String], own: &str, there: &str) -> bool {
    let means = |entry: &String| match entry.as_str() {
        "*" => true,
        "." => own == there,
        "~" => false,
        name => name == there,
    };
    to.is_empty() || to.iter().any(means)
}

/// The hosts of a server in `home` that it has for rules of a namespace: `HOST`, `*/HOST`, `./HOST` or `NAMESPACE/HOST`.
pub(super) fn served(hosts: &[String], home: &str, namespace: &str) -> Vec<String> {
    let host = |entry: &String| {
        let (from, host) = entry.split_once('/').unwrap_or(("*", entry.as_str()));
        let meant = match from {
            "*" => true,
            "." => namespace == home,
            name => namespace == name,
        };
        meant.then(|| host.to_ascii_lowercase())
    };
    hosts.iter().filter_map(host).collect()
}

/// The host of an entry, whatever rules it is for.
pub(super) fn name(entry: &str) -> String {
    entry.rsplit('/').next().unwrap_or(entry).to_ascii_lowercase()
}

/// What a host has in common with each of some others: of two that meet, the narrower.
pub(super) fn common(asked: &str, served: &[String]) -> Vec<String> {
    let narrower = |host: &String| {
        if within(asked, host) {
            Some(asked.to_owned())
        } else if within(host, asked) {
            Some(host.clone())
        } else {
            None
        }
    };
    served.iter().filter_map(narrower).collect()
}

/// Is every name that `inner` means one that `outer` means?
fn within(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (Some(inner), Some(outer)) => inner.ends_with(outer),
        (None, Some(outer)) => inner.len() > outer.len() && inner.ends_with(outer),
        (Some(_), None) => false,
        (None, None) => inner == outer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrower_of_two_hosts_is_served() {
        for (asked, host, expected) in [
            ("*", "a.example.com", Some("a.example.com")),
            ("a.example.com", "*", Some("a.example.com")),
            ("a.example.com", "*.example.com", Some("a.example.com")),
            ("*.example.com", "*.b.example.com", Some("*.b.example.com")),
            ("example.com", "*.example.com", None),
            ("a.example.com", "b.example.com", None),
            ("*", "*", Some("*")),
            ("*.a.com", "*.b.com", None),
        ] {
            let found = common(asked, &[host.to_owned()]);
            assert_eq!(found.first().map(String::as_str), expected, "{asked} {host}");
        }
    }

    #[test]
    fn servers_name_the_namespaces_of_rules() {
        let hosts = ["a", "*/b", "./c", "shop/d", "OTHER/E"].map(str::to_owned);
        assert_eq!(served(&hosts, "edge", "edge"), ["a", "b", "c"]);
        assert_eq!(served(&hosts, "edge", "shop"), ["a", "b", "d"]);
        assert_eq!(name("shop/D.com"), "d.com");
    }

    #[test]
    fn rules_say_where_they_are_seen() {
        let to = |entries: &[&str]| entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>();
        for (entries, same, other) in [
            (to(&[]), true, true),
            (to(&["*"]), true, true),
            (to(&["."]), true, false),
            (to(&["~"]), false, false),
            (to(&["b"]), false, true),
        ] {
            assert_eq!((exported(&entries, "a", "a"), exported(&entries, "a", "b")), (same, other), "{entries:?}");
        }
    }
}
