//! The gateway's side: ports of the node, TLS by server name, certificates that change under load, protocols told apart.

use super::world::{Backend, Client, World, action, ads, any, http_listener, network_listener, to};
use super::{V1, V2};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::{BoolValue, Duration as ProtoDuration};
use mesh_xds::names;
use rustls::pki_types::{CertificateDer, ServerName};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

pub fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// A listener of the gateway, with the chains of the test.
pub fn gateway(address: SocketAddr, filter_chains: Vec<listener::FilterChain>) -> (String, listener::Listener) {
    let base = network_listener("127.0.0.1", address.port(), TCP_PROXY, any(&tcp::TcpProxy::default()));
    let name = names::gateway_listener(address);
    let bind_to_port = Some(BoolValue { value: true });
    (name.clone(), listener::Listener { name, filter_chains, bind_to_port, ..base })
}

/// The chain of the usual HTTP listener.
fn http_chain(port: u16) -> listener::FilterChain {
    http_listener(port).filter_chains.remove(0)
}

fn tcp_chain(cluster: &str) -> listener::FilterChain {
    let cluster = tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned());
    let proxy = tcp::TcpProxy { cluster_specifier: Some(cluster), ..Default::default() };
    network_listener("127.0.0.1", 1, TCP_PROXY, any(&proxy)).filter_chains.remove(0)
}

fn for_names(names: &[&str]) -> Option<listener::FilterChainMatch> {
    let server_names = names.iter().map(|name| (*name).to_owned()).collect();
    Some(listener::FilterChainMatch { server_names, ..Default::default() })
}

/// TLS ends at a chain, with the certificate of this Secret.
fn terminated(secret: &str) -> Option<core::TransportSocket> {
    let common = tls::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![tls::SdsSecretConfig { name: secret.to_owned(), sds_config: ads() }],
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..Default::default()
    };
    let context = tls::DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    let config_type = Some(core::transport_socket::ConfigType::TypedConfig(any(&context)));
    Some(core::TransportSocket { name: "envoy.transport_sockets.tls".to_owned(), config_type })
}

/// A Secret with a fresh certificate, and the certificate.
fn secret(name: &str, host: &str) -> (tls::Secret, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).expect("a certificate");
    let inline = |text: String| {
        Some(core::DataSource { specifier: Some(core::data_source::Specifier::InlineString(text)), ..Default::default() })
    };
    let certificate = tls::TlsCertificate {
        certificate_chain: inline(made.cert.pem()),
        private_key: inline(made.signing_key.serialize_pem()),
        ..Default::default()
    };
    let secret = tls::Secret { name: name.to_owned(), r#type: Some(tls::secret::Type::TlsCertificate(certificate)) };
    (secret, made.cert.der().clone())
}

/// Routes that send everything to a cluster, under this name.
fn table(name: &str, cluster: &str, require_tls: i32) -> route::RouteConfiguration {
    let host = route::VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![to("/", action(cluster))],
        require_tls,
        ..Default::default()
    };
    route::RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..Default::default() }
}

/// A gateway's port that serves V1.
pub fn serving(world: &mut World) -> SocketAddr {
    let address = free();
    let (name, message) = gateway(address, vec![http_chain(1)]);
    assert_eq!(world.deliver(names::LISTENER, &[(&*name, message)]), [""; 0]);
    assert_eq!(world.deliver(names::ROUTE, &[("1", table("1", V1, 0))]), [""; 0]);
    address
}

/// Connects once the proxy listens.
pub async fn dial(address: SocketAddr) -> TcpStream {
    let began = Instant::now();
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A TLS connection to this name that trusts these certificates.
async fn dial_tls(
    address: SocketAddr,
    name: &'static str,
    trusted: &[&CertificateDer<'static>],
) -> std::io::Result<TlsStream<TcpStream>> {
    dial_for(address, name, trusted, &[]).await
}

/// The same, for one of these protocols.
async fn dial_for(
    address: SocketAddr,
    name: &'static str,
    trusted: &[&CertificateDer<'static>],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in trusted {
        roots.add((*certificate).clone()).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name).expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, dial(address).await).await
}

async fn get<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut S) -> std::io::Result<String> {
    stream.write_all(b"GET /x HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let mut answer = Vec::new();
    let whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
        (body.len() >= length).then(|| text.clone())
    };
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(text) = whole(&answer) {
            return Ok(text);
        }
    }
}

#[tokio::test]
async fn a_port_of_the_node_is_served_beside_the_captured_one() {
    let (outside, inside) = (Backend::new("outside").await, Backend::new("inside").await);
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[outside.address]);
    world.cluster(V2, &[inside.address]);
    world.routes(vec![to("/", action(V2))]);
    let address = free();
    let (name, message) = gateway(address, vec![http_chain(1)]);
    let captured = http_listener(world.port);
    assert_eq!(world.deliver(names::LISTENER, &[(&*name, message), (&*captured.name.clone(), captured)]), [""; 0]);
    let own = world.port.to_string();
    assert_eq!(world.deliver(names::ROUTE, &[("1", table("1", V1, 0)), (&*own, table(&own, V2, 0))]), [""; 0]);
    drop(dial(address).await);
    assert!(Client::to(address.port()).await.get("/", &[]).await.body.starts_with("outside "));
    assert!(world.client().await.get("/", &[]).await.body.starts_with("inside "));
    // The listener goes: so does the port.
    world.remove(names::LISTENER, &[&name]);
    let began = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "the port is still open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn two_certificates_by_server_name_and_a_rotation_that_drops_nothing() {
    let backend = Backend::new("shop").await;
    let mut world = World::new("0.0.0.0:0");
    world.nothing();
    world.cluster(V1, &[backend.address]);
    let address = free();
    let ending = |names: &[&str], secret: &str| listener::FilterChain {
        filter_chain_match: for_names(names),
        transport_socket: terminated(secret),
        ..http_chain(1)
    };
    let chains = vec![ending(&["a.example"], "kubernetes-gateway://x/a"), ending(&["*.b.example"], "kubernetes-gateway://x/b")];
    let (name, message) = gateway(address, chains);
    assert_eq!(world.deliver(names::LISTENER, &[(&*name, message)]), [""; 0]);
    assert_eq!(world.deliver(names::ROUTE, &[("1", table("1", V1, 0))]), [""; 0]);
    let wanted: Vec<String> = world.state.wanted_secrets().into_iter().collect();
    assert_eq!(wanted, ["kubernetes-gateway://x/a", "kubernetes-gateway://x/b"]);
    assert!(world.shared.config.load().gateway.is_empty(), "it waits for its certificates");
    let ((a, cert_a), (b, cert_b)) = (secret(&wanted[0], "a.example"), secret(&wanted[1], "x.b.example"));
    assert_eq!(world.deliver(names::SECRET, &[(&*wanted[0], a.clone()), (&*wanted[1], b)]), [""; 0]);

    let mut old = dial_tls(address, "a.example", &[&cert_a]).await.expect("a's certificate");
    assert!(get(&mut old).await.expect("answered").starts_with("HTTP/1.1 200"));
    let mut other = dial_tls(address, "x.b.example", &[&cert_b]).await.expect("b's certificate");
    assert!(get(&mut other).await.expect("answered").contains("shop GET /x"));
    dial_tls(address, "c.example", &[&cert_a, &cert_b]).await.expect_err("nobody's name");

    // Under load: connections that never close, and new ones all the time, while the certificate changes.
    let (again, cert_again) = secret(&wanted[0], "a.example");
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|index| {
            let (stop, done, trusted) = (Arc::clone(&stop), Arc::clone(&done), [cert_a.clone(), cert_again.clone()]);
            tokio::spawn(async move {
                let trusted = [&trusted[0], &trusted[1]];
                let mut kept = dial_tls(address, "a.example", &trusted).await.expect("one of the two");
                while !stop.load(Ordering::Relaxed) {
                    if index % 2 == 1 {
                        kept = dial_tls(address, "a.example", &trusted).await.expect("one of the two");
                    }
                    assert!(get(&mut kept).await.expect("no connection is dropped").starts_with("HTTP/1.1 200"));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let more = async |than: usize| {
        while done.load(Ordering::Relaxed) < than + 20 && load.iter().all(|task| !task.is_finished()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    more(0).await;
    // What cannot be read is refused without its content, and the former goes on.
    let mut bad = again.clone();
    if let Some(tls::secret::Type::TlsCertificate(certificate)) = &mut bad.r#type {
        certificate.private_key.clone_from(&certificate.certificate_chain);
    }
    let complaint = format!("{}: tls_certificate.private_key: no private key as PEM", wanted[0]);
    assert_eq!(world.deliver(names::SECRET, &[(&*wanted[0], bad)]), [complaint]);
    more(done.load(Ordering::Relaxed)).await;
    assert_eq!(world.deliver(names::SECRET, &[(&*wanted[0], again)]), [""; 0]);
    more(done.load(Ordering::Relaxed)).await;
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("no request failed");
    }
    dial_tls(address, "a.example", &[&cert_a]).await.expect_err("the old certificate is shown no more");
    dial_tls(address, "a.example", &[&cert_again]).await.expect("the new one is");
    assert!(get(&mut old).await.expect("an old connection goes on").starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn tls_negotiates_the_protocol() {
    let backend = Backend::new("shop").await;
    let mut world = World::new("0.0.0.0:0");
    world.nothing();
    world.cluster(V1, &[backend.address]);
    let address = free();
    let chain = listener::FilterChain { transport_socket: terminated("s"), ..http_chain(1) };
    let (name, message) = gateway(address, vec![chain]);
    assert_eq!(world.deliver(names::LISTENER, &[(&*name, message)]), [""; 0]);
    assert_eq!(world.deliver(names::ROUTE, &[("1", table("1", V1, 0))]), [""; 0]);
    let (server, certificate) = secret("s", "a.example");
    assert_eq!(world.deliver(names::SECRET, &[("s", server)]), [""; 0]);
    let dial = async |protocols: &[&str]| dial_for(address, "a.example", &[&certificate], protocols).await;
    for (protocols, chosen) in [(&["http/1.1"][..], Some(&b"http/1.1"[..])), (&[], None)] {
        let mut stream = dial(protocols).await.expect("a protocol in common");
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        assert!(get(&mut stream).await.expect("answered").contains("shop GET /x"));
    }
    let stream = dial(&["h2", "http/1.1"]).await.expect("a protocol in common");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("handshake");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = http::Request::get("https://shop/x").body(()).expect("valid");
    let (response, _) = sender.send_request(request, true).expect("sent");
    assert_eq!(response.await.expect("answered").status(), 200);
    dial(&["spdy/1"]).await.expect_err("nothing in common");
}

#[tokio::test]
async fn a_host_that_requires_tls_sends_plain_requests_there() {
    let backend = Backend::new("shop").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[backend.address]);
    world.routes(vec![to("/", action(V1))]);
    let port = world.port.to_string();
    let all = route::virtual_host::TlsRequirementType::All;
    assert_eq!(world.deliver(names::ROUTE, &[(&*port, table(&port, V1, all.into()))]), [""; 0]);
    let answer = world.client().await.get("/cart?item=1", &[]).await;
    assert_eq!(
        (answer.status, &answer.headers["location"]),
        (301, &"https://reviews:9080/cart?item=1".parse().expect("a value"))
    );
    assert_eq!(backend.connections.load(Ordering::SeqCst), 0);
    let external = route::virtual_host::TlsRequirementType::ExternalOnly;
    let complaints = world.deliver(names::ROUTE, &[(&*port, table(&port, V1, external.into()))]);
    assert_eq!(complaints, [format!("{port}: virtual_hosts[0].require_tls: only NONE and ALL are supported")]);
}

#[tokio::test]
async fn clients_must_show_a_certificate_where_it_is_required() {
    let mut world = World::new("0.0.0.0:0");
    world.nothing();
    let address = free();
    let mut socket = terminated("s").expect("a socket");
    let Some(core::transport_socket::ConfigType::TypedConfig(config)) = &mut socket.config_type else { panic!("typed") };
    let mut context: tls::DownstreamTlsContext = prost::Message::decode(config.value.as_slice()).expect("valid");
    context.require_client_certificate = Some(BoolValue { value: true });
    let common = context.common_tls_context.as_mut().expect("there");
    let authority = tls::SdsSecretConfig { name: "s-cacert".to_owned(), sds_config: ads() };
    common.validation_context_type =
        Some(tls::common_tls_context::ValidationContextType::ValidationContextSdsSecretConfig(authority));
    *config = any(&context);
    let chain = listener::FilterChain { transport_socket: Some(socket), ..http_chain(1) };
    let (name, message) = gateway(address, vec![chain]);
    assert_eq!(world.deliver(names::LISTENER, &[(&*name, message)]), [""; 0]);
    assert_eq!(world.deliver(names::ROUTE, &[("1", table("1", V1, 0))]), [""; 0]);
    let (server, certificate) = secret("s", "a.example");
    let client = rcgen::generate_simple_self_signed(["client".to_owned()]).expect("a certificate");
    let specifier = Some(core::data_source::Specifier::InlineString(client.cert.pem()));
    let roots = tls::CertificateValidationContext {
        trusted_ca: Some(core::DataSource { specifier, ..Default::default() }),
        ..Default::default()
    };
    let roots = tls::Secret { name: "s-cacert".to_owned(), r#type: Some(tls::secret::Type::ValidationContext(roots)) };
    assert_eq!(world.deliver(names::SECRET, &[("s", server), ("s-cacert", roots)]), [""; 0]);
    // TLS 1.3: the client believes in the connection until it reads.
    let failed = match dial_tls(address, "a.example", &[&certificate]).await {
        Err(_refused) => true,
        Ok(mut stream) => get(&mut stream).await.is_err(),
    };
    assert!(failed, "a client without a certificate was served");
    world.counted(r#"mesh_proxy_connections_refused_total{reason="tls_handshake"} 1"#).await;
}

/// A server that speaks first, then echoes.
async fn greeter(greeting: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(greeting).await.expect("write");
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

fn inspector<M: prost::Message + prost::Name>(message: &M) -> listener::ListenerFilter {
    let config_type = Some(listener::listener_filter::ConfigType::TypedConfig(any(message)));
    listener::ListenerFilter { name: "inspector".to_owned(), config_type, ..Default::default() }
}

#[tokio::test]
async fn an_undeclared_port_tells_http_from_the_rest_and_delays_a_server_first_protocol_by_its_time_out() {
    let (web, mail) = (Backend::new("web").await, greeter(b"220 mail").await);
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[web.address]);
    world.cluster(V2, &[mail]);
    world.routes(vec![to("/", action(V1))]);
    let http = ["http/1.0", "http/1.1", "h2c"].map(str::to_owned).to_vec();
    let mut message = http_listener(world.port);
    message.filter_chains[0].filter_chain_match =
        Some(listener::FilterChainMatch { application_protocols: http, ..Default::default() });
    message.default_filter_chain = Some(tcp_chain(V2));
    message.listener_filters = vec![inspector(&TlsInspector::default()), inspector(&HttpInspector::default())];
    message.listener_filters_timeout = Some(ProtoDuration { seconds: 0, nanos: 100_000_000 });
    message.continue_on_listener_filters_timeout = true;
    assert_eq!(world.deliver(names::LISTENER, &[(&*message.name.clone(), message)]), [""; 0]);
    assert!(world.client().await.get("/", &[]).await.body.starts_with("web "));
    let timeouts = |world: &World| world.shared.metrics.detection_timeouts.get();
    let port = world.port;
    let first_byte = async |say: &[u8]| {
        let mut stream = dial(([127, 0, 0, 1], port).into()).await;
        let began = Instant::now();
        stream.write_all(say).await.expect("write");
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).await.expect("greeted");
        assert_eq!(&greeting, b"220 mail");
        began.elapsed()
    };
    // What is waited for is waited for each time: the shortest of several tells it from a machine that is busy.
    let shortest = async |say: &[u8]| {
        let mut shortest = Duration::MAX;
        for _ in 0..5 {
            shortest = shortest.min(first_byte(say).await);
        }
        shortest
    };
    // Whoever speaks, and no HTTP, waits for nothing.
    let waited = shortest(b"\x00\x01").await;
    assert!(waited < Duration::from_millis(90), "{waited:?}");
    assert_eq!(timeouts(&world), 0);
    let waited = shortest(b"").await;
    assert!((Duration::from_millis(100)..Duration::from_millis(150)).contains(&waited), "{waited:?}");
    assert_eq!(timeouts(&world), 5);

    // On a declared port nobody waits.
    let declared = network_listener("0.0.0.0", world.port, TCP_PROXY, any(&tcp::TcpProxy::default()));
    let declared = listener::Listener { filter_chains: vec![tcp_chain(V2)], ..declared };
    assert_eq!(world.deliver(names::LISTENER, &[(&*declared.name.clone(), declared)]), [""; 0]);
    let waited = shortest(b"").await;
    assert!(waited < Duration::from_millis(5), "{waited:?}");
}

#[tokio::test]
async fn tls_passes_by_server_name_and_source_labels_choose_a_chain() {
    let (a, b) = (greeter(b"server a").await, greeter(b"server b").await);
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[a]);
    world.cluster(V2, &[b]);
    let labelled = |label: &str, cluster: &str| {
        use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
        let value = Value { kind: Some(Kind::StringValue(label.to_owned())) };
        let labels = Struct { fields: [("app".to_owned(), value)].into() };
        let filter_metadata = [("mesh.source.labels".to_owned(), labels)].into();
        listener::FilterChain { metadata: Some(core::Metadata { filter_metadata, ..Default::default() }), ..tcp_chain(cluster) }
    };
    let by_name = listener::FilterChain { filter_chain_match: for_names(&["a.example"]), ..tcp_chain(V1) };
    let base = network_listener("0.0.0.0", world.port, TCP_PROXY, any(&tcp::TcpProxy::default()));
    let chains = vec![labelled("nobody", V1), by_name, tcp_chain(V2)];
    let message = listener::Listener { filter_chains: chains, ..base };
    assert_eq!(world.deliver(names::LISTENER, &[(&*message.name.clone(), message)]), [""; 0]);
    let greeted = async |hello: Vec<u8>| {
        let mut stream = dial(([127, 0, 0, 1], world.port).into()).await;
        stream.write_all(&hello).await.expect("write");
        let mut greeting = vec![0; 8 + hello.len()];
        stream.read_exact(&mut greeting).await.expect("greeted");
        assert_eq!(greeting[8..], hello, "the hello passes untouched");
        String::from_utf8(greeting[..8].to_vec()).expect("text")
    };
    assert_eq!(greeted(hello_to("a.example")).await, "server a");
    assert_eq!(greeted(hello_to("other.example")).await, "server b");
    assert_eq!(greeted(b"no TLS".to_vec()).await, "server b");
}

/// A ClientHello.
fn hello_to(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), ServerName::try_from(name).expect("a name")).expect("client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("written");
    bytes
}
