//! One request, top to bottom: route, fault, upstream, answer. Read this first.

use super::Connection;
use super::attempt::{Answer, Call};
use super::body::{Replay, ResponseBody};
use super::local::Local;
use super::record::Record;
use super::tunnel;
use crate::config::{Config, Http, Serve};
use crate::core::balance::Ask;
use crate::core::fault::{Abort, Injected};
use crate::core::flags::Flags;
use crate::core::hash::{self, Asker, HashPolicy, Hashed};
use crate::core::headers::{HeaderOps, remove_hop_by_hop};
use crate::core::matching::RequestView;
use crate::core::route::{Action, Forward, Route, Target, VirtualHost};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const RQ_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Answers a request. All of it sees one snapshot of the configuration.
pub(super) async fn handle(connection: &Connection, request: Request<Incoming>) -> Response<ResponseBody> {
    let pod = connection.guest.pod();
    let config = pod.shared.config.load_full();
    let (mut parts, incoming) = request.into_parts();
    let authority = authority(&parts);
    let record = Record::new(pod, authority.as_deref().unwrap_or("-"), &parts);
    let listener = config.listener(connection.destination).map(|listener| &listener.serve);
    let Some(Serve::Http(http)) = listener else {
        // The listener went away under an open connection.
        return local(Local::no_route(), &HeaderValue::from_static("envoy"), &[], record);
    };
    let Some(authority) = authority else {
        return local(Local::new(StatusCode::BAD_REQUEST, "", Flags::default()), &http.options.server_name, &[], record);
    };
    let client = if http.options.websocket { tunnel::client(&mut parts) } else { None };
    if client.is_none() && tunnel::wanted(&parts.headers).is_some() {
        return local(Local::new(StatusCode::FORBIDDEN, "", Flags::default()), &http.options.server_name, &[], record);
    }
    Exchange { connection, config: &config, http, authority }.run((parts, incoming, client), record).await
}

/// A request; the last is the client's end of a WebSocket that it asks for.
type Asked = (Parts, Incoming, Option<OnUpgrade>);

/// What a request is answered with.
struct Exchange<'a> {
    connection: &'a Connection,
    config: &'a Config,
    http: &'a Http,
    authority: String,
}

/// What routing and dice said.
struct Decision<'a> {
    host: &'a VirtualHost,
    route: &'a Route,
    target: Option<&'a Target>,
    injected: Injected,
    /// How much of the path a prefix rewrite replaces.
    matched: usize,
    /// Where a redirect points.
    location: Option<String>,
}

impl<'a> Exchange<'a> {
    async fn run(&self, (parts, incoming, client): Asked, mut record: Record) -> Response<ResponseBody> {
        let server = &self.http.options.server_name;
        let Some(decision) = self.decide(&parts) else { return local(Local::no_route(), server, &[], record) };
        record.route = Some(Arc::clone(&decision.route.name));
        record.cluster_name = decision.target.map(|target| Arc::clone(&target.cluster));
        if let Some(delay) = decision.injected.delay {
            record.flags.set(Flags::DELAY);
            tokio::time::sleep(delay).await;
        }
        if let Some(abort) = decision.injected.abort {
            return aborted(abort, server, record);
        }
        let ops = &decision.route.response;
        match (&decision.route.action, decision.target, &decision.location) {
            (Action::Respond(status, body), ..) => {
                let reply = Local { status: *status, body: body.clone(), flags: Flags::default(), overloaded: false };
                local(reply, server, ops, record)
            }
            (Action::Redirect(redirect), _, location) => {
                let mut response = local(Local::new(redirect.status, "", Flags::default()), server, ops, record);
                if let Some(location) = location.as_deref().and_then(|location| HeaderValue::try_from(location).ok()) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                response
            }
            (Action::Forward(forward), Some(target), _) => {
                self.forward(&decision, forward, target, (parts, incoming, client), record).await
            }
            (Action::Forward(_), None, _) => local(Local::no_cluster(), server, &[], record),
        }
    }

    fn view<'p>(&'p self, parts: &'p Parts) -> RequestView<'p> {
        RequestView {
            method: parts.method.as_str(),
            authority: &self.authority,
            scheme: "http",
            path: parts.uri.path(),
            query: parts.uri.query(),
            headers: &parts.headers,
        }
    }

    fn decide(&self, parts: &Parts) -> Option<Decision<'a>> {
        let pod = self.connection.guest.pod();
        let view = self.view(parts);
        let (host, route) = self.http.routes.find(&view, &pod.workload().labels)?;
        let target = match &route.action {
            Action::Forward(forward) => Some(pod.with_rng(|rng| forward.choose(rng))),
            Action::Redirect(_) | Action::Respond(..) => None,
        };
        let fault = target.and_then(|target| target.fault.as_ref()).or(route.fault.as_ref()).or(self.http.options.fault.as_ref());
        let injected = fault.map(|fault| pod.with_rng(|rng| fault.decide(&view, rng))).unwrap_or_default();
        let matched = route.when.path.matched(view.path);
        let location = match &route.action {
            Action::Redirect(redirect) => Some(redirect.location(&view, matched)),
            Action::Forward(_) | Action::Respond(..) => None,
        };
        Some(Decision { host, route, target, injected, matched, location })
    }

    async fn forward(
        &self,
        decision: &Decision<'_>,
        forward: &Forward,
        target: &Target,
        (mut parts, incoming, client): Asked,
        mut record: Record,
    ) -> Response<ResponseBody> {
        let (pod, server) = (self.connection.guest.pod(), &self.http.options.server_name);
        let Some(cluster) = self.config.clusters.get(&target.cluster) else {
            return local(Local::no_cluster(), server, &[], record);
        };
        let upstream = pod.upstream(&cluster.name);
        let hashed = self.hash(&parts, &forward.hash);
        let limit = timeout(&mut parts.headers, forward.timeout);
        let http2 = parts.version == Version::HTTP_2;
        self.prepare(&mut parts, decision, forward, target, limit);
        if client.is_some() {
            tunnel::ask(&mut parts.headers);
        }
        let keep = forward.retry.as_ref().is_some_and(|policy| policy.on.after_sending());
        let body = (!incoming.is_end_stream()).then(|| Replay::new(incoming, keep));
        let began = Instant::now();
        let deadline = limit.map(|limit| began + limit);
        let call = Call {
            pod,
            cluster,
            upstream: &upstream,
            ask: Ask { hash: hashed.hash, original: self.connection.destination },
            policy: forward.retry.as_ref(),
            attempt_count: decision.host.attempt_count,
            parts,
            body,
            deadline,
            http2,
        };
        let result = call.run(&mut record).await;
        match result.map(|answer| keep_at_host(answer, &hashed)) {
            Err(reply) => local(reply, server, &decision.route.response, record),
            Ok(answer) if tunnel::agreed(&answer) => match client {
                Some(client) => tunnel::open(answer, client, pod, record),
                // Nobody asked for it.
                None => local(Local::reset("protocol error", false, Flags::PROTOCOL), server, &decision.route.response, record),
            },
            Ok(answer) => {
                let own = target.response.as_ref();
                let ops = own.into_iter().chain(&decision.route.response);
                respond(answer, server, ops, (began, deadline), record)
            }
        }
    }

    /// What consistent hashing goes by: the request as the client sent it.
    fn hash(&self, parts: &Parts, policies: &[HashPolicy]) -> Hashed {
        if policies.is_empty() {
            return Hashed::default();
        }
        let request = self.view(parts);
        hash::hash(
            policies,
            &Asker { request: &request, client: self.connection.client, destination: self.connection.destination },
        )
    }

    /// Makes of the client's request what the upstream gets.
    fn prepare(&self, parts: &mut Parts, decision: &Decision<'_>, forward: &Forward, target: &Target, limit: Option<Duration>) {
        let headers = &mut parts.headers;
        remove_hop_by_hop(headers);
        if self.http.options.generate_request_id && !headers.contains_key(REQUEST_ID) {
            let id = uuid::Uuid::new_v4().to_string();
            headers.insert(REQUEST_ID, HeaderValue::try_from(id).unwrap_or_else(|_never| HeaderValue::from_static("-")));
        }
        headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
        if let Some(limit) = limit {
            headers.insert(EXPECTED_TIMEOUT, u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).into());
        }
        for ops in target.request.iter().chain(&decision.route.request) {
            ops.apply(headers);
        }
        let host = forward.host.clone().or_else(|| HeaderValue::try_from(self.authority.as_str()).ok());
        if let Some(host) = host {
            headers.insert(header::HOST, host);
        }
        let old = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let new = match &forward.path {
            None => None,
            Some(rewrite) => {
                let mut path = rewrite.apply(parts.uri.path(), decision.matched);
                if let Some(query) = parts.uri.query() {
                    path = format!("{path}?{query}");
                }
                path.parse::<Uri>().ok()
            }
        };
        // Origin form, whatever form the client used; a rewritten path that is no path leaves the old one.
        let origin = new.as_ref().and_then(Uri::path_and_query).map_or(old, |path| path.as_str());
        if origin != old
            && let Ok(old) = HeaderValue::try_from(old)
        {
            headers.insert(ORIGINAL_PATH, old);
        }
        if let Ok(uri) = origin.parse() {
            parts.uri = uri;
        }
        parts.version = Version::HTTP_11;
    }
}

/// The host that the client names: in the request's target, else in `host`.
fn authority(parts: &Parts) -> Option<String> {
    let named = parts.uri.authority().map(|authority| authority.as_str().to_owned());
    named.or_else(|| Some(parts.headers.get(header::HOST)?.to_str().ok()?.to_owned())).filter(|authority| !authority.is_empty())
}

/// The route's limit, or the client's own.
fn timeout(headers: &mut HeaderMap, route: Option<Duration>) -> Option<Duration> {
    match headers.remove(RQ_TIMEOUT).and_then(|value| value.to_str().ok()?.parse::<u64>().ok()) {
        Some(0) => None,
        Some(millis) => Some(Duration::from_millis(millis)),
        None => route,
    }
}

/// Tells the client the cookies that were made for it.
fn keep_at_host(mut answer: Answer, hashed: &Hashed) -> Answer {
    for cookie in hashed.cookies.iter().filter_map(|cookie| HeaderValue::try_from(cookie).ok()) {
        answer.0.headers_mut().append(header::SET_COOKIE, cookie);
    }
    answer
}

/// The upstream's answer, as the client gets it.
fn respond<'a>(
    (response, lease): Answer,
    server: &HeaderValue,
    ops: impl Iterator<Item = &'a Arc<HeaderOps>>,
    (began, deadline): (Instant, Option<Instant>),
    mut record: Record,
) -> Response<ResponseBody> {
    let (mut parts, incoming) = response.into_parts();
    parts.version = Version::HTTP_11;
    // The reason phrase and other marks of the upstream's connection do not concern the client's.
    parts.extensions.clear();
    remove_hop_by_hop(&mut parts.headers);
    parts.headers.insert(header::SERVER, server.clone());
    parts.headers.insert(SERVICE_TIME, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).into());
    for ops in ops {
        ops.apply(&mut parts.headers);
    }
    record.status = parts.status.as_u16();
    Response::from_parts(parts, ResponseBody::upstream(incoming, lease, deadline, record))
}

/// An answer of our own.
fn local(reply: Local, server: &HeaderValue, ops: &[Arc<HeaderOps>], mut record: Record) -> Response<ResponseBody> {
    record.flags.set(reply.flags);
    record.status = reply.status.as_u16();
    let has_body = !reply.body.is_empty();
    let mut response = Response::new(ResponseBody::full(reply.body, record));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    if has_body {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if reply.overloaded {
        headers.insert("x-envoy-overloaded", HeaderValue::from_static("true"));
    }
    headers.insert(header::SERVER, server.clone());
    for ops in ops {
        ops.apply(headers);
    }
    response
}

fn aborted(abort: Abort, server: &HeaderValue, record: Record) -> Response<ResponseBody> {
    const BODY: &str = "fault filter abort";
    match abort {
        Abort::Http(status) => local(Local::new(status, BODY, Flags::FAULT), server, &[], record),
        Abort::Grpc(status) => {
            let mut response = local(Local::new(StatusCode::OK, "", Flags::FAULT), server, &[], record);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", status.into());
            headers.insert("grpc-message", HeaderValue::from_static(BODY));
            response
        }
    }
}
