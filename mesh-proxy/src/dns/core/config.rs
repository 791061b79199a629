//! Resources of the control plane, read and checked. An error names the field; the caller adds the resource.

use super::name::{InvalidName, Key};
use mesh_xds::agent::{Egress, Mesh, Service};
use prost::Message;
use std::net::{AddrParseError, IpAddr};

/// What DNS needs of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::dns) struct ServiceNames {
    pub(in crate::dns) names: Vec<Key>,
    pub(in crate::dns) addresses: Vec<IpAddr>,
}

/// What DNS needs of the mesh's settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::dns) struct MeshSettings {
    pub(in crate::dns) zones: Vec<Key>,
}

/// Why a resource was refused.
#[derive(Debug, thiserror::Error)]
pub(in crate::dns) enum InvalidResource {
    #[error("is not a protobuf message of its type: {0}")]
    Encoding(#[from] prost::DecodeError),
    #[error("field name is {0:?}, not the resource's name")]
    Identity(String),
    #[error("field names[{at}]: {error}")]
    Name { at: usize, error: InvalidName },
    #[error("field addresses[{at}]: {text:?}: {error}")]
    Address { at: usize, text: String, error: AddrParseError },
    #[error("field hosts[{at}]: {error}")]
    Host { at: usize, error: InvalidName },
    #[error("field zones[{at}]: {error}")]
    Zone { at: usize, error: InvalidName },
    #[error("field zones[{at}]: a zone cannot be the wildcard {text:?}")]
    WildcardZone { at: usize, text: String },
}

/// Reads `mesh.agent.v1.Service`.
pub(in crate::dns) fn service(resource: &str, body: &[u8]) -> Result<ServiceNames, InvalidResource> {
    let service = Service::decode(body)?;
    if service.name != resource {
        return Err(InvalidResource::Identity(service.name));
    }
    let names = service.names.iter().enumerate();
    let names = names.map(|(at, text)| Key::parse(text).map_err(|error| InvalidResource::Name { at, error }));
    let addresses = service.addresses.iter().enumerate();
    let addresses =
        addresses.map(|(at, text)| text.parse().map_err(|error| InvalidResource::Address { at, text: text.clone(), error }));
    Ok(ServiceNames { names: names.collect::<Result<_, _>>()?, addresses: addresses.collect::<Result<_, _>>()? })
}

/// Reads `mesh.agent.v1.Mesh`.
pub(in crate::dns) fn mesh(body: &[u8]) -> Result<MeshSettings, InvalidResource> {
    let zones = Mesh::decode(body)?.zones;
    let zones = zones.iter().enumerate().map(|(at, text)| match Key::parse(text) {
        Ok(zone) if zone.is_wildcard() => Err(InvalidResource::WildcardZone { at, text: text.clone() }),
        Ok(zone) => Ok(zone),
        Err(error) => Err(InvalidResource::Zone { at, error }),
    });
    Ok(MeshSettings { zones: zones.collect::<Result<_, _>>()? })
}

/// Reads `mesh.agent.v1.Egress`: the hosts whose addresses are learned. None if the rule says that none are.
pub(in crate::dns) fn egress(resource: &str, body: &[u8]) -> Result<Vec<Key>, InvalidResource> {
    let egress = Egress::decode(body)?;
    if egress.name != resource {
        return Err(InvalidResource::Identity(egress.name));
    }
    let hosts = egress.hosts.iter().enumerate();
    let hosts = hosts.map(|(at, text)| Key::parse(text).map_err(|error| InvalidResource::Host { at, error }));
    let hosts = hosts.collect::<Result<_, _>>()?;
    Ok(if egress.learn { hosts } else { Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(names: &[&str], addresses: &[&str]) -> Vec<u8> {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
        Service { name: "r".to_owned(), names: texts(names), addresses: texts(addresses), ports: Vec::new() }.encode_to_vec()
    }

    #[test]
    fn a_refusal_names_the_field() {
        let service = |body: &[u8]| service("r", body).map_err(|error| error.to_string());
        assert!(service(&encoded(&["r", "*.x"], &["11.0.0.1", "fd01::1"])).is_ok());
        assert!(service(&encoded(&["r", "a b"], &[])).is_err_and(|e| e.contains("names[1]") && e.contains("a b")));
        assert!(
            service(&encoded(&["r"], &["11.0.0.1", "11.0.0"])).is_err_and(|e| e.contains("addresses[1]") && e.contains("11.0.0"))
        );
        assert!(service(&[0xff]).is_err_and(|e| e.contains("protobuf")));
        assert!(super::service("other", &encoded(&["r"], &[])).is_err_and(|e| e.to_string().contains("field name")));
        let egress = |host: &str, learn| {
            let body = Egress { name: "d/r".to_owned(), hosts: vec![host.to_owned()], learn, ..Egress::default() };
            egress("d/r", &body.encode_to_vec()).map_err(|error| error.to_string())
        };
        assert_eq!(egress("*.example.com", true), Ok(vec![Key::parse("*.example.com").expect("valid")]));
        assert_eq!(egress("example.com", false), Ok(Vec::new()));
        assert!(egress("a b", true).is_err_and(|e| e.contains("hosts[0]")));
        let zones = |zone: &str| Mesh { zones: vec![zone.to_owned()], ..Mesh::default() }.encode_to_vec();
        assert!(mesh(&zones("l4lb.thisdcos.directory")).is_ok());
        assert!(mesh(&zones("")).is_err_and(|e| e.to_string().contains("zones[0]")));
        assert!(mesh(&zones("*.x")).is_err_and(|e| e.to_string().contains("wildcard")));
    }
}
