//! One request, top to bottom: admit, route, CORS and fault, upstream, answer. Read this first.

use super::Connection;
use super::admit::{self, Admitted};
use super::attempt::{Answer, Call};
use super::body::{Replay, ResponseBody, Terms};
use super::dress::Dress;
use super::expect::Gate;
use super::incoming::{Brought, Incoming};
use super::local::Local;
use super::mirror::Tap;
use super::pulse::Pulse;
use super::record::Record;
use super::tunnel;
use crate::config::{Cluster, Config, CorsFilter, Http, upgrade_passes};
use crate::core::balance::Ask;
use crate::core::cors::{Cors, Judged};
use crate::core::fault::Injected;
use crate::core::flags::Flags;
use crate::core::format::Facts;
use crate::core::hash::{self, Asker, Hashed};
use crate::core::headers::HeaderOps;
use crate::core::matching::RequestView;
use crate::core::retry::RetryPolicy;
use crate::core::route::{Action, Forward, Route, Target, VirtualHost};
use crate::core::timeouts::Limits;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Version};
use std::borrow::Cow;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Answers a request. All of it sees one snapshot of the configuration.
pub(super) async fn handle(connection: &Connection, parts: &mut Parts, brought: Brought) -> Response<ResponseBody> {
    let pod = connection.guest.pod();
    let config = pod.shared.config.load_full();
    let authority = admit::authority(parts);
    let mut record = Record::new(pod, parts);
    let Some(http) = connection.http(&config) else {
        // The listener went away under an open connection.
        let facts = facts(connection, connection.peer.ip());
        return Dress { options: &connection.options, grpc: false, ops: &[], cors: None, facts }.local(Local::no_route(), record);
    };
    match admit::admit(parts, (authority, &brought), &http.options, connection) {
        Ok(admitted) => {
            record.begin(&http.options, &admitted, connection, parts);
            Exchange { connection, config: &config, http, admitted }.run((parts, brought), record).await
        }
        Err(reply) => {
            let facts = facts(connection, connection.peer.ip());
            Dress { options: &http.options, grpc: false, ops: &[], cors: None, facts }.local(reply, record)
        }
    }
}

/// What is known of any request of a connection.
fn facts(connection: &Connection, client: IpAddr) -> Facts<'_> {
    Facts {
        peer: connection.peer,
        client,
        local: connection.destination,
        protocol: Version::HTTP_11,
        started: &SystemTime::now,
        hostname: &connection.guest.pod().shared.hostname,
        route: "",
        cluster: "",
        pseudo: [""; 4],
        request: None,
        upstream: None,
        status: None,
    }
}

/// What a request is answered with.
pub(super) struct Exchange<'a> {
    pub(super) connection: &'a Connection,
    pub(super) config: &'a Config,
    pub(super) http: &'a Http,
    pub(super) admitted: Admitted,
}

/// What routing and dice said.
pub(super) struct Decision<'a> {
    host: &'a VirtualHost,
    pub(super) route: &'a Route,
    pub(super) target: Option<&'a Target>,
    injected: Injected,
    judged: Judged,
    cors: Option<&'a Cors>,
    /// How much of the path a prefix rewrite replaces.
    pub(super) matched: usize,
    /// Where a redirect points.
    location: Option<String>,
}

/// The request's own words, for values that are made of them after it was sent.
struct Words {
    method: Method,
    path: String,
    headers: HeaderMap,
}

impl<'a> Exchange<'a> {
    async fn run(&self, (parts, brought): (&mut Parts, Brought), mut record: Box<Record>) -> Response<ResponseBody> {
        let began = SystemTime::now;
        let facts =
            Facts { protocol: self.admitted.version, started: &began, ..facts(self.connection, self.admitted.client.address) };
        let mut dress = Dress { options: &self.http.options, grpc: self.admitted.grpc, ops: &[], cors: None, facts };
        if let Some(location) = self.http.routes.to_tls(&self.view(parts)) {
            return dress.local(Local::redirect(StatusCode::MOVED_PERMANENTLY, &location), record);
        }
        let Some(mut decision) = self.decide(parts) else {
            return dress.local(Local::no_route(), record);
        };
        record.route = Some(Arc::clone(&decision.route.name));
        record.cluster_name = decision.target.map(|target| Arc::clone(&target.cluster));
        dress.ops = decision.target.map_or(&decision.route.response, |target| &target.response);
        let words = words(dress.ops, parts);
        dress.facts = self.told(&dress.facts, &decision, words.as_ref());
        let forward = match &decision.route.action {
            Action::Forward(forward) => Some(forward.as_ref()),
            Action::Redirect(_) | Action::Respond(..) => None,
        };
        if !self.passes(forward) {
            return dress.local(Local::refused_upgrade(), record);
        }
        let first = self.http.options.cors == Some(CorsFilter::First);
        if first && let Some(preflight) = decision.cross_origin(&mut dress) {
            return dress.made(StatusCode::OK, preflight, bytes::Bytes::new(), record);
        }
        if let Some(delay) = decision.injected.delay {
            record.flags.set(Flags::DELAY);
            tokio::time::sleep(delay).await;
        }
        if let Some(abort) = decision.injected.abort {
            if !matches!(decision.route.action, Action::Forward(_)) {
                // As in Envoy: before the answer of a route that has no upstream, its changes are not looked at.
                dress.ops = &[];
            }
            return dress.aborted(abort, record);
        }
        if !first && let Some(preflight) = decision.cross_origin(&mut dress) {
            return dress.made(StatusCode::OK, preflight, bytes::Bytes::new(), record);
        }
        match (&decision.route.action, decision.target, &decision.location) {
            (Action::Respond(status, body), ..) => dress.local(Local::respond(*status, body.clone()), record),
            (Action::Redirect(redirect), _, location) => {
                dress.local(Local::redirect(redirect.status, location.as_deref().unwrap_or_default()), record)
            }
            (Action::Forward(forward), Some(target), _) => {
                self.forward(&decision, (forward, target), (parts, brought), &dress, record).await
            }
            (Action::Forward(_), None, _) => dress.local(Local::no_cluster(), record),
        }
    }

    /// May the connection become what the client wants it to be?
    fn passes(&self, forward: Option<&Forward>) -> bool {
        let Some(kind) = &self.admitted.upgrade else { return true };
        let route = forward.map_or(&[][..], |forward| &forward.upgrades);
        upgrade_passes(kind, route, &self.http.options.upgrades) && (kind != "connect" || forward.is_none_or(|f| f.connect))
    }

    pub(super) fn view<'v>(&'v self, parts: &'v Parts) -> RequestView<'v> {
        RequestView {
            method: parts.method.as_str(),
            authority: self.admitted.authority(),
            scheme: self.admitted.scheme,
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        }
    }

    fn decide(&self, parts: &Parts) -> Option<Decision<'a>> {
        let pod = self.connection.guest.pod();
        let view = self.view(parts);
        let dice = pod.with_rng(|rng| rng.next_u64());
        let (host, route) = self.http.routes.find(&view, &pod.workload().labels, dice)?;
        let target = match &route.action {
            Action::Forward(forward) => Some(pod.with_rng(|rng| forward.choose(rng))),
            Action::Redirect(_) | Action::Respond(..) => None,
        };
        let fault = target.and_then(|target| target.fault.as_ref()).or(route.fault.as_ref()).or(self.http.options.fault.as_ref());
        let injected = fault.map(|fault| pod.with_rng(|rng| fault.decide(&view, rng))).unwrap_or_default();
        // Only what goes to a cluster is anybody's to share.
        let cors =
            target.and_then(|target| target.cors.as_ref().or(route.cors.as_ref())).filter(|_| self.http.options.cors.is_some());
        let judged = cors.map_or(Judged::None, |cors| pod.with_rng(|rng| cors.judge(&parts.method, &parts.headers, rng)));
        let matched = route.when.path.matched(view.path);
        let location = match &route.action {
            Action::Redirect(redirect) => Some(redirect.location(&view, matched)),
            Action::Forward(_) | Action::Respond(..) => None,
        };
        Some(Decision { host, route, target, injected, judged, cors, matched, location })
    }

    /// What values of added headers may be made of, now that the route is known.
    fn told<'f>(&'f self, facts: &Facts<'f>, decision: &Decision<'f>, words: Option<&'f Words>) -> Facts<'f> {
        let pseudo = match words {
            Some(words) => [words.method.as_str(), &words.path, self.admitted.authority(), self.admitted.scheme],
            None => [""; 4],
        };
        let cluster = decision.target.map_or("", |target| &target.cluster);
        Facts { route: &decision.route.name, cluster, pseudo, request: words.map(|words| &words.headers), ..*facts }
    }

    async fn forward(
        &self,
        decision: &Decision<'_>,
        (forward, target): (&Forward, &Target),
        (parts, brought): (&mut Parts, Brought),
        dress: &Dress<'_>,
        mut record: Box<Record>,
    ) -> Response<ResponseBody> {
        let pod = self.connection.guest.pod();
        let Some(cluster) = self.config.clusters.get(&target.cluster) else { return dress.local(Local::no_cluster(), record) };
        let upstream = pod.upstream(&cluster.name);
        let Brought { body: incoming, client, .. } = brought;
        let mut client = client.filter(|_| self.admitted.upgrade.is_some());
        if parts.method == Method::CONNECT
            && let Some(client) = client.take()
        {
            let ask = Ask { hash: self.hash(parts, forward, cluster).hash, original: self.connection.destination };
            // Rare, and large: in a box it does not make every request's future larger.
            return Box::pin(tunnel::connect((cluster, &upstream, ask), client, pod, dress, record)).await;
        }
        let hashed = self.hash(parts, forward, cluster);
        let envoy = self.admitted.client.envoy;
        let per_try = forward.retry.as_ref().and_then(|policy| policy.per_try_timeout);
        let limits = forward.timeouts.settle(&mut parts.headers, per_try, envoy);
        let policy = self.policy(forward, parts, limits);
        let http2 = parts.version == Version::HTTP_2;
        self.prepare(parts, decision, forward, target, &dress.facts);
        if decision.host.attempt_count {
            // Mirrored copies have it too.
            parts.headers.insert("x-envoy-attempt-count", 1.into());
        }
        record.propagate(&self.http.options, &mut parts.headers);
        if let (Some(_), Some(kind)) = (&client, &self.admitted.upgrade) {
            tunnel::ask(&mut parts.headers, kind);
        }
        let pulse = forward.idle_timeout.unwrap_or(self.http.options.stream_idle_timeout).map(Pulse::new);
        let body = self.body(forward, parts, incoming, limits, policy.as_deref(), pulse.clone());
        if let Some(body) = body.as_ref().filter(|_| self.admitted.waits) {
            body.wait_at(Gate::new());
        }
        record.body.clone_from(&body);
        let began = Instant::now();
        let deadline = limits.total.map(|limit| began + limit);
        let call = Call {
            pod,
            cluster,
            upstream: &upstream,
            ask: Ask { hash: hashed.hash, original: self.connection.destination },
            policy: policy.as_deref(),
            attempt_count: decision.host.attempt_count,
            parts,
            body,
            deadline,
            began,
            http2,
        };
        let overdue = overdue(record.body.clone(), self.http.options.request_timeout);
        let result = {
            let call = pin!(call.run(&mut record));
            bounded(call, pulse.as_ref(), overdue).await
        };
        match result.map(|answer| keep_at_host(answer, &hashed)) {
            Err(_blamed) if record.body.as_ref().is_some_and(Replay::is_broken) => dress.local(Local::bad_body(), record),
            Err(reply) => dress.local(reply, record),
            Ok(answer) if tunnel::agreed(&answer) => match client {
                Some(client) => tunnel::open(answer, client, pod, record),
                // Nobody asked for it.
                None => dress.local(Local::reset("protocol error", false, Flags::PROTOCOL), record),
            },
            Ok(answer) => {
                let terms = Terms { deadline, pulse };
                dress.upstream(answer, began, terms, record)
            }
        }
    }

    /// What consistent hashing goes by: the request as the client sent it. Balancers that do not ask for a hash make no cookie either.
    fn hash(&self, parts: &Parts, forward: &Forward, cluster: &Cluster) -> Hashed {
        let policies = forward.hash.as_slice();
        if policies.is_empty() || !cluster.balancer.settings().policy.hashes() {
            return Hashed::default();
        }
        let client = SocketAddr::new(self.admitted.client.address, self.connection.peer.port());
        let asker = Asker { request: &self.view(parts), client, destination: self.connection.destination };
        hash::hash(policies, &asker)
    }

    /// When to try again, by the route and by a trusted client.
    fn policy<'f>(&self, forward: &'f Forward, parts: &mut Parts, limits: Limits) -> Option<Cow<'f, RetryPolicy>> {
        let route = forward.retry.as_ref();
        let mut policy =
            if self.admitted.client.envoy { RetryPolicy::asked(route, &mut parts.headers) } else { route.map(Cow::Borrowed) };
        policy = policy.filter(|policy| policy.concerns(&self.view(parts)));
        if policy.as_ref().and_then(|policy| policy.per_try_timeout) != limits.per_try {
            let policy = policy.get_or_insert_with(|| Cow::Owned(RetryPolicy { retries: 0, ..RetryPolicy::default() }));
            policy.to_mut().per_try_timeout = limits.per_try;
        }
        policy
    }

    /// The body that the upstream gets; a request without one is mirrored at once.
    fn body(
        &self,
        forward: &Forward,
        parts: &Parts,
        incoming: Incoming,
        limits: Limits,
        policy: Option<&RetryPolicy>,
        pulse: Option<Pulse>,
    ) -> Option<Replay> {
        let mirrored = !forward.mirrors.is_empty() && self.admitted.upgrade.is_none();
        let pod = self.connection.guest.pod();
        let tap =
            if mirrored { Tap::new(forward, pod, self.config, parts, (self.connection.destination, limits.total)) } else { None };
        if incoming.is_end_stream() {
            tap.into_iter().for_each(Tap::send);
            pulse.iter().for_each(Pulse::complete);
            return None;
        }
        let keep = policy.is_some_and(|policy| policy.on.after_sending());
        Some(Replay::new(incoming, keep, tap, pulse))
    }
}

impl<'a> Decision<'a> {
    /// Marks the answer, or answers a preflight.
    fn cross_origin(&mut self, dress: &mut Dress<'a>) -> Option<HeaderMap> {
        match (std::mem::replace(&mut self.judged, Judged::None), self.cors) {
            (Judged::Answer(headers), _) => {
                // Changes are the upstream's answers'.
                dress.ops = &[];
                Some(headers)
            }
            (Judged::Allowed(origin), Some(cors)) => {
                dress.cors = Some((cors, origin));
                None
            }
            (Judged::Allowed(_) | Judged::None, _) => None,
        }
    }
}

/// Tells the client the cookies that were made for it.
fn keep_at_host(mut answer: Answer, hashed: &Hashed) -> Answer {
    for cookie in hashed.cookies.iter().filter_map(|cookie| HeaderValue::try_from(cookie).ok()) {
        answer.0.headers_mut().append(header::SET_COOKIE, cookie);
    }
    answer
}

fn words(ops: &[Arc<HeaderOps>], parts: &Parts) -> Option<Words> {
    let path = || parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let words = || Words { method: parts.method.clone(), path: path(), headers: parts.headers.clone() };
    ops.iter().any(|ops| ops.asks_request()).then(words)
}

/// Returns when a request should have come whole, and has not.
async fn overdue(body: Option<Replay>, limit: Option<Duration>) {
    if let (Some(body), Some(limit)) = (body, limit) {
        tokio::time::sleep(limit).await;
        if !body.is_complete() {
            return;
        }
    }
    std::future::pending().await
}

/// The stream's pulse and the request's own time, while the answer is waited for.
async fn bounded(
    call: Pin<&mut impl Future<Output = Result<Answer, Local>>>,
    pulse: Option<&Pulse>,
    overdue: impl Future<Output = ()>,
) -> Result<Answer, Local> {
    let silence = async {
        match pulse {
            Some(pulse) => pulse.silence().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = call => result,
        () = silence => Err(Local::idle(pulse.is_some_and(Pulse::is_complete))),
        () = overdue => Err(Local::late_request()),
    }
}
