//! xDS conversion: no bytes make it panic; what is refused is refused by a path that begins with a field of the message; what is taken is
//! taken again, to the same result, and becomes part of a configuration. First byte of an input: the type, the rest: the message.

use envoy_types::pb::envoy::config::{cluster, endpoint, listener, route};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use mesh_proxy::convert::{Invalid, at::At};
use mesh_proxy::xds::state::State;
use mesh_xds::client::{Delivery, Resource};
use mesh_xds::names::{CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET};
use prost::Message;
use std::fmt::Debug;
use std::time::Duration;

const NAME: &str = "fuzzed";
/// Fields that are one of several: the generated types have another name for the choice.
const CHOICES: [&str; 11] = [
    "type",
    "cluster_type",
    "round_robin_lb_config",
    "least_request_lb_config",
    "ring_hash_lb_config",
    "maglev_lb_config",
    "original_dst_lb_config",
    "tls_certificate",
    "session_ticket_keys",
    "validation_context",
    "generic_secret",
];

/// Panics if a conversion breaks one of the promises.
pub(crate) fn check(bytes: &[u8]) {
    use mesh_proxy::convert;
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 5 {
        0 => one::<listener::v3::Listener, _>(LISTENER, body, convert::listener::listener),
        1 => one::<cluster::v3::Cluster, _>(CLUSTER, body, convert::cluster::cluster),
        2 => one::<endpoint::v3::ClusterLoadAssignment, _>(ENDPOINT, body, convert::cluster::load_assignment),
        3 => one::<route::v3::RouteConfiguration, _>(ROUTE, body, |at, message| {
            // The index of a table is a hash map: it prints in any order. The rest follows from the hosts.
            convert::route::table(at, message).map(|table| format!("{} {:?}", table.name, table.virtual_hosts()))
        }),
        _ => one::<Secret, _>(SECRET, body, convert::tls::secret),
    }
}

fn one<M, T>(type_url: &str, body: &[u8], convert: impl Fn(&At<'_>, M) -> Result<T, Invalid>)
where
    M: Message + Default + Clone + Debug,
    T: Debug,
{
    let Ok(message) = M::decode(body) else { return };
    let at = At::resource(NAME);
    match (convert(&at, message.clone()), convert(&at, message)) {
        (Ok(first), Ok(second)) => {
            assert_eq!(format!("{first:?}"), format!("{second:?}"), "one message, two meanings");
            in_force(type_url, body);
        }
        (Err(invalid), Err(_)) => named::<M>(&invalid),
        (first, second) => panic!("taken and refused: {:?}, {:?}", first.err(), second.err()),
    }
}

/// The complaint begins with the resource's name and a field that its type has.
fn named<M: Default + Debug>(invalid: &Invalid) {
    let (resource, field) = match invalid {
        Invalid::Unsupported { resource, field }
        | Invalid::Missing { resource, field }
        | Invalid::Value { resource, field, .. } => (resource, field),
        // Of a message inside an `Any`: the decoder knows no field.
        Invalid::Decode { resource, .. } => (resource, &String::new()),
    };
    assert_eq!(resource, NAME, "{invalid}");
    let first = field.split(['.', '[']).next().unwrap_or_default();
    let known = format!("{:?}", M::default()).contains(&format!(" {first}: ")) || CHOICES.contains(&first);
    assert!(known || matches!(invalid, Invalid::Decode { .. }), "{first:?} is no field: {invalid}");
}

/// What the converter takes, the state takes; its configuration can be made, twice.
fn in_force(type_url: &str, body: &[u8]) {
    let resource = Resource { name: NAME.to_owned(), version: "1".to_owned(), body: body.to_vec().into() };
    let mut state = State::default();
    let delivery = |resources, removed| Delivery { type_url: type_url.to_owned(), nonce: String::new(), resources, removed };
    assert!(state.apply(&delivery(vec![resource], Vec::new())).is_empty(), "refused only now");
    let _ = state.config(Duration::ZERO);
    state.apply(&delivery(Vec::new(), vec![NAME.to_owned()]));
    let config = state.config(Duration::from_secs(1));
    assert!(config.listeners.is_empty() && config.gateway.is_empty() && config.clusters.is_empty(), "removed and still in force");
}
