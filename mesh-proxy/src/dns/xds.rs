//! What the control plane tells: names and zones. What is valid of a delivery comes into force; of the rest the last good stays.

use super::core::config;
use super::core::zone::Table;
use super::server::Server;
use mesh_xds::agent::{MESH, MESH_NAME, SERVICE};
use mesh_xds::client::Delivery;
use mesh_xds::stream::{self, Connection};
use std::sync::Arc;

/// Takes deliveries for ever.
pub(super) async fn follow(server: Arc<Server>, connection: Connection) {
    let mut updates = stream::start(connection, &[MESH, SERVICE]);
    loop {
        let delivery = updates.next().await;
        let applied = apply(&mut server.core.lock().table, &delivery);
        server.metrics.delivered(kind(&delivery), applied.is_ok());
        match applied {
            Ok(()) => updates.ack(&delivery).await,
            Err(reason) => updates.nack(&delivery, &reason).await,
        }
    }
}

fn kind(delivery: &Delivery) -> &'static str {
    if delivery.type_url == MESH { "mesh" } else { "service" }
}

/// Brings a delivery into force. The error names every refused resource with its field.
fn apply(table: &mut Table, delivery: &Delivery) -> Result<(), String> {
    let is_mesh = delivery.type_url == MESH;
    let mut refused = Vec::new();
    for resource in &delivery.resources {
        let applied = if is_mesh {
            apply_mesh(table, &resource.name, &resource.body)
        } else {
            config::service(&resource.name, &resource.body)
                .map(|service| table.set_service(&resource.name, service))
                .map_err(|error| error.to_string())
        };
        if let Err(error) = applied {
            refused.push(format!("{} {:?}: {error}", kind(delivery), resource.name));
        }
    }
    if !is_mesh {
        // Without its Mesh resource the mesh has no other zones than before.
        for name in &delivery.removed {
            table.remove_service(name);
        }
        table.set_services_told();
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
    use mesh_xds::agent::{Mesh, Service};
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
        let mut table = Table::default();
        let mesh = Mesh { zones: vec!["l4lb.test".to_owned()], ..Mesh::default() }.encode_to_vec();
        assert_eq!(apply(&mut table, &delivery(MESH, vec![("mesh", mesh)], &[])), Ok(()));
        let first =
            vec![("a.l4lb.test", service("a.l4lb.test", "11.0.0.1")), ("b.l4lb.test", service("b.l4lb.test", "11.0.0.2"))];
        assert_eq!(apply(&mut table, &delivery(SERVICE, first, &[])), Ok(()));
        assert!(table.is_told());

        let second =
            vec![("a.l4lb.test", service("a.l4lb.test", "11.0.0.x")), ("b.l4lb.test", service("b.l4lb.test", "11.0.0.3"))];
        let error = apply(&mut table, &delivery(SERVICE, second, &[])).expect_err("an address does not parse");
        assert!(error.contains("service \"a.l4lb.test\": field addresses[0]") && error.contains("11.0.0.x"), "{error}");
        assert_eq!(address(&table, "a.l4lb.test").as_deref(), Some("11.0.0.1"), "the last good");
        assert_eq!(address(&table, "b.l4lb.test").as_deref(), Some("11.0.0.3"), "the valid rest");

        let bad = Mesh { zones: vec!["a..b".to_owned()], ..Mesh::default() }.encode_to_vec();
        let error = apply(&mut table, &delivery(MESH, vec![("mesh", bad)], &[])).expect_err("a zone does not parse");
        assert!(error.contains("mesh \"mesh\": field zones[0]"), "{error}");
        assert_eq!(table.zones().collect::<Vec<_>>(), ["l4lb.test."]);

        assert_eq!(apply(&mut table, &delivery(SERVICE, Vec::new(), &["b.l4lb.test"])), Ok(()));
        assert_eq!((address(&table, "a.l4lb.test").is_some(), address(&table, "b.l4lb.test")), (true, None));
    }
}
