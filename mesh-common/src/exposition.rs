//! The text page that Prometheus reads, in its classic form, out of the OpenMetrics form that prometheus-client writes.
//!
//! Every tool reads the classic form, and `promtool check metrics` only that. They differ in few lines: a counter's family is
//! named with its `_total`, and units and the end are not said.

use std::fmt::Write;

/// The classic form's content type.
pub const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rewrites a page.
#[must_use]
pub fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        // Writing to a string does not fail.
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // Its name depends on the type, which comes next.
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take().filter(|(named, _)| *named == name) {
                let _ = writeln!(out, "# HELP {name}{suffix} {text}");
            }
            let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# ") {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::classic as rewritten;

    #[test]
    fn counters_are_named_whole_and_nothing_else_changes() {
        let open = "# HELP a_requests Requests, by a # b.\n# TYPE a_requests counter\na_requests_total{x=\"# y\"} 2\n\
            # HELP a_open Open.\n# TYPE a_open gauge\na_open -1\n\
            # HELP a_time_seconds Time.\n# TYPE a_time_seconds histogram\n# UNIT a_time_seconds seconds\na_time_seconds_sum 0.0\n# EOF\n";
        let classic = "# HELP a_requests_total Requests, by a # b.\n# TYPE a_requests_total counter\na_requests_total{x=\"# y\"} 2\n\
            # HELP a_open Open.\n# TYPE a_open gauge\na_open -1\n\
            # HELP a_time_seconds Time.\n# TYPE a_time_seconds histogram\na_time_seconds_sum 0.0\n";
        assert_eq!(rewritten(open), classic);
        assert_eq!(rewritten(""), "");
    }
}
