//! TLS towards endpoints: whom the proxy trusts, how it shows itself, which name it asks for.

use super::V1;
use super::h2::upstream_protocol;
use super::world::{World, action, any, to};
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options as options;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use http_body_util::Full;
use hyper::Response;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tls::common_tls_context::ValidationContextType;
use tls::subject_alt_name_matcher::SanType as Kind;

const URI: &str = "spiffe://cluster.local/ns/default/sa/reviews";

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    der: rustls::pki_types::CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// For a host and a SPIFFE identity.
    pub fn issue(&self, host: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("name");
        params.subject_alt_names.push(SanType::URI(URI.try_into().expect("ASCII")));
        (params.signed_by(&key, &self.issuer).expect("signed"), key)
    }
}

/// Says what it saw. `clients`: they must show a certificate of this authority.
pub async fn server(authority: &Authority, clients: Option<&Authority>, alpn: &[&str]) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (certificate, key) = authority.issue("*.example.com");
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der.clone()).expect("root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("verifier");
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("key");
    let mut config = builder.with_single_cert(vec![certificate.der().clone()], key).expect("config");
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accept");
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let session = stream.get_ref().1;
                let sni = session.server_name().unwrap_or("-").to_owned();
                let client = session.peer_certificates().is_some();
                let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let said = format!("{:?} sni={sni} client={client}", request.version());
                    async move { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(said))) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

pub fn inline(text: &str) -> Option<core::DataSource> {
    let specifier = Some(core::data_source::Specifier::InlineString(text.to_owned()));
    Some(core::DataSource { specifier, ..Default::default() })
}

fn named(kind: Kind, name: &str) -> tls::SubjectAltNameMatcher {
    let exact = Some(MatchPattern::Exact(name.to_owned()));
    let matcher = Some(StringMatcher { match_pattern: exact, ignore_case: false });
    tls::SubjectAltNameMatcher { san_type: kind as i32, matcher, ..Default::default() }
}

/// What Istio's SIMPLE says.
pub fn simple(trusted: Option<core::DataSource>, names: Vec<tls::SubjectAltNameMatcher>) -> tls::UpstreamTlsContext {
    let validation =
        tls::CertificateValidationContext { trusted_ca: trusted, match_typed_subject_alt_names: names, ..Default::default() };
    let common = tls::CommonTlsContext {
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..Default::default()
    };
    tls::UpstreamTlsContext { sni: "outside.example.com".to_owned(), common_tls_context: Some(common), ..Default::default() }
}

pub fn over_tls(cluster: &mut cds::Cluster, context: &tls::UpstreamTlsContext) {
    let config_type = Some(core::transport_socket::ConfigType::TypedConfig(any(context)));
    cluster.transport_socket = Some(core::TransportSocket { name: "envoy.transport_sockets.tls".to_owned(), config_type });
}

async fn ask(endpoint: SocketAddr, change: impl FnOnce(&mut cds::Cluster)) -> (u16, String) {
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[endpoint], change);
    world.routes(vec![to("/", action(V1))]);
    let answer = world.client().await.get("/", &[]).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn the_endpoint_must_be_whom_the_cluster_names() {
    let (authority, other) = (Authority::new(), Authority::new());
    let endpoint = server(&authority, None, &[]).await;
    let ok = (200, "HTTP/1.1 sni=outside.example.com client=false".to_owned());
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), &authority.pem).expect("written");
    let filename = core::data_source::Specifier::Filename(file.path().to_string_lossy().into_owned());
    let from_file = Some(core::DataSource { specifier: Some(filename), ..Default::default() });
    let trusted = || inline(&authority.pem);
    for (case, context, expected) in [
        ("no authority: anybody", simple(None, Vec::new()), true),
        ("an authority without names", simple(trusted(), Vec::new()), true),
        ("from a file", simple(from_file, Vec::new()), true),
        ("a wildcard", simple(trusted(), vec![named(Kind::Dns, "a.example.com")]), true),
        ("an identity", simple(trusted(), vec![named(Kind::Dns, "else"), named(Kind::Uri, URI)]), true),
        ("another name", simple(trusted(), vec![named(Kind::Dns, "example.org")]), false),
        ("another authority", simple(inline(&other.pem), Vec::new()), false),
    ] {
        let answer = ask(endpoint, |cluster| over_tls(cluster, &context)).await;
        if expected {
            assert_eq!(answer, ok, "{case}");
        } else {
            let start = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, transport failure reason: TLS error";
            assert!(answer.0 == 503 && answer.1.starts_with(start), "{case}: {answer:?}");
        }
    }
    assert_eq!(ask(endpoint, |_| {}).await.0, 502, "plain, to an endpoint with TLS");
}

#[tokio::test]
async fn mutual_tls_shows_the_clusters_certificate() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let endpoint = server(&authority, Some(&clients), &[]).await;
    let mut context = simple(inline(&authority.pem), Vec::new());
    assert_eq!(ask(endpoint, |cluster| over_tls(cluster, &context)).await.0, 503);
    let (certificate, key) = clients.issue("productpage");
    let pair = tls::TlsCertificate {
        certificate_chain: inline(&certificate.pem()),
        private_key: inline(&key.serialize_pem()),
        ..Default::default()
    };
    context.common_tls_context.as_mut().expect("there").tls_certificates = vec![pair];
    let answer = ask(endpoint, |cluster| over_tls(cluster, &context)).await;
    assert_eq!(answer, (200, "HTTP/1.1 sni=outside.example.com client=true".to_owned()));
}

#[tokio::test]
async fn the_protocol_is_negotiated_and_the_name_is_the_requests() {
    let authority = Authority::new();
    for (alpn, expected) in [(&["h2", "http/1.1"][..], "HTTP/2.0"), (&["http/1.1"], "HTTP/1.1"), (&[], "HTTP/1.1")] {
        let endpoint = server(&authority, None, alpn).await;
        let auto = options::UpstreamProtocolOptions::AutoConfig(Default::default());
        let context = simple(None, Vec::new());
        let answer = ask(endpoint, |cluster| {
            upstream_protocol(cluster, auto);
            over_tls(cluster, &context);
        });
        assert_eq!(answer.await, (200, format!("{expected} sni=outside.example.com client=false")), "{alpn:?}");
    }
    let endpoint = server(&authority, None, &[]).await;
    for (auto_san_validation, expected) in [(false, 200), (true, 503)] {
        let names = core::UpstreamHttpProtocolOptions { auto_sni: true, auto_san_validation, ..Default::default() };
        let explicit = options::UpstreamProtocolOptions::ExplicitHttpConfig(options::ExplicitHttpConfig::default());
        let message = HttpProtocolOptions {
            upstream_http_protocol_options: Some(names),
            upstream_protocol_options: Some(explicit),
            ..Default::default()
        };
        let (status, body) = ask(endpoint, |cluster| {
            let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            cluster.typed_extension_protocol_options.insert(name.to_owned(), any(&message));
            over_tls(cluster, &simple(inline(&authority.pem), Vec::new()));
        })
        .await;
        assert_eq!(status, expected, "{body}");
        assert!(expected != 200 || body == "HTTP/1.1 sni=reviews client=false", "{body}");
    }
}
