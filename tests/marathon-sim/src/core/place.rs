//! On which node an instance goes: constraints, then the emptiest node for its app. Pure.

use regex::Regex;

use super::spec::Constraint;

/// A node as placement sees it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) hostname: String,
    /// Instances of the same app or pod that are there.
    pub(crate) same: usize,
    pub(crate) total: usize,
}

const OPERATORS: [&str; 7] = ["UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS"];

pub(crate) fn unknown_operator(constraints: &[Constraint]) -> Option<String> {
    let unknown = constraints.iter().find(|c| !OPERATORS.contains(&c.operator.as_str()))?;
    Some(format!("Operator must be one of the following {OPERATORS:?}, not {}", unknown.operator))
}

/// Index of the chosen node; `None` when no node satisfies the constraints, and the instance waits in the queue.
pub(crate) fn choose(constraints: &[Constraint], nodes: &[Candidate]) -> Option<usize> {
    let fits = |(_, node): &(usize, &Candidate)| constraints.iter().all(|c| satisfied(c, node, nodes));
    nodes.iter().enumerate().filter(fits).min_by_key(|(index, n)| (n.same, n.total, *index)).map(|(index, _)| index)
}

/// Only `hostname` (or `@hostname`) is known; a constraint on another attribute is satisfied by no node, as in Mesos.
fn satisfied(constraint: &Constraint, node: &Candidate, all: &[Candidate]) -> bool {
    if !matches!(constraint.field.as_str(), "hostname" | "@hostname") {
        return matches!(constraint.operator.as_str(), "UNLIKE" | "GROUP_BY");
    }
    let value = constraint.value.as_deref().unwrap_or_default();
    let matches = || Regex::new(&format!("^(?:{value})$")).is_ok_and(|r| r.is_match(&node.hostname));
    match constraint.operator.as_str() {
        "UNIQUE" => node.same == 0,
        "CLUSTER" if value.is_empty() => all.iter().all(|n| n.same == 0 || n.hostname == node.hostname),
        "CLUSTER" | "IS" => node.hostname == value,
        "LIKE" => matches(),
        "UNLIKE" => !matches(),
        "MAX_PER" => node.same < value.parse().unwrap_or(usize::MAX),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(same: [usize; 2]) -> Vec<Candidate> {
        let of = |(i, same)| Candidate { hostname: format!("198.18.0.1{}", i + 1), same, total: same };
        same.into_iter().enumerate().map(of).collect()
    }

    fn constraint(operator: &str, value: Option<&str>) -> Vec<Constraint> {
        vec![Constraint { field: "hostname".into(), operator: operator.into(), value: value.map(str::to_owned) }]
    }

    #[test]
    fn spreads() {
        assert_eq!(choose(&[], &nodes([0, 0])), Some(0));
        assert_eq!(choose(&[], &nodes([1, 0])), Some(1));
        assert_eq!(choose(&[], &nodes([1, 1])), Some(0));
    }

    #[test]
    fn operators() {
        assert_eq!(choose(&constraint("UNIQUE", None), &nodes([1, 0])), Some(1));
        assert_eq!(choose(&constraint("UNIQUE", None), &nodes([1, 1])), None);
        assert_eq!(choose(&constraint("LIKE", Some(r"198\.18\.0\.12")), &nodes([0, 5])), Some(1));
        assert_eq!(choose(&constraint("LIKE", Some("198.18.0")), &nodes([0, 0])), None, "the whole name must match");
        assert_eq!(choose(&constraint("UNLIKE", Some("198.18.0.11")), &nodes([0, 0])), Some(1));
        assert_eq!(choose(&constraint("CLUSTER", None), &nodes([0, 3])), Some(1));
        assert_eq!(choose(&constraint("MAX_PER", Some("2")), &nodes([2, 2])), None);
        assert!(unknown_operator(&constraint("NEAR", None)).is_some());
    }
}
