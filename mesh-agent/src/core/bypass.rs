//! Which workloads an operator has taken out of the mesh for the time being.

use super::resources::Workload;
use std::collections::BTreeSet;

/// Stands for every workload of the node.
const ALL: &str = "*";

/// What the operator's file says: one instance id, Marathon path or address a line, or `*`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bypass(BTreeSet<String>);

impl Bypass {
    /// Reads the file's text. There is no wrong text: what names nobody covers nobody.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Is this workload taken out?
    #[must_use]
    pub fn covers(&self, workload: &Workload) -> bool {
        let named = |line: &String| {
            *line == workload.id || line.trim_start_matches('/') == workload.app.trim_start_matches('/') || {
                line.parse().is_ok_and(|ip| workload.addresses.contains(&ip))
            }
        };
        self.0.contains(ALL) || self.0.iter().any(named)
    }

    /// With one more, or all.
    #[must_use]
    pub fn with(mut self, pod: Option<&str>) -> Self {
        self.0.insert(pod.unwrap_or(ALL).to_owned());
        self
    }

    /// Without this one, or anybody.
    #[must_use]
    pub fn without(mut self, pod: Option<&str>) -> Self {
        match pod {
            Some(pod) => drop(self.0.remove(pod)),
            None => self.0.clear(),
        }
        self
    }

    /// As the file has it.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.iter().map(|line| format!("{line}\n")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_id_path_address_or_all() {
        let addresses = vec!["9.0.1.2".parse().expect("an address")];
        let workload = Workload { id: "a.instance-1".to_owned(), app: "/shop/a".to_owned(), addresses, ..Workload::default() };
        for line in ["a.instance-1", "/shop/a", "shop/a", "9.0.1.2", "*"] {
            let bypass = Bypass::parse(&format!("other\n  {line} \n\n"));
            assert!(bypass.covers(&workload), "{line}");
            assert!(!bypass.without(Some(line)).covers(&workload));
        }
        for text in ["", "a", "/shop", "9.0.1.3"] {
            assert!(!Bypass::parse(text).covers(&workload), "{text}");
        }
        let both = Bypass::default().with(Some("x")).with(None);
        assert_eq!(both.text(), "*\nx\n");
        assert_eq!(Bypass::parse(&both.text()), both);
        assert_eq!(both.without(None), Bypass::default());
    }
}
