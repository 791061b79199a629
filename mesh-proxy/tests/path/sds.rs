//! TLS towards endpoints with certificates that come as Secrets: waited for, missing, renewed.

use super::V1;
use super::tls::{Authority, inline, over_tls, server, simple};
use super::world::{World, action, ads, to};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use mesh_xds::names::SECRET;
use std::net::SocketAddr;
use tls::common_tls_context::{CombinedCertificateValidationContext as Combined, ValidationContextType};

const SEEN: &str = "HTTP/1.1 sni=outside.example.com client=";
const NO_SECRET: &str = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: TLS error: Secret is not supplied by SDS";

/// What Istio's MUTUAL says with a `credentialName`.
fn mutual() -> tls::UpstreamTlsContext {
    let sds = |name: &str| tls::SdsSecretConfig { name: name.to_owned(), sds_config: ads() };
    let combined = Combined {
        default_validation_context: Some(tls::CertificateValidationContext::default()),
        validation_context_sds_secret_config: Some(sds("c-cacert")),
        ..Default::default()
    };
    let common = tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![sds("c")],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..Default::default()
    };
    tls::UpstreamTlsContext { common_tls_context: Some(common), ..simple(None, Vec::new()) }
}

/// The Secret `c`: a fresh certificate of the clients' authority.
fn certificate(clients: &Authority) -> (&'static str, tls::Secret) {
    let (certificate, key) = clients.issue("productpage");
    let pair = tls::TlsCertificate {
        certificate_chain: inline(&certificate.pem()),
        private_key: inline(&key.serialize_pem()),
        ..Default::default()
    };
    ("c", tls::Secret { name: "c".to_owned(), r#type: Some(tls::secret::Type::TlsCertificate(pair)) })
}

/// The Secret `c-cacert`.
fn authorities(authority: &Authority) -> (&'static str, tls::Secret) {
    let context = tls::CertificateValidationContext { trusted_ca: inline(&authority.pem), ..Default::default() };
    ("c-cacert", tls::Secret { name: "c-cacert".to_owned(), r#type: Some(tls::secret::Type::ValidationContext(context)) })
}

fn world(endpoint: SocketAddr, context: &tls::UpstreamTlsContext) -> World {
    let mut world = World::new("0.0.0.0:0");
    // From then on connections are accepted, whatever is still to come.
    world.nothing();
    world.cluster_with(V1, &[endpoint], |cluster| over_tls(cluster, context));
    world.routes(vec![to("/", action(V1))]);
    world
}

async fn ask(world: &World) -> (u16, String) {
    let answer = world.client().await.get("/", &[]).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_cluster_waits_for_its_secrets_and_the_one_before_goes_on() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let open = server(&authority, None, &[]).await;
    let mut world = world(open, &simple(None, Vec::new()));
    assert_eq!(ask(&world).await, (200, format!("{SEEN}false")));
    // The new one is for an endpoint that wants a certificate: nothing else would do there.
    let endpoint = server(&authority, Some(&clients), &[]).await;
    world.cluster_with(V1, &[open], |cluster| over_tls(cluster, &mutual()));
    assert_eq!(world.state.missing().as_deref(), Some("no secret c yet"));
    assert_eq!(ask(&world).await, (200, format!("{SEEN}false")), "as before");
    assert_eq!(world.deliver(SECRET, &[certificate(&clients)]), [""; 0]);
    assert_eq!(world.state.missing().as_deref(), Some("no secret c-cacert yet"));
    assert_eq!(ask(&world).await.0, 200);
    assert_eq!(world.deliver(SECRET, &[authorities(&authority)]), [""; 0]);
    assert_eq!(world.state.missing(), None);
    world.cluster_with(V1, &[endpoint], |cluster| over_tls(cluster, &mutual()));
    assert_eq!(ask(&world).await, (200, format!("{SEEN}true")));
}

#[tokio::test]
async fn a_secret_that_does_not_exist_fails_the_cluster_that_names_it_and_nothing_else() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let endpoint = server(&authority, Some(&clients), &[]).await;
    let mut world = world(endpoint, &mutual());
    world.deliver(SECRET, &[authorities(&authority)]);
    assert_eq!(ask(&world).await.0, 503, "it is not there yet");
    world.remove(SECRET, &["c"]);
    assert_eq!(world.state.missing(), None, "it is not waited for");
    assert_eq!(ask(&world).await, (503, NO_SECRET.to_owned()));
    world.counted("mesh_proxy_upstream_secrets_missing_total 1\n").await;
    world.counted("response_flags=\"UF\"").await;
    world.deliver(SECRET, &[certificate(&clients)]);
    assert_eq!(ask(&world).await, (200, format!("{SEEN}true")), "it has come");
    // As in Envoy, what was there goes on.
    world.remove(SECRET, &["c"]);
    assert_eq!(ask(&world).await.0, 200);
}

#[tokio::test]
async fn a_renewed_secret_is_for_new_connections_and_ends_no_other() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let endpoint = server(&authority, Some(&clients), &[]).await;
    let mut world = world(endpoint, &mutual());
    world.deliver(SECRET, &[certificate(&clients), authorities(&authority)]);
    let mut client = world.client().await;
    assert_eq!(client.get("/", &[]).await.status, 200);
    let before = world.shared.metrics.upstream_connections.get();
    // A stranger's certificate: the endpoint would refuse a connection that shows it.
    world.deliver(SECRET, &[certificate(&Authority::new())]);
    assert_eq!(client.get("/", &[]).await.status, 200);
    assert_eq!(world.shared.metrics.upstream_connections.get(), before, "the connection is the same");
    // Another context is another matter: its connections are its own.
    let mut other = mutual();
    let versions = tls::TlsParameters {
        tls_minimum_protocol_version: tls::tls_parameters::TlsProtocol::TlSv13.into(),
        ..Default::default()
    };
    other.common_tls_context.as_mut().expect("there").tls_params = Some(versions);
    world.cluster_with(V1, &[endpoint], |cluster| over_tls(cluster, &other));
    assert_eq!(client.get("/", &[]).await.status, 503);
    world.deliver(SECRET, &[certificate(&clients)]);
    assert_eq!(client.get("/", &[]).await.body, format!("{SEEN}true"));
}
