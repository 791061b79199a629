//! Which ports of the node's own the gateway may have. The operator says so, not the control plane: a rule must not be able to take the
//! node's ssh.

use mesh_common::ports;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// What a gateway has unless the operator says otherwise: the web's ports, their usual substitutes, and Istio's port for TLS that passes
/// through.
pub const DEFAULT: &str = "80,443,8080,8443,15443";

/// Ports and ranges of ports; none is the mesh's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// May the gateway listen there?
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ranges: Vec<_> =
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(range).collect::<Result<_, _>>()?;
        let all = Self(ranges);
        match ports::RESERVED.into_iter().find(|port| all.contains(*port)) {
            Some(port) => Err(format!("port {port} is the mesh's own or Mesos'")),
            None => Ok(all),
        }
    }
}

fn range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("{text:?} is no port from 1 to 65535 and no range FIRST-LAST")),
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            match range.start() == range.end() {
                true => write!(f, "{}", range.start())?,
                false => write!(f, "{}-{}", range.start(), range.end())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_but_never_a_port_of_the_mesh() {
        let ports: Ports = "80, 443,8000-8099".parse().expect("valid");
        assert_eq!(ports.to_string(), "80,443,8000-8099");
        for (port, allowed) in [(80, true), (81, false), (443, true), (8000, true), (8099, true), (8100, false), (22, false)] {
            assert_eq!(ports.contains(port), allowed, "{port}");
        }
        assert!(DEFAULT.parse::<Ports>().is_ok() && !"".parse::<Ports>().expect("none").contains(80));
        for (text, reason) in [
            ("0", "no port"),
            ("99-80", "no port"),
            ("http", "no port"),
            ("70000", "no port"),
            ("5000-5100", "port 5051"),
            ("32443", "port 32443"),
            ("1-65535", "port 53"),
        ] {
            assert!(text.parse::<Ports>().is_err_and(|error| error.contains(reason)), "{text}");
        }
    }
}
