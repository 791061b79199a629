//! What the control plane tells: names and zones. What is valid of a delivery comes into force; of the rest the last good stays.

use super::core::config;
use super::core::handler::Core;
use super::core::zone::Table;
use super::server::Server;
use mesh_xds::agent::{EGRESS, MESH, MESH_NAME, SERVICE};
use mesh_xds::client::Delivery;
use mesh_xds::stream::{self, Connection};
use std::sync::Arc;

/// Takes deliveries for ever.
pub(super) async fn follow(server: Arc<Server>, connection: Connection) {
    let mut updates = stream::start(connection, &[MESH, SERVICE, EGRESS]);
    loop {
        let delivery = updates.next().await;
        let (applied, told) = {
            let mut core = server.core.lock();
            (apply(&mut core, &delivery), core.table.is_told())
        };
        if told {
            server.is_told();
        }
        server.metrics.delivered(kind(&delivery), applied.is_ok());
        match applied {
            Ok(()) => updates.ack(&delivery).await,
            Err(reason) => updates.nack(&delivery, &reason).await,
        }
    }
}

fn kind(delivery: &Delivery) -> &'static str {
    match delivery.type_url.as_str() {
        MESH => "mesh",
        EGRESS => "egress",
        _ => "service",
    }
}

/// Brings a delivery into force. The error names every refused resource with its field.
fn apply(core: &mut Core, delivery: &Delivery) -> Result<(), String> {
    let mut refused = Vec::new();
    let kind = kind(delivery);
    for resource in &delivery.resources {
        let (name, body) = (&resource.name, &resource.body);
        let applied = match kind {
            "mesh" => apply_mesh(&mut core.table, name, body),
            "egress" => config::egress(name, body).map(|hosts| core.rules.set(name, hosts)).map_err(|error| error.to_string()),
            _ => {
                let service = config::service(name, body);
                service.map(|service| core.table.set_service(name, service)).map_err(|error| error.to_string())
            }
        };
        if let Err(error) = applied {
            refused.push(format!("{kind} {name:?}: {error}"));
        }
    }
    match kind {
        // Without its Mesh resource the mesh has no other zones than before.
        "mesh" => {}
        "egress" => {
            delivery.removed.iter().for_each(|name| core.rules.remove(name));
            core.rules.set_told();
            core.memory.rules_changed(&core.rules);
        }
        _ => {
            delivery.removed.iter().for_each(|name| core.table.remove_service(name));
            core.table.set_services_told();
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(refused.join("; ")) }
}

fn apply_mesh(table: &mut Table, name: &str, body: &[u8]) -> Result<(), String> {
    if name != MESH_NAME {
        return Err(format!("the one Mesh resource is {MESH_NAME:?}"));
    }
    table.set_mesh(config::mesh(body).map_err(|error| error.to_string())?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::core::name::Key;
    use crate::dns::core::zone::Lookup;
    use mesh_xds::agent::{Egress, Mesh, Service};
    use mesh_xds::client::Resource;
    use prost::Message;

    fn delivery(type_url: &str, resources: Vec<(&str, Vec<u8>)>, removed: &[&str]) -> Delivery {
        let resource =
            |(name, body): (&str, Vec<u8>)| Resource { name: name.to_owned(), version: "1".to_owned(), body: body.into() };
        Delivery {
            type_url: type_url.to_owned(),
            nonce: "1".to_owned(),
            resources: resources.into_iter().map(resource).collect(),
            removed: removed.iter().map(|r| (*r).to_owned()).collect(),
        }
    }

    fn service(name: &str, address: &str) -> Vec<u8> {
        let (names, addresses) = (vec![name.to_owned()], vec![address.to_owned()]);
        Service { name: name.to_owned(), names, addresses, ports: Vec::new() }.encode_to_vec()
    }

    fn address(table: &Table, name: &str) -> Option<String> {
        match table.lookup(&Key::parse(name).expect("valid")) {
            Lookup::Known(addresses, _) => addresses.first().map(ToString::to_string),
            _ => None,
        }
    }

    #[test]
    fn what_is_valid_comes_into_force_and_of_the_rest_the_last_good_stays() {
        let mut core = Core::default();
        let mesh = Mesh { zones: vec!["l4lb.test".to_owned()], ..Mesh::default() }.encode_to_vec();
        assert_eq!(apply(&mut core, &delivery(MESH, vec![("mesh", mesh)], &[])), Ok(()));
        let first =
            vec![("a.l4lb.test", service("a.l4lb.test", "11.0.0.1")), ("b.l4lb.test", service("b.l4lb.test", "11.0.0.2"))];
        assert_eq!(apply(&mut core, &delivery(SERVICE, first, &[])), Ok(()));
        assert!(core.table.is_told());

        let second =
            vec![("a.l4lb.test", service("a.l4lb.test", "11.0.0.x")), ("b.l4lb.test", service("b.l4lb.test", "11.0.0.3"))];
        let error = apply(&mut core, &delivery(SERVICE, second, &[])).expect_err("an address does not parse");
        assert!(error.contains("service \"a.l4lb.test\": field addresses[0]") && error.contains("11.0.0.x"), "{error}");
        assert_eq!(address(&core.table, "a.l4lb.test").as_deref(), Some("11.0.0.1"), "the last good");
        assert_eq!(address(&core.table, "b.l4lb.test").as_deref(), Some("11.0.0.3"), "the valid rest");

        let bad = Mesh { zones: vec!["a..b".to_owned()], ..Mesh::default() }.encode_to_vec();
        let error = apply(&mut core, &delivery(MESH, vec![("mesh", bad)], &[])).expect_err("a zone does not parse");
        assert!(error.contains("mesh \"mesh\": field zones[0]"), "{error}");
        assert_eq!(core.table.zones().collect::<Vec<_>>(), ["l4lb.test."]);

        assert_eq!(apply(&mut core, &delivery(SERVICE, Vec::new(), &["b.l4lb.test"])), Ok(()));
        assert_eq!((address(&core.table, "a.l4lb.test").is_some(), address(&core.table, "b.l4lb.test")), (true, None));
    }

    #[test]
    fn egress_hosts_come_and_go() {
        let mut core = Core::default();
        let egress = |hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            Egress { name: "default/out".to_owned(), hosts, learn: true, ..Egress::default() }.encode_to_vec()
        };
        let named = |core: &Core, name: &str| core.rules.names(&Key::parse(name).expect("valid"));
        assert_eq!(apply(&mut core, &delivery(EGRESS, vec![("default/out", egress(&["httpbin.org", "*.x.org"]))], &[])), Ok(()));
        assert!(core.rules.is_told() && named(&core, "httpbin.org") && named(&core, "a.x.org"));
        let error = apply(&mut core, &delivery(EGRESS, vec![("default/out", egress(&["a b"]))], &[])).expect_err("no host");
        assert!(error.contains("egress \"default/out\": field hosts[0]"), "{error}");
        assert!(named(&core, "httpbin.org"), "the last good");
        assert_eq!(apply(&mut core, &delivery(EGRESS, Vec::new(), &["default/out"])), Ok(()));
        assert!(!named(&core, "httpbin.org"));
    }
}
