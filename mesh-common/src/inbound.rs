//! Which ports of a workload the proxy takes before its application, as its labels say, by Istio's annotations.
//!
//! Without a label nothing is taken: in this mesh the client's proxy does what a server's would do in Istio, and the application sees its client
//! anyway (docs/design/0039-inbound.md).

use std::collections::{BTreeMap, BTreeSet};

/// The ports that are taken: a list, or `*` for all that the workload declares.
pub const INCLUDE: &str = "traffic.sidecar.istio.io/includeInboundPorts";
/// Those that are not, of all.
pub const EXCLUDE: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
/// Most ports of one workload: what the kernel's table has room for.
pub const MOST: usize = 16;

/// Reads the labels. `declared` are the ports that the workload says it serves.
///
/// # Errors
/// Names the label.
pub fn ports(labels: &BTreeMap<String, String>, declared: &BTreeSet<u16>) -> Result<BTreeSet<u16>, String> {
    let text = |label: &str| labels.get(label).map_or("", |text| text.trim());
    let included = match text(INCLUDE) {
        "*" => declared.clone(),
        list => parse(INCLUDE, list)?,
    };
    let excluded = parse(EXCLUDE, text(EXCLUDE))?;
    let ports: BTreeSet<u16> = included.difference(&excluded).copied().collect();
    match ports.len() {
        too_many if too_many > MOST => Err(format!("{INCLUDE} names {too_many} ports, of which a workload may have {MOST}")),
        _ => Ok(ports),
    }
}

fn parse(label: &str, list: &str) -> Result<BTreeSet<u16>, String> {
    let port = |part: &str| match part.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{label}: {part:?} is no port (1 to 65535)")),
    };
    list.split(',').map(str::trim).filter(|part| !part.is_empty()).map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(include: &str, exclude: &str) -> Result<BTreeSet<u16>, String> {
        let labels = [(INCLUDE, include), (EXCLUDE, exclude)].map(|(label, text)| (label.to_owned(), text.to_owned()));
        ports(&labels.into(), &BTreeSet::from([80, 9080]))
    }

    #[test]
    fn labels_list_ports_as_istios_annotations_do() {
        assert_eq!(ports(&BTreeMap::new(), &BTreeSet::from([80])), Ok(BTreeSet::new()), "nothing is taken unasked");
        assert_eq!(of("9080, 15", ""), Ok(BTreeSet::from([15, 9080])));
        assert_eq!(of("*", "9080"), Ok(BTreeSet::from([80])));
        assert_eq!(of("", "80"), Ok(BTreeSet::new()));
        assert_eq!(of("80,x", ""), Err(format!("{INCLUDE}: \"x\" is no port (1 to 65535)")));
        assert_eq!(of("80", "0"), Err(format!("{EXCLUDE}: \"0\" is no port (1 to 65535)")));
        let many: Vec<String> = (1..=17).map(|port: u16| port.to_string()).collect();
        assert!(of(&many.join(","), "").is_err_and(|error| error.contains("17 ports")));
        assert_eq!(of(&many.join(","), "3").map(|ports| ports.len()), Ok(16));
    }
}
