//! A pod without a kernel half: a fake agent that hands over real sockets, real backends, and Envoy's resources as configuration.

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as ProtoDuration};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mesh_common::broker::{Listener, Role, ToAgent, ToProxy, Workload};
use mesh_proxy::broker::Packets;
use mesh_proxy::shared::Shared;
use mesh_proxy::xds::state::State;
use mesh_xds::client::{Delivery, Resource};
use mesh_xds::names;
use prost::{Message, Name};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// One pod, one proxy.
pub struct World {
    pub shared: Arc<Shared>,
    pub state: State,
    /// Where a captured connection arrives.
    pub port: u16,
    /// Once false the agent goes away when it is asked for the next refill.
    pub generous: Arc<AtomicBool>,
    /// The agent's own descriptor of the listener: it outlives the proxy.
    pub listening: TcpListener,
    proxy: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.proxy.abort();
    }
}

impl World {
    /// `bind` is the listener's address: `0.0.0.0:0` looks like a transparent socket, `127.0.0.1:0` like one that was dialled directly.
    pub fn new(bind: &str) -> Self {
        Self::on(TcpListener::bind(bind).expect("bind"), 1)
    }

    /// The same, with pod and gateway spread over so many threads.
    pub fn spread(threads: usize) -> Self {
        Self::on(TcpListener::bind("0.0.0.0:0").expect("bind"), threads)
    }

    /// Another proxy for the same pod.
    pub fn beside(&self) -> Self {
        Self::on(self.listening.try_clone().expect("dup"), 1)
    }

    fn on(listening: TcpListener, threads: usize) -> Self {
        mesh_proxy::run::raise_descriptor_limit();
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("agent.sock");
        let port = listening.local_addr().expect("address").port();
        let generous = Arc::new(AtomicBool::new(true));
        let labels = [(mesh_proxy::spread::LABEL, &*threads.to_string()), ("team", "shop")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let workload =
            Workload { id: "productpage.instance-1".to_owned(), app: "/productpage".to_owned(), labels, ..Workload::default() };
        let agent = tokio::spawn(agent(listen(&path), listening.try_clone().expect("dup"), Arc::clone(&generous), workload));
        let shared = Arc::new(Shared { gateway_threads: threads, ..Shared::default() });
        let pods = mesh_proxy::run::pods(path, threads, Arc::clone(&shared));
        let proxy = tokio::spawn(async move {
            tokio::select! {
                ended = pods => ended.expect("runs"),
                ended = agent => ended.expect("agent runs"),
            }
        });
        Self { shared, state: State::default(), port, generous, listening, proxy, _directory: directory }
    }

    /// Returns when the proxy has ended by itself.
    pub async fn ended(&mut self) {
        let ended = tokio::time::timeout(std::time::Duration::from_secs(30), &mut self.proxy).await;
        ended.expect("in time").expect("no panic");
    }

    /// Returns once this is in the metrics: what is counted at a connection's end may be counted after the client has seen that end.
    pub async fn counted(&self, line: &str) {
        let began = std::time::Instant::now();
        loop {
            let metrics = self.shared.metrics.encode(&self.shared.telemetry);
            if metrics.contains(line) {
                return;
            }
            assert!(began.elapsed() < std::time::Duration::from_secs(30), "{line}: {metrics}");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// An empty configuration that is complete.
    pub fn nothing(&mut self) {
        assert_eq!(self.deliver::<cluster::Cluster>(names::CLUSTER, &[]), [""; 0]);
        assert_eq!(self.deliver::<listener::Listener>(names::LISTENER, &[]), [""; 0]);
    }

    /// Puts resources of one type in force, as a delivery would. The complaints are what a NACK would say.
    pub fn deliver<M: Message>(&mut self, type_url: &str, resources: &[(&str, M)]) -> Vec<String> {
        let resources = resources.iter().map(|(name, message)| Resource {
            name: (*name).to_owned(),
            version: "1".to_owned(),
            body: message.encode_to_vec().into(),
        });
        let resources = resources.collect();
        let delivery = Delivery { type_url: type_url.to_owned(), nonce: "n".to_owned(), resources, removed: Vec::new() };
        let complaints = self.state.apply(&delivery);
        self.shared.publish(&mut self.state);
        complaints.iter().map(ToString::to_string).collect()
    }

    /// Takes resources of one type away.
    pub fn remove(&mut self, type_url: &str, names: &[&str]) {
        let removed = names.iter().map(|name| (*name).to_owned()).collect();
        let delivery = Delivery { type_url: type_url.to_owned(), nonce: "n".to_owned(), resources: Vec::new(), removed };
        assert!(self.state.apply(&delivery).is_empty());
        self.shared.publish(&mut self.state);
    }

    /// A listener for the port, and its routes.
    pub fn routes(&mut self, routes: Vec<route::Route>) {
        self.routes_with(routes, |_| {});
    }

    /// The same, with a connection manager of which more is said.
    pub fn routes_with(&mut self, routes: Vec<route::Route>, change: impl FnOnce(&mut hcm::HttpConnectionManager)) {
        let name = self.port.to_string();
        let mut manager = manager(self.port);
        change(&mut manager);
        let listener = network_listener("0.0.0.0", self.port, MANAGER, any(&manager));
        assert_eq!(self.deliver(names::LISTENER, &[(&*format!("0.0.0.0_{name}"), listener)]), [""; 0]);
        let host = route::VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes, ..Default::default() };
        let table = route::RouteConfiguration { name: name.clone(), virtual_hosts: vec![host], ..Default::default() };
        assert_eq!(self.deliver(names::ROUTE, &[(&*name, table)]), [""; 0]);
    }

    /// A cluster and its endpoints.
    pub fn cluster(&mut self, name: &str, endpoints: &[SocketAddr]) {
        self.draining(name, endpoints, &[]);
    }

    /// The same, with endpoints that take nothing new.
    pub fn draining(&mut self, name: &str, endpoints: &[SocketAddr], draining: &[SocketAddr]) {
        self.cluster_like(name, (endpoints, draining), |_| {});
    }

    /// A cluster of which more is said.
    pub fn cluster_with(&mut self, name: &str, endpoints: &[SocketAddr], change: impl FnOnce(&mut cluster::Cluster)) {
        self.cluster_like(name, (endpoints, &[]), change);
    }

    fn cluster_like(
        &mut self,
        name: &str,
        (endpoints, draining): (&[SocketAddr], &[SocketAddr]),
        change: impl FnOnce(&mut cluster::Cluster),
    ) {
        let mut message = cluster::Cluster {
            name: name.to_owned(),
            cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
            eds_cluster_config: Some(cluster::cluster::EdsClusterConfig { eds_config: ads(), service_name: String::new() }),
            ..Default::default()
        };
        change(&mut message);
        assert_eq!(self.deliver(names::CLUSTER, &[(name, message)]), [""; 0]);
        let healthy = endpoints.iter().map(|address| (address, core::HealthStatus::Unknown));
        let all = healthy.chain(draining.iter().map(|address| (address, core::HealthStatus::Draining)));
        let lb_endpoints = all.map(|(address, health)| endpoint::LbEndpoint {
            health_status: health as i32,
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                address: socket_address(&address.ip().to_string(), address.port()),
                ..Default::default()
            })),
            ..Default::default()
        });
        let locality = endpoint::LocalityLbEndpoints { lb_endpoints: lb_endpoints.collect(), ..Default::default() };
        let load =
            endpoint::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![locality], ..Default::default() };
        assert_eq!(self.deliver(names::ENDPOINT, &[(name, load)]), [""; 0]);
    }

    /// A connection as a workload would make it.
    pub async fn client(&self) -> Client {
        Client::to(self.port).await
    }
}

/// An HTTP/1 client connection.
pub struct Client(SendRequest<Full<Bytes>>);

/// A response, read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Client {
    pub async fn to(port: u16) -> Self {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connect");
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(connection);
        Self(sender)
    }

    /// `None`: no response, or not all of it.
    pub async fn try_get(&mut self, path: &str) -> Option<Answer> {
        let request = Request::get(path).header("host", "reviews:9080").body(Full::default()).expect("valid");
        self.0.ready().await.ok()?;
        let (parts, body) = self.0.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(Answer { status: parts.status.as_u16(), headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() })
    }

    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.0.ready().await.expect("the connection is kept alive");
        let (parts, body) = self.0.send_request(request).await.expect("response").into_parts();
        let body = body.collect().await.expect("body").to_bytes();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
    }

    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(path).header("host", "reviews:9080");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default()).expect("valid")).await
    }
}

/// A backend that says who it is and what it got.
pub struct Backend {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
}

impl Backend {
    pub async fn new(name: &'static str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                count.fetch_add(1, Ordering::SeqCst);
                let service = hyper::service::service_fn(move |request| answer(name, request));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, connections }
    }
}

async fn answer(name: &str, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    match parts.uri.path() {
        "/never" => std::future::pending::<()>().await,
        "/slow" => tokio::time::sleep(std::time::Duration::from_millis(300)).await,
        _ => {}
    }
    let headers = &parts.headers;
    let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
    let body = body.collect().await.map(|body| body.to_bytes().len()).unwrap_or(0);
    let text = format!("{name} {} {} host={} x={} body={body}", parts.method, parts.uri, get("host"), get("x"));
    let status = if parts.uri.path() == "/busy" { 503 } else { 200 };
    Ok(Response::builder().status(status).header("server", name).body(Full::from(text)).expect("valid"))
}

fn listen(path: &std::path::Path) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("socket");
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).expect("path")).expect("bind");
    rustix::net::listen(&socket, 8).expect("listen");
    socket
}

async fn agent(socket: OwnedFd, listening: TcpListener, generous: Arc<AtomicBool>, workload: Workload) {
    use rustix::net::SocketFlags;
    let accepted =
        tokio::task::spawn_blocking(move || rustix::net::accept_with(&socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK));
    let wire = Packets::new(accepted.await.expect("join").expect("accept")).expect("register");
    let (hello, _) = wire.receive::<ToAgent>().await.expect("hello");
    assert!(matches!(hello, ToAgent::Hello { role: Role::Proxy, .. }));
    let pod = ToProxy::Pod { slot: 3, workload, listeners: vec![Listener::OutboundV4] };
    wire.send(&pod, &[listening.as_fd()]).await.expect("send");
    wire.send(&ToProxy::Ready, &[]).await.expect("send");
    let mut ports: BTreeMap<SocketAddr, TcpListener> = BTreeMap::new();
    loop {
        let (slot, family, count) = match wire.receive::<ToAgent>().await {
            Ok((ToAgent::Refill { slot, family, count }, _)) => (slot, family, count),
            // As the real one: every address that is asked for, each time with the same socket.
            Ok((ToAgent::Listen { addresses }, _)) => {
                for address in &addresses {
                    let socket = ports.entry(*address).or_insert_with(|| TcpListener::bind(address).expect("free"));
                    socket.set_nonblocking(true).expect("set");
                }
                ports.retain(|address, _| addresses.contains(address));
                let fds: Vec<_> = addresses.iter().map(|address| ports[address].as_fd()).collect();
                let slot = mesh_common::abi::GATEWAY_SLOT;
                wire.send(&ToProxy::Listening { slot, addresses: addresses.clone(), refused: Vec::new() }, &fds)
                    .await
                    .expect("send");
                continue;
            }
            _ => return,
        };
        if !generous.load(Ordering::SeqCst) {
            // It is gone, for good.
            drop(wire);
            return std::future::pending().await;
        }
        let kind = socket2::Type::STREAM.nonblocking();
        let sockets = (0..count).map(|_| socket2::Socket::new(socket2::Domain::IPV4, kind, None).expect("socket"));
        let sockets: Vec<_> = sockets.collect();
        let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        wire.send(&ToProxy::Sockets { slot, family, count }, &fds).await.expect("send");
    }
}

pub fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

pub fn ads() -> Option<core::ConfigSource> {
    let ads = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {});
    Some(core::ConfigSource { config_source_specifier: Some(ads), ..Default::default() })
}

pub fn socket_address(address: &str, port: u16) -> Option<core::Address> {
    let socket = core::SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

pub fn filter(name: &str, any: Any) -> hcm::HttpFilter {
    let config_type = Some(hcm::http_filter::ConfigType::TypedConfig(any));
    hcm::HttpFilter { name: name.to_owned(), config_type, ..Default::default() }
}

const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// As mesh-control writes it.
pub fn http_listener(port: u16) -> listener::Listener {
    network_listener("0.0.0.0", port, MANAGER, any(&manager(port)))
}

fn manager(port: u16) -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        stat_prefix: format!("0.0.0.0_{port}"),
        http_filters: vec![
            filter("envoy.filters.http.fault", any(&HttpFault::default())),
            filter("envoy.filters.http.router", any(&Router::default())),
        ],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            config_source: ads(),
            route_config_name: port.to_string(),
        })),
        upgrade_configs: vec![hcm::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn network_listener(address: &str, port: u16, name: &str, config: Any) -> listener::Listener {
    let config_type = Some(listener::filter::ConfigType::TypedConfig(config));
    let filters = vec![listener::Filter { name: name.to_owned(), config_type }];
    listener::Listener {
        name: format!("{address}_{port}"),
        address: socket_address(address, port),
        filter_chains: vec![listener::FilterChain { filters, ..Default::default() }],
        bind_to_port: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

pub fn prefix(path: &str) -> route::RouteMatch {
    let path_specifier = Some(route::route_match::PathSpecifier::Prefix(path.to_owned()));
    route::RouteMatch { path_specifier, ..Default::default() }
}

pub fn action(cluster: &str) -> route::RouteAction {
    let cluster_specifier = Some(route::route_action::ClusterSpecifier::Cluster(cluster.to_owned()));
    route::RouteAction { cluster_specifier, timeout: Some(ProtoDuration { seconds: 0, nanos: 0 }), ..Default::default() }
}

pub fn to(path: &str, action: route::RouteAction) -> route::Route {
    route::Route { r#match: Some(prefix(path)), action: Some(route::route::Action::Route(action)), ..Default::default() }
}
