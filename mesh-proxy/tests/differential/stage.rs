//! Both proxies, their backends, and the cases between them.

use super::backend::{self, Arrived, Seen};
use super::compare::{Fate, differences, normal};
use super::fields::boolean;
use super::generate::{Ask, Case, case};
use super::limits::{self, Limited};
use super::oracle::{Envoy, free_port};
use super::pool::{Pooled, pool};
use crate::world::{World, any, network_listener};
use bytes::Bytes;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use mesh_xds::names;
use route::route::Action;
use route::route_action::ClusterSpecifier;
use route::route_action::HashPolicy;
use route::route_action::hash_policy::PolicySpecifier;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const BACKENDS: usize = 6;
/// Nothing that is asked takes a second; who has not answered by then never will.
const ANSWER: Duration = Duration::from_secs(8);

/// Everything that runs.
pub struct Stage {
    cases: Vec<Case>,
    limited: Vec<Limited>,
    pool: Vec<Pooled>,
    seen: Seen,
    ours: World,
    envoy_port: u16,
    _envoy: Envoy,
}

impl Stage {
    pub fn new(seed: u64, count: usize, limited: usize) -> Self {
        let seen = Seen::default();
        let backends: Vec<SocketAddr> = (0..BACKENDS).map(|_| backend::start(&seen)).collect();
        let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let pool = pool(&backends, dead, seed);
        let cases: Vec<Case> = (0..count).map(|number| case(number, seed, &pool)).collect();
        let limited: Vec<Limited> = (0..limited).map(|number| limits::case(number, seed, &backends)).collect();
        let hosts: Vec<_> =
            cases.iter().map(|case| &case.host).chain(limited.iter().map(|limited| &limited.host)).cloned().collect();
        let envoy_port = free_port();
        let mut clusters: Vec<_> = pool.iter().map(|pooled| pooled.message.clone()).collect();
        clusters.extend(limited.iter().map(|limited| limited.cluster.clone()));
        // The same but for the port, since two processes cannot listen on one, and that Envoy opens it itself.
        let mut for_envoy = listener(envoy_port, &hosts);
        for_envoy.bind_to_port = boolean(true);
        let envoy = Envoy::start(vec![for_envoy], clusters.clone(), envoy_port);
        let mut ours = World::new("0.0.0.0:0");
        let named: Vec<_> = clusters.iter().map(|cluster| (cluster.name.as_str(), cluster.clone())).collect();
        assert_eq!(ours.deliver(names::CLUSTER, &named), [""; 0]);
        let table = listener(ours.port, &hosts);
        assert_eq!(ours.deliver(names::LISTENER, &[("all", table)]), [""; 0]);
        Self { cases, limited, pool, seen, ours, envoy_port, _envoy: envoy }
    }

    /// How many cases have each field.
    pub fn fields(&self) -> BTreeMap<&'static str, usize> {
        let mut table = BTreeMap::new();
        let limited = self.limited.iter().flat_map(|case| &case.fields);
        for field in self.cases.iter().flat_map(|case| &case.fields).chain(limited) {
            *table.entry(*field).or_default() += 1;
        }
        table
    }

    /// Sends every request of every case to both; the disagreements, as text.
    pub async fn run(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let (mut envoy, mut ours) = (Client::new(self.envoy_port), Client::new(self.ours.port));
        for (number, case) in self.cases.iter().enumerate() {
            for (index, ask) in case.asks.iter().enumerate() {
                let copies = self.mirrored(case);
                let mut expected = self.fate(&mut envoy, ask, &format!("e-{number}-{index}"), copies).await;
                let mut got = self.fate(&mut ours, ask, &format!("m-{number}-{index}"), copies).await;
                self.blur(case, &mut expected);
                self.blur(case, &mut got);
                let how = differences(&expected, &got);
                if !how.is_empty() {
                    let how = how.join("\n  ");
                    found.push(format!(
                        "case {number}, request {index}: {ask:?}\n  {how}\n  fields: {:?}\n{:#?}",
                        case.fields, case.host
                    ));
                }
            }
        }
        found
    }

    /// The same for those in which requests meet.
    pub async fn run_limited(&self) -> Vec<String> {
        let mut found = Vec::new();
        for case in &self.limited {
            for volley in &case.volleys {
                // On a busy machine requests do not arrive as they were sent. Many at once leave no trace, so they are asked again.
                let tries = if volley.len() > 1 { 5 } else { 1 };
                let (mut expected, mut got) = Default::default();
                for _ in 0..tries {
                    let both = (Self::answers(self.envoy_port, volley), Self::answers(self.ours.port, volley));
                    (expected, got) = futures::future::join(both.0, both.1).await;
                    if expected == got {
                        break;
                    }
                }
                if expected != got {
                    found.push(format!("{:#?}\n{volley:?}\nEnvoy: {expected:#?}\nours: {got:#?}", case.cluster));
                    break;
                }
            }
        }
        found
    }

    /// How often each answer came.
    async fn answers(port: u16, volley: &[Ask]) -> BTreeMap<(u16, bool, String), usize> {
        // One after another, quicker than they are answered: a connection that is still being made counts as a waiting request in Envoy and not with
        // us (docs/design/0009), so each finds the one before it connected.
        let all = volley.iter().zip(0..).map(|(ask, n)| async move {
            tokio::time::sleep(Duration::from_millis(10 * n)).await;
            let (status, headers, body) = Client::new(port).send(ask, "limited").await;
            let overloaded = headers.iter().any(|(name, _)| name == "x-envoy-overloaded");
            (status, overloaded, if body.starts_with("port ") { "port".to_owned() } else { body })
        });
        let mut answers = BTreeMap::new();
        for answer in futures::future::join_all(all).await {
            *answers.entry(answer).or_default() += 1;
        }
        answers
    }

    fn mirrored(&self, case: &Case) -> bool {
        case.fields.contains("mirror")
    }

    fn blur(&self, case: &Case, fate: &mut Fate) {
        let decided = |name: &str, hashed: bool| {
            self.pool
                .iter()
                .find(|pooled| pooled.message.name == name)
                .is_none_or(|pooled| pooled.single || (pooled.hashed && hashed))
        };
        let all = case.host.routes.iter().all(|route| match &route.action {
            Some(Action::Route(action)) => {
                // Only the address is in every request: without the header, cookie or parameter lots are drawn.
                let by_address =
                    |policy: &HashPolicy| matches!(policy.policy_specifier, Some(PolicySpecifier::ConnectionProperties(_)));
                let hashed = action.hash_policy.iter().any(by_address);
                match &action.cluster_specifier {
                    Some(ClusterSpecifier::Cluster(name)) => decided(name, hashed),
                    Some(ClusterSpecifier::WeightedClusters(all)) => {
                        all.clusters.iter().all(|cluster| decided(&cluster.name, hashed))
                    }
                    _ => true,
                }
            }
            _ => true,
        });
        if !all {
            fate.blur_ports();
        }
        fate.blur_cookies();
    }

    async fn fate(&self, client: &mut Client, ask: &Ask, id: &str, copies: bool) -> Fate {
        let (status, headers, body) = client.send(ask, id).await;
        if copies {
            self.settle(id).await;
        }
        let mut arrived: Vec<Arrived> = self.seen.take(id);
        for request in &mut arrived {
            request.headers = normal(std::mem::take(&mut request.headers));
        }
        if copies {
            // A copy may arrive before its original.
            arrived.sort_by(|a, b| (&a.headers, a.port).cmp(&(&b.headers, b.port)));
        }
        Fate { status, headers: normal(headers), body, arrived }
    }

    /// Waits until copies have stopped arriving: nobody says when a copy is due.
    async fn settle(&self, id: &str) {
        let (mut last, mut since) = (self.seen.count(id), Instant::now());
        while since.elapsed() < Duration::from_millis(50) {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let now = self.seen.count(id);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
    }
}

fn filter(name: &str, config: envoy_types::pb::google::protobuf::Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn listener(port: u16, hosts: &[route::VirtualHost]) -> Listener {
    let table = route::RouteConfiguration {
        name: "all".to_owned(),
        virtual_hosts: hosts.to_vec(),
        validate_clusters: boolean(false),
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "all".to_owned(),
        http_filters: vec![
            filter("envoy.filters.http.fault", any(&HttpFault::default())),
            filter("envoy.filters.http.cors", any(&Cors::default())),
            filter("envoy.filters.http.router", any(&Router::default())),
        ],
        generate_request_id: boolean(true),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(table)),
        ..Default::default()
    };
    network_listener("0.0.0.0", port, "envoy.filters.network.http_connection_manager", any(&manager))
}

/// One connection, made again when it ends.
struct Client {
    port: u16,
    sender: Option<SendRequest<Full<Bytes>>>,
}

type Answer = (u16, Vec<(String, String)>, String);

impl Client {
    fn new(port: u16) -> Self {
        Self { port, sender: None }
    }

    async fn send(&mut self, ask: &Ask, id: &str) -> Answer {
        // Once more on a new connection if an answer before this one ended it.
        for _ in 0..2 {
            match tokio::time::timeout(ANSWER, self.once(ask, id)).await {
                Ok(Some(answer)) => return answer,
                Ok(None) => {}
                Err(_late) => {
                    self.sender = None;
                    return (0, Vec::new(), format!("no answer in {ANSWER:?}"));
                }
            }
            self.sender = None;
        }
        (0, Vec::new(), String::new())
    }

    async fn once(&mut self, ask: &Ask, id: &str) -> Option<Answer> {
        if self.sender.is_none() {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
            let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut()?;
        sender.ready().await.ok()?;
        let mut request = Request::builder().method(ask.method).uri(&ask.target).header("host", &ask.host);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let request = request.header("x-case", id).header("x-script", &ask.script);
        let request = request.body(Full::from(ask.body)).expect("a valid request");
        let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        Some((parts.status.as_u16(), headers, String::from_utf8_lossy(&body).into_owned()))
    }
}
