//! ServiceEntries that name one host and port for different namespaces: told, since their endpoints are one VIP's (docs/design/0038).

use super::Unsupported;
use crate::istio::service_entry::ServiceEntry;
use crate::istio::{Config, Resource};

/// Tells each younger entry of the first older one that it shares with.
pub(super) fn tell(config: &Config, report: &mut Vec<Unsupported>) {
    let services: Vec<&Resource<ServiceEntry>> =
        config.service_entries.iter().map(AsRef::as_ref).filter(|entry| entry.spec.is_service()).collect();
    for (place, entry) in services.iter().enumerate() {
        let seen = entry.spec.seen(&entry.meta.namespace);
        let mut others = services[..place].iter().filter(|other| other.spec.seen(&other.meta.namespace) != seen);
        let shared = others.find_map(|other| Some((other, shared(&entry.spec, &other.spec)?)));
        if let Some((other, (host, port))) = shared {
            let why = format!(
                "{}/{} has {host} on port {port} too, for others: whoever sees one of the two gets the endpoints of both by its VIP",
                other.meta.namespace, other.meta.name
            );
            report.push(Unsupported::new("ServiceEntry", &entry.meta, "spec.exportTo".to_owned(), &why));
        }
    }
}

/// A host and a port of both.
fn shared<'e>(one: &'e ServiceEntry, other: &ServiceEntry) -> Option<(&'e str, u32)> {
    let same = |a: &str, b: &str| a.trim_end_matches('.').eq_ignore_ascii_case(b.trim_end_matches('.'));
    let host = one.hosts.iter().find(|host| other.hosts.iter().any(|theirs| same(host, theirs)))?;
    let port = one.ports.iter().find(|port| other.ports.iter().any(|theirs| theirs.number == port.number))?;
    Some((host, port.number))
}
