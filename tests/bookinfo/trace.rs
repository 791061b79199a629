//! Requests as a real Zipkin shows them: what failed and why, who asked whom.

use super::Case;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::World;
use serde_json::Value;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("trace::Zipkin shows the 500 that jason gets from details", abort),
    ("trace::Zipkin shows the seven seconds that jason waits", delay),
    ("trace::Zipkin shows how often a request was repeated", retries),
    ("trace::one trace from productpage over reviews to ratings", parents),
    ("trace::a gateway begins the trace of what comes from outside", gateway),
];

/// Zipkin starts beside the other cases and has mostly done so by now; a Java on a busy machine takes its time.
const START: Duration = Duration::from_secs(150);
/// Proxies send what they have each second.
const SHOWN: Duration = Duration::from_secs(20);
const HOST: &str = "details.marathon.l4lb.thisdcos.directory";

/// Traces that Zipkin finds by this annotation query, and with this tag of a request's path.
fn traces(world: &World, query: &str) -> Result<Vec<Vec<Value>>> {
    let page = world.zipkin.as_ref().context("bookinfo posted no Zipkin")?;
    let address = page.trim_end_matches('/').trim_end_matches("zipkin");
    let (status, body) = world.browse(&[
        "-G",
        &format!("{address}api/v2/traces"),
        "--data-urlencode",
        &format!("annotationQuery={query}"),
        "--data-urlencode",
        "limit=10",
    ])?;
    ensure!(status == 200, "Zipkin answers {status} {body}");
    Ok(serde_json::from_str(&body)?)
}

/// Asks by `ask`, which gets an id for its request, until Zipkin shows a trace of one that is as wanted.
fn shown(world: &World, ask: impl Fn(&str) -> Result<()>, wanted: impl Fn(&[Value]) -> Result<()>) -> Result<()> {
    shown_by(world, "x-request-id", ask, wanted)
}

/// The same, where the id is in this header.
fn shown_by(
    world: &World,
    header: &str,
    ask: impl Fn(&str) -> Result<()>,
    wanted: impl Fn(&[Value]) -> Result<()>,
) -> Result<()> {
    ensure!(world.zipkin.is_some(), "bookinfo posted no Zipkin; `cargo xtask bookinfo` says why");
    let mut turn = 0;
    eventually("Zipkin shows it", START, || {
        traces(world, "error").context("is it up?")?;
        turn += 1;
        let id = format!("trace-test-{}-{turn}", std::process::id());
        ask(&id)?;
        eventually("the request's trace", SHOWN, || {
            let found = traces(world, &format!("guid:{header}={id}"))?;
            let judged = found.iter().map(|trace| wanted(trace).with_context(|| format!("{trace:#?}")));
            judged.reduce(Result::or).context("no trace of it")?
        })
    })
}

fn details(world: &World, id: &str, user: &str, path: &str, status: u16) -> Result<()> {
    let (id, user) = (format!("x-request-id: {id}"), format!("end-user: {user}"));
    let (found, body) = world.curl("productpage", &["-H", &id, "-H", &user, &format!("http://details:9080{path}")])?;
    ensure!(found == status, "{found} {body}");
    Ok(())
}

fn tags(span: &Value, expected: &[(&str, &str)]) -> Result<()> {
    for (name, value) in expected {
        ensure!(span["tags"][name] == *value, "{name} is {}, not {value}", span["tags"][name]);
    }
    Ok(())
}

fn abort(world: &mut World) -> Result<()> {
    world.kubectl(&["apply", "-f", "bookinfo/destination-rule-all.yaml", "-f", "bookinfo/vs-details-abort.yaml"])?;
    let ask = |id: &str| details(world, id, "jason", "/details/0", 500);
    shown(world, ask, |trace| {
        let [span] = trace else { anyhow::bail!("one span is expected") };
        ensure!(span["localEndpoint"]["serviceName"] == "productpage.default", "the source");
        ensure!(span["kind"] == "CLIENT" && span["name"].as_str().is_some_and(|name| name.starts_with("details")), "the name");
        tags(
            span,
            &[
                ("http.status_code", "500"),
                ("response_flags", "FI"),
                ("error", "true"),
                ("http.method", "GET"),
                ("upstream_cluster", &format!("outbound|9080|v1|{HOST}")),
                ("istio.canonical_service", "productpage"),
            ],
        )
    })?;
    let by_query = traces(world, "http.status_code=500 and response_flags=FI")?;
    ensure!(!by_query.is_empty(), "nothing is found by status and flag");
    world.forget_rules()
}

fn delay(world: &mut World) -> Result<()> {
    world.kubectl(&["apply", "-f", "bookinfo/destination-rule-all.yaml", "-f", "bookinfo/vs-delay-details.yaml"])?;
    let ask = |id: &str| details(world, id, "jason", "/details/0", 200);
    shown(world, ask, |trace| {
        let [span] = trace else { anyhow::bail!("one span is expected") };
        ensure!(span["duration"].as_u64().is_some_and(|micros| micros >= 7_000_000), "the time");
        ensure!(span["remoteEndpoint"]["serviceName"] == "details.default", "the destination");
        ensure!(span["remoteEndpoint"]["port"] == 9080, "its port");
        tags(
            span,
            &[
                ("http.status_code", "200"),
                ("response_flags", "DI"),
                ("istio.destination_canonical_service", "details"),
                ("istio.destination_canonical_revision", "v1"),
            ],
        )
    })?;
    world.forget_rules()
}

fn retries(world: &mut World) -> Result<()> {
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: details}}\nspec:\n  hosts: [{HOST}]\n  http:\n  \
         - route: [{{destination: {{host: {HOST}}}}}]\n    retries: {{attempts: 2, retryOn: \"404\"}}\n"
    );
    let output = world.try_kubectl(&["apply", "-f", "-"], &rule)?;
    ensure!(output.status.success(), "{output:?}");
    let ask = |id: &str| details(world, id, "mary", "/no-such-page", 404);
    shown(world, ask, |trace| {
        let [span] = trace else { anyhow::bail!("one span is expected") };
        tags(span, &[("http.status_code", "404"), ("retry.count", "2"), ("response_flags", "URX")])
    })?;
    world.forget_rules()
}

fn parents(world: &mut World) -> Result<()> {
    const PAGE: &str = "00000000000000a1";
    // The versions of reviews take turns, and two of the three ask for stars.
    let ask = |id: &str| {
        let trace =
            format!("x-b3-traceid: {:032x}", id.bytes().fold(1_u128, |sum, byte| sum * 31 % (1 << 120) + u128::from(byte)));
        let (id, span) = (format!("x-request-id: {id}"), format!("x-b3-spanid: {PAGE}"));
        let headers = ["-H", &id, "-H", &trace, "-H", &span, "-H", "x-b3-sampled: 1"];
        for _ in 0..3 {
            let (status, _) = world.browse(&[&headers[..], &[&world.page]].concat())?;
            ensure!(status == 200, "{status}");
        }
        Ok(())
    };
    shown(world, ask, |trace| {
        let between = |source: &str, destination: &str| -> Vec<&Value> {
            // As long as pods have no label `app` their services in traces are named with their versions.
            let name = |span: &Value, side: &str, service: &str| {
                span[side]["serviceName"].as_str().is_some_and(|name| name.starts_with(service) && name.ends_with(".default"))
            };
            let found =
                trace.iter().filter(|span| name(span, "localEndpoint", source) && name(span, "remoteEndpoint", destination));
            found.collect()
        };
        let [details, reviews] = ["details", "reviews"].map(|service| between("productpage", service));
        ensure!((details.len(), reviews.len()) == (3, 3), "{} and {} spans of productpage", details.len(), reviews.len());
        ensure!(details.iter().chain(&reviews).all(|span| span["parentId"] == PAGE), "whose children are productpage's?");
        let ratings = between("reviews", "ratings");
        ensure!(ratings.len() == 2, "{} spans of reviews", ratings.len());
        let parent = |span: &Value| reviews.iter().any(|reviews| reviews["id"] == span["parentId"]);
        ensure!(ratings.iter().all(|span| parent(span)), "whose children are those of reviews?");
        Ok(())
    })
}

/// The shop at every gateway.
const SHOP: &str = "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http:
  - route: [{destination: {host: productpage.marathon.l4lb.thisdcos.directory, port: {number: 9080}}}]
";

fn gateway(world: &mut World) -> Result<()> {
    let output = world.try_kubectl(&["apply", "-f", "-"], SHOP)?;
    ensure!(output.status.success(), "{output:?}");
    let ask = |id: &str| {
        // Its own id for a request a stranger may not choose; but one for his trace.
        let id = format!("x-client-trace-id: {id}");
        let curl =
            ["curl", "-s", "-S", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", "-H", "host: shop.example.com", "-H", &id];
        let output = world.in_namespace("outside", &[&curl[..], &["http://198.18.0.11/productpage"]].concat())?.output()?;
        ensure!(output.status.success() && output.stdout == b"200", "{output:?}");
        Ok(())
    };
    shown_by(world, "x-client-trace-id", ask, |trace| {
        let of = |kind: &str, source: &str| -> Vec<&Value> {
            let is = |span: &&Value| {
                span["kind"] == kind && span["localEndpoint"]["serviceName"].as_str().is_some_and(|name| name.starts_with(source))
            };
            trace.iter().filter(is).collect()
        };
        let (requests, attempts) = (of("SERVER", "istio-ingressgateway."), of("CLIENT", "istio-ingressgateway."));
        let ([request], [attempt]) = (requests.as_slice(), attempts.as_slice()) else {
            anyhow::bail!("{} spans of what came and {} of attempts", requests.len(), attempts.len())
        };
        ensure!(request.get("parentId").is_none(), "the trace begins there");
        ensure!(attempt["parentId"] == request["id"], "whose attempt is it?");
        ensure!(
            attempt["remoteEndpoint"]["serviceName"].as_str().is_some_and(|name| name.starts_with("productpage")),
            "the shop"
        );
        tags(request, &[("http.status_code", "200"), ("http.url", "http://shop.example.com/productpage")])?;
        tags(attempt, &[("http.status_code", "200")])?;
        let asked = of("CLIENT", "productpage");
        ensure!(asked.len() >= 2, "{} spans of productpage", asked.len());
        ensure!(asked.iter().all(|span| span["parentId"] == attempt["id"]), "productpage was told of the attempt");
        Ok(())
    })?;
    let output = world.try_kubectl(&["delete", "-f", "-"], SHOP)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
