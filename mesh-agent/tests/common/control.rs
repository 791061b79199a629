//! A control plane of one test: real delta xDS over TLS on loopback, whatever snapshot the test says.

use bytes::Bytes;
use mesh_xds::agent as wire;
use mesh_xds::node::Node;
use mesh_xds::serve::{Answer, Source};
use mesh_xds::server::{Snapshot, Versioned};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

pub const TOKEN: &str = "token-of-the-node";

pub struct Control {
    source: Arc<Told>,
    pub endpoint: String,
    pub ca_pem: String,
    runtime: Option<tokio::runtime::Runtime>,
}

struct Told {
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Type URL, refusal.
    answers: Mutex<Vec<(String, Option<String>)>>,
}

impl Source for Told {
    fn authorize(&self, _node: &Node, token: Option<&str>) -> Result<(), String> {
        if token == Some(TOKEN) { Ok(()) } else { Err("wrong token".to_owned()) }
    }
    fn watch(&self, _node: &Node) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }
    fn answered(&self, _node: &Node, answer: Answer<'_>) {
        self.answers.lock().expect("not poisoned").push((answer.type_url.to_owned(), answer.error.map(str::to_owned)));
    }
    fn disconnected(&self, _node: &Node) {}
}

impl Control {
    pub fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("tls");
        let mut tls = builder.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).expect("valid");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let source = Arc::new(Told { snapshots: watch::channel(Arc::default()).0, answers: Mutex::default() });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let endpoint = format!("localhost:{}", listener.local_addr().expect("bound").port());
        listener.set_nonblocking(true).expect("set");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
        let serving = Arc::clone(&source);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            mesh_xds::serve::run(listener, Arc::new(tls), serving).await.expect("serves");
        });
        Self { source, endpoint, ca_pem: certified.cert.pem(), runtime: Some(runtime) }
    }

    pub fn publish(&self, version: &str, workloads: &[wire::Workload], services: &[wire::Service]) {
        self.publish_with(version, workloads, services, &[]);
    }

    pub fn publish_with(&self, version: &str, workloads: &[wire::Workload], services: &[wire::Service], egress: &[wire::Egress]) {
        self.publish_all(version, workloads, services, egress, Vec::new());
    }

    pub fn publish_all(
        &self,
        version: &str,
        workloads: &[wire::Workload],
        services: &[wire::Service],
        egress: &[wire::Egress],
        protected: Vec<wire::Endpoint>,
    ) {
        self.publish_mesh(version, wire::Mesh { protected, ..Self::mesh() }, workloads, services, egress);
    }

    /// Settings as all tests have them, but for what they are about.
    pub fn mesh() -> wire::Mesh {
        wire::Mesh { vip_ranges: vec!["11.0.0.0/8".to_owned()], ..wire::Mesh::default() }
    }

    pub fn publish_mesh(
        &self,
        version: &str,
        mesh: wire::Mesh,
        workloads: &[wire::Workload],
        services: &[wire::Service],
        egress: &[wire::Egress],
    ) {
        let types = [
            (wire::EGRESS, encode(version, egress.iter().map(|e| (e.name.clone(), e.clone())))),
            (wire::MESH, encode(version, [(wire::MESH_NAME.to_owned(), mesh)])),
            (wire::WORKLOAD, encode(version, workloads.iter().map(|w| (w.id.clone(), w.clone())))),
            (wire::SERVICE, encode(version, services.iter().map(|s| (s.name.clone(), s.clone())))),
        ];
        self.source.snapshots.send_replace(Arc::new(Snapshot { types: types.into() }));
    }

    /// Waits for an answer of this type that fulfils the condition.
    pub fn answered(&self, type_url: &str, wanted: impl Fn(Option<&str>) -> bool) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            let answers = self.source.answers.lock().expect("not poisoned");
            if answers.iter().any(|(url, error)| url == type_url && wanted(error.as_deref())) {
                return;
            }
            drop(answers);
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no such answer: {:?}", self.source.answers.lock().expect("not poisoned"));
    }

    pub fn forget_answers(&self) {
        self.source.answers.lock().expect("not poisoned").clear();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn encode<M: Message>(version: &str, resources: impl IntoIterator<Item = (String, M)>) -> Arc<BTreeMap<String, Versioned>> {
    let one = |(name, message): (String, M)| {
        (name, Versioned { version: version.to_owned(), body: Bytes::from(message.encode_to_vec()) })
    };
    Arc::new(resources.into_iter().map(one).collect())
}
