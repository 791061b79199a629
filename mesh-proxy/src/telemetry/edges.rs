//! Istio's standard metrics: `istio_requests_total` and its sisters, by who asked whom and with what result.
//!
//! Where no proxy stands before the server, the client's counts for both: each label set that reached an endpoint is shown twice, as
//! `reporter="source"` and `reporter="destination"`. A server whose port is captured is told of by the proxy there ([`Side`]). A pod's thread keeps the [`Edge`] of its last results ([`super::pod`]), so that a
//! request touches atomics only and no label is written per request.

use super::edges::histogram::Histogram;
use crate::core::peer::Peer;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

mod histogram;

/// Label sets of a process, of requests and of connections each. A set is some 70 lines of 700 bytes for Prometheus, so this is 50 MB a
/// scrape: more than any node should need, less than would kill it. Beyond: counted without labels, and in
/// `mesh_proxy_telemetry_overflow_total`.
const MOST: usize = 1000;

/// Istio's labels without `reporter` and `connection_security_policy`, in Istio's order.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Labels {
    /// Names and values.
    pub pairs: Vec<(&'static str, String)>,
    /// Who tells of it.
    pub side: Side,
}

/// On whose behalf is something counted?
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Side {
    /// The client's: no server was reached, or it tells for itself.
    #[default]
    Client,
    /// Both: a server was reached that has no proxy before it.
    Both,
    /// The server's.
    Server,
}

impl Side {
    /// Of a client's proxy that has reached a server.
    #[must_use]
    pub fn client(server: Option<&Peer>) -> Self {
        if server.is_some_and(|server| server.tells) { Self::Client } else { Self::Both }
    }
}

/// Requests with one label set.
#[derive(Debug, Default)]
pub struct Edge {
    requests: AtomicU64,
    duration: Histogram,
    received: Histogram,
    sent: Histogram,
}

impl Edge {
    /// Counts a request that is over.
    pub fn count(&self, duration: Duration, received: u64, sent: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.duration.observe(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), 1000);
        self.received.observe(received, 1);
        self.sent.observe(sent, 1);
    }
}

/// TCP connections with one label set.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "named as the metrics")]
pub struct TcpEdge {
    pub opened: AtomicU64,
    pub closed: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

/// All of a process.
#[derive(Debug, Default)]
pub struct Edges {
    requests: Mutex<HashMap<Labels, Arc<Edge>>>,
    connections: Mutex<HashMap<Labels, Arc<TcpEdge>>>,
    /// Label sets that found no room.
    pub overflowed: Counter,
}

impl Edges {
    /// The counters of a label set.
    pub fn requests(&self, labels: Labels) -> Arc<Edge> {
        self.find(&self.requests, labels)
    }

    /// The counters of a label set.
    pub fn connections(&self, labels: Labels) -> Arc<TcpEdge> {
        self.find(&self.connections, labels)
    }

    fn find<T: Default>(&self, all: &Mutex<HashMap<Labels, Arc<T>>>, labels: Labels) -> Arc<T> {
        let mut all = all.lock();
        let room = all.len() < MOST || all.contains_key(&labels);
        let labels = if room {
            labels
        } else {
            self.overflowed.inc();
            // One more at most: without any label.
            Labels::default()
        };
        Arc::clone(all.entry(labels).or_default())
    }
}

/// A label set with its reporter.
#[derive(Debug)]
struct Reported<'a>(&'static str, &'a Labels);

impl EncodeLabelSet for Reported<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let Self(reporter, labels) = self;
        ("reporter", *reporter).encode(encoder.encode_label())?;
        for (name, value) in &labels.pairs {
            (*name, value.as_str()).encode(encoder.encode_label())?;
        }
        // As Istio says it: the client's side does not know how the server saw the connection.
        let policy = if *reporter == "source" { "unknown" } else { "none" };
        ("connection_security_policy", policy).encode(encoder.encode_label())
    }
}

fn reports(labels: &Labels) -> impl Iterator<Item = Reported<'_>> {
    let source = (labels.side != Side::Server).then_some(Reported("source", labels));
    let destination = (labels.side != Side::Client).then_some(Reported("destination", labels));
    source.into_iter().chain(destination)
}

type Snapshot<T> = Vec<(Labels, Arc<T>)>;

fn sorted<T>(all: &Mutex<HashMap<Labels, Arc<T>>>) -> Snapshot<T> {
    let mut all: Snapshot<T> = all.lock().iter().map(|(labels, edge)| (labels.clone(), Arc::clone(edge))).collect();
    all.sort_by(|(a, _), (b, _)| a.pairs.cmp(&b.pairs));
    all
}

fn counters<T>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    all: &Snapshot<T>,
    value: impl Fn(&T) -> &AtomicU64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, edge) in all {
        let value = value(edge).load(Ordering::Relaxed);
        for labels in reports(labels) {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
    }
    Ok(())
}

fn histograms(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    all: &Snapshot<Edge>,
    (value, scale): (impl Fn(&Edge) -> &Histogram, u64),
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (labels, edge) in all {
        let (sum, count, buckets) = value(edge).read(scale);
        for labels in reports(labels) {
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
    }
    Ok(())
}

impl Collector for Edges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (requests, tcp) = (sorted(&self.requests), sorted(&self.connections));
        let e = &mut encoder;
        counters(e, ("istio_requests", "Requests"), &requests, |edge| &edge.requests)?;
        let duration = ("istio_request_duration_milliseconds", "From a request's head to its response's end");
        histograms(e, duration, &requests, (|edge: &Edge| &edge.duration, 1000))?;
        histograms(e, ("istio_request_bytes", "Bytes of requests' bodies"), &requests, (|edge: &Edge| &edge.received, 1))?;
        histograms(e, ("istio_response_bytes", "Bytes of responses' bodies"), &requests, (|edge: &Edge| &edge.sent, 1))?;
        counters(e, ("istio_tcp_connections_opened", "TCP connections opened"), &tcp, |edge| &edge.opened)?;
        counters(e, ("istio_tcp_connections_closed", "TCP connections closed"), &tcp, |edge| &edge.closed)?;
        counters(e, ("istio_tcp_sent_bytes", "Bytes to clients"), &tcp, |edge| &edge.sent)?;
        counters(e, ("istio_tcp_received_bytes", "Bytes from clients"), &tcp, |edge| &edge.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    fn page(edges: &Arc<Edges>) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(edges)));
        let mut out = String::new();
        text::encode(&mut out, &registry).expect("encodes");
        out
    }

    fn labels(code: u32, reached: bool) -> Labels {
        let side = if reached { Side::client(None) } else { Side::Client };
        Labels { pairs: vec![("response_code", code.to_string())], side }
    }

    #[test]
    fn both_reporters_tell_of_what_reached_an_endpoint() {
        let edges = Arc::new(Edges::default());
        edges.requests(labels(200, true)).count(Duration::from_micros(700), 0, 3000);
        edges.requests(labels(200, true)).count(Duration::from_secs(7), 0, 1);
        edges.requests(labels(404, false)).count(Duration::ZERO, 0, 0);
        edges.connections(labels(0, true)).sent.fetch_add(5, Ordering::Relaxed);
        let page = page(&edges);
        for line in [
            r#"istio_requests_total{reporter="source",response_code="200",connection_security_policy="unknown"} 2"#,
            r#"istio_requests_total{reporter="destination",response_code="200",connection_security_policy="none"} 2"#,
            r#"istio_requests_total{reporter="source",response_code="404",connection_security_policy="unknown"} 1"#,
            r#"istio_request_duration_milliseconds_sum{reporter="source",response_code="200",connection_security_policy="unknown"} 7000.7"#,
            r#"istio_request_duration_milliseconds_bucket{le="1.0",reporter="source",response_code="200",connection_security_policy="unknown"} 1"#,
            r#"istio_tcp_sent_bytes_total{reporter="destination",response_code="0",connection_security_policy="none"} 5"#,
        ] {
            let sorted = |line: &str| {
                let mut parts: Vec<String> = line.split(['{', ',', '}']).map(str::to_owned).collect();
                parts.sort();
                parts
            };
            assert!(page.lines().any(|found| sorted(found) == sorted(line)), "{line}\n{page}");
        }
        assert!(!page.contains(r#"reporter="destination",response_code="404""#));
    }

    #[test]
    fn a_server_that_tells_for_itself_is_told_of_once() {
        let told = Peer::parse("reviews-v2;default;reviews;v2;;inbound");
        assert_eq!((Side::client(Some(&told)), Side::client(Some(&Peer::default()))), (Side::Client, Side::Both));
        let edges = Arc::new(Edges::default());
        edges.connections(Labels { side: Side::Server, ..labels(0, true) }).opened.fetch_add(1, Ordering::Relaxed);
        let page = page(&edges);
        assert!(page.contains(r#"istio_tcp_connections_opened_total{reporter="destination""#), "{page}");
        assert!(!page.contains(r#"reporter="source""#), "{page}");
    }

    #[test]
    fn beyond_the_limit_nothing_is_lost_but_labels() {
        let edges = Arc::new(Edges::default());
        for code in 0..u32::try_from(MOST).expect("small") + 10 {
            edges.requests(labels(code, false)).count(Duration::ZERO, 0, 0);
        }
        assert_eq!(edges.overflowed.get(), 10);
        assert!(page(&edges).contains("istio_requests_total{reporter=\"source\",connection_security_policy=\"unknown\"} 10\n"));
        edges.requests(labels(0, false));
        assert_eq!(edges.overflowed.get(), 10, "what is known stays known");
    }
}
