//! Real kubectl against the real program. Needs kubectl, so it is behind the feature `node`; `MESH_KUBECTL` names another one.
//!
//! The manifests have the form of walkthrough 000 (old `v1alpha3`, `abort.percent`, an empty document at the end).

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const CONTROL: &str = env!("CARGO_BIN_EXE_mesh-control");

struct World {
    dir: tempfile::TempDir,
    server: Child,
    /// Where it listens.
    api: String,
}

impl Drop for World {
    fn drop(&mut self) {
        // It may have ended by itself, which the test will have noticed.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Marathon is away: nobody listens on its port.
fn serve(dir: &Path, api: &str) -> Child {
    let at = |name: &str| dir.join(name);
    let mut command = Command::new(CONTROL);
    command
        .arg("serve")
        .args(["--marathon", &format!("http://127.0.0.1:{}", free_port()), "--api-listen", api])
        .args(["--xds-listen", &format!("127.0.0.1:{}", free_port())])
        .args([PathBuf::from("--state"), at("state"), "--admin-socket".into(), at("admin.sock")])
        .args([PathBuf::from("--tls-cert"), at("mesh/control/server.crt"), "--tls-key".into(), at("mesh/control/server.key")])
        .args([PathBuf::from("--token-file"), at("mesh/control/tokens.csv")])
        .stderr(fs::File::create(at("log")).unwrap());
    command.spawn().unwrap()
}

impl World {
    /// Marathon is away: nobody listens on its port.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let api = format!("127.0.0.1:{}", free_port());
        let server = format!("https://{api}");
        let init =
            Command::new(CONTROL).args(["init", "--san", "127.0.0.1", "--api-server", &server, "--out"]).arg(at("mesh")).status();
        assert!(init.unwrap().success());
        let server = serve(dir.path(), &api);
        let world = Self { dir, server, api };
        world.until_ready();
        world
    }

    /// The same again, after the first has ended.
    fn serve(&mut self) {
        self.server = serve(self.dir.path(), &self.api);
        self.until_ready();
    }

    fn until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.kubectl("get --raw /readyz").status.success() {
            assert!(Instant::now() < deadline, "not ready; log:\n{}", fs::read_to_string(self.path("log")).unwrap());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, arguments: &str) -> Command {
        let kubectl = std::env::var("MESH_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = Command::new(kubectl);
        command.args(arguments.split_whitespace()).current_dir(self.dir.path()).env("HOME", self.dir.path());
        command.env("KUBECONFIG", self.path("mesh/kubeconfig")).env("EDITOR", "sed -i s/jason/alice/").stdin(Stdio::null());
        command
    }

    fn kubectl(&self, arguments: &str) -> Output {
        self.command(arguments).output().expect("kubectl is needed: install it or set MESH_KUBECTL")
    }

    fn ok(&self, arguments: &str) -> String {
        let output = self.kubectl(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "kubectl {arguments}:\n{out}\n{err}");
        format!("{out}{err}")
    }

    fn refused(&self, arguments: &str) -> String {
        let output = self.kubectl(arguments);
        assert!(!output.status.success(), "kubectl {arguments} should be refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

const HOST: &str = "details.marathon.l4lb.thisdcos.directory";

fn destination_rules() -> String {
    let one = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1alpha3\nkind: DestinationRule\nmetadata:\n  name: {name}\nspec:\n  \
             host: {name}.marathon.l4lb.thisdcos.directory\n  subsets:\n  - name: v1\n    labels:\n      version: v1\n---\n"
        )
    };
    ["productpage", "reviews", "ratings", "details"].map(one).concat()
}

fn virtual_service(rules: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\nmetadata:\n  name: details\nspec:\n  hosts:\n  - {HOST}\n  \
         http:\n{rules}  - route:\n    - destination:\n        host: {HOST}\n        subset: v1\n---\n"
    )
}

fn faulty(fault: &str) -> String {
    virtual_service(&format!(
        "  - match:\n    - headers:\n        end-user:\n          exact: jason\n    fault:\n{fault}    route:\n    - destination:\n        \
         host: {HOST}\n        subset: v1\n"
    ))
}

#[test]
fn the_manifests_of_walkthrough_000_come_and_go() {
    let world = World::new();
    world.file("rules.yaml", &destination_rules());
    world.file("v1.yaml", &virtual_service(""));
    world.file("delay.yaml", &faulty("      delay:\n        percent: 100\n        fixedDelay: 7s\n"));
    world.file("abort.yaml", &faulty("      abort:\n        percent: 100\n        httpStatus: 500\n"));

    assert_eq!(world.ok("apply -f rules.yaml").matches(" created").count(), 4);
    assert!(world.ok("apply -f v1.yaml").contains("virtualservice.networking.istio.io/details created"));
    assert!(world.ok("apply -f v1.yaml").contains("unchanged"));
    assert!(world.ok("apply -f delay.yaml").contains("configured"));
    assert!(world.ok("apply -f abort.yaml").contains("configured"));
    let yaml = world.ok("get virtualservice details -o yaml");
    assert!(yaml.contains("percent: 100") && yaml.contains("httpStatus: 500") && !yaml.contains("7s\n"), "{yaml}");
    let table = world.ok("get vs");
    assert!(table.starts_with("NAME      GATEWAYS   HOSTS") && table.contains(&format!("[\"{HOST}\"]")), "{table}");
    assert_eq!(world.ok("get dr").lines().count(), 5);
    let described = world.ok("describe vs details");
    assert!(described.contains("Http Status:  500") && described.contains("Events:"), "{described}");
    assert!(world.ok("delete -f abort.yaml").contains("deleted"));
    assert!(world.refused("delete -f abort.yaml").contains("(NotFound)"));
    world.ok("delete -f rules.yaml");
    assert!(world.ok("get dr").contains("No resources found"));
}

#[test]
fn what_cannot_work_is_refused_with_its_path() {
    let world = World::new();
    world.file("bad.yaml", &faulty("      abort:\n        percent: 100\n        httpStatus: 999\n"));
    let error = world.refused("apply -f bad.yaml");
    assert!(
        error.contains("spec.http[0].fault.abort.httpStatus: Invalid value: 999: HTTP status 999 is not in range 200-599"),
        "{error}"
    );
    world.file("misspelt.yaml", &faulty("      abort:\n        percent: 100\n        httpStatos: 500\n"));
    let error = world.refused("apply -f misspelt.yaml");
    assert!(error.contains("unknown field \"spec.http[0].fault.abort.httpStatos\""), "{error}");
    let gateway = "apiVersion: networking.istio.io/v1alpha3\nkind: Gateway\nmetadata:\n  name: g\nspec:\n  servers: []\n";
    world.file("gateway.yaml", gateway);
    assert!(world.refused("apply -f gateway.yaml").contains("gateway must have at least one server"));
    assert!(world.refused("--token=wrong get vs").contains("Unauthorized"));
    let node = fs::read_to_string(world.path("mesh/node.token")).unwrap();
    assert!(world.refused(&format!("--token={} get vs", node.trim())).contains("(Forbidden)"));
    assert!(world.ok("get vs").contains("No resources found"));
}

#[test]
fn the_service_entry_of_walkthrough_001_comes_and_goes() {
    let world = World::new();
    world.file("entry.yaml", include_str!("../../bookinfo/serviceEntry.yaml"));
    let applied = world.ok("apply -f entry.yaml");
    assert!(
        applied.contains("serviceentry.networking.istio.io/httpbin-ext created") && !applied.contains("Warning"),
        "{applied}"
    );
    let table = world.ok("get se");
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..7], ["NAME", "HOSTS", "LOCATION", "RESOLUTION", "AGE", "httpbin-ext", "[\"httpbin.org\"]"], "{table}");
    assert!(world.ok("get se httpbin-ext -o yaml").contains("number: 80"));
    let patched = world.ok(r#"patch se httpbin-ext --type=merge -p {"spec":{"exportTo":["."]}}"#);
    assert!(!patched.contains("Warning"), "{patched}");
    let patched = world.ok(r#"patch se httpbin-ext --type=merge -p {"spec":{"subjectAltNames":["httpbin.org"]}}"#);
    assert!(patched.contains("Warning: spec.subjectAltNames: is not enforced by this version"), "{patched}");
    let error = world.refused(r#"patch se httpbin-ext --type=merge -p {"spec":{"hosts":["*"]}}"#);
    assert!(error.contains("spec.hosts[0]: Invalid value: \"*\": hostname cannot be wildcard"), "{error}");
    world.ok("delete -f entry.yaml");
    assert!(world.ok("get se").contains("No resources found"));
}

#[test]
fn objects_are_watched_labelled_edited_and_patched() {
    let world = World::new();
    world.file("v1.yaml", &faulty("      delay:\n        percent: 100\n        fixedDelay: 7s\n"));
    world.ok("apply -f v1.yaml");
    let watch = world.command("get vs -w -o name --request-timeout=4s").stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    world.ok("label vs details a=b");
    assert!(world.ok("get vs -l a=b -o name").contains("details"));
    world.ok("edit vs details");
    world.ok("create namespace shop");
    world.ok("label namespace shop istio-injection=enabled");
    assert!(world.ok("get ns -L istio-injection").contains("enabled"));
    assert!(world.ok("get crds").contains("virtualservices.networking.istio.io"));
    assert!(world.ok("get crd gateways.networking.istio.io -o jsonpath={.spec.names.kind}").contains("Gateway"));
    let shown = world.ok("get vs details -o jsonpath={.metadata.generation}-{.spec.http[0].match[0].headers.end-user.exact}");
    assert_eq!(shown, "2-alice");
    let seen = watch.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&seen.stdout).lines().count() >= 3, "{seen:?}");
}

#[test]
fn kinds_that_are_not_in_force_are_refused_with_a_sentence_and_older_spellings_told() {
    let world = World::new();
    for (version, kind, sentence) in [
        ("security.istio.io/v1", "PeerAuthentication", "mutual TLS between workloads is not enforced by this version"),
        ("security.istio.io/v1beta1", "RequestAuthentication", "the tokens of requests are not checked by this version"),
        ("security.istio.io/v1", "AuthorizationPolicy", "requests are not authorized by this version"),
        ("apps/v1", "Deployment", "Marathon runs the workloads: post a pod to its /v2/pods"),
    ] {
        world.file("refused.yaml", &format!("apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: any\nspec: {{}}\n"));
        let error = world.refused("apply -f refused.yaml");
        assert!(error.contains("Forbidden") && error.contains(sentence), "{error}");
        assert!(world.ok(&format!("get {kind}")).contains("No resources found"));
    }
    world.file("old.yaml", &faulty("      abort:\n        percent: 100\n        httpStatus: 500\n"));
    let applied = world.ok("apply -f old.yaml");
    let told = "Warning: spec.http[0].fault.abort.percent: is an older spelling, which is honoured; write percentage.value";
    assert!(applied.contains(told), "{applied}");
    // Marathon is away: nothing is known to run, and nothing can be made to.
    assert!(world.ok("get pods,services,endpoints,nodes").contains("No resources found"));
    world.file("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: any\nspec: {}\n");
    assert!(world.refused("apply -f pod.yaml").contains("what Marathon runs"));
    assert!(world.refused("get pod any").contains("pods \"any\" not found"));
}

/// The form of walkthroughs 001 and 004, and of the ingress task of walkthrough 002.
const EDGE: &str = "apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata:
  name: app-gateway
spec:
  selector:
    istio: ingressgateway
  servers:
  - port:
      number: 80
      name: http
      protocol: HTTP
    hosts:
    - \"*\"
  - port:
      number: 443
      name: https
      protocol: HTTPS
    tls:
      mode: SIMPLE
      credentialName: httpbin-credential
    hosts:
    - httpbin.example.com
---
apiVersion: config.istio.io/v1alpha2
kind: DestinationPolicy
metadata:
  name: policy
spec:
  destination:
    name: myweb-service
  circuitBreaker:
    simpleCb:
      httpMaxRequests: 1
      httpMaxPendingRequests: 1
      sleepWindow: 5s
";

#[test]
fn gateways_certificates_and_old_policies_come_and_go() {
    let world = World::new();
    world.file("edge.yaml", EDGE);
    let applied = world.ok("apply -f edge.yaml");
    assert!(applied.contains("gateway.networking.istio.io/app-gateway created"), "{applied}");
    assert!(applied.contains("destinationpolicy.config.istio.io/policy created"), "{applied}");
    assert!(applied.contains("DestinationPolicy is deprecated; use networking.istio.io/v1 DestinationRule"), "{applied}");
    assert!(world.ok("get gw").starts_with("NAME          AGE"), "{}", world.ok("get gw"));
    assert!(world.ok("get destinationpolicies -o name").contains("policy"));

    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["httpbin.example.com".to_owned()]).unwrap().self_signed(&key).unwrap();
    world.file("tls.crt", &certificate.pem());
    world.file("tls.key", &key.serialize_pem());
    world.ok("create -n istio-system secret tls httpbin-credential --cert=tls.crt --key=tls.key");
    world.ok("create secret generic both --from-file=cert=tls.crt --from-file=key=tls.key --from-literal=note=x");
    let words = world.ok("get secrets -A");
    let words: Vec<_> = words.lines().map(|line| line.split_whitespace().take(4).collect::<Vec<_>>()).collect();
    assert_eq!(words[0], ["NAMESPACE", "NAME", "TYPE", "DATA"]);
    assert!(words.contains(&vec!["istio-system", "httpbin-credential", "kubernetes.io/tls", "2"]), "{words:?}");
    assert!(words.contains(&vec!["default", "both", "Opaque", "3"]), "{words:?}");
    world.file("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: plain\nstringData:\n  a: s3cret\n");
    world.ok("apply -f secret.yaml");
    world.file("secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: plain\nstringData:\n  a: other\n");
    assert!(world.ok("apply -f secret.yaml").contains("configured"));
    assert_eq!(world.ok("get secret plain -o jsonpath={.data.a}"), "b3RoZXI=");
    world.ok("delete secret plain both");
    world.ok("delete -f edge.yaml");
    let log = fs::read_to_string(world.path("log")).unwrap();
    assert!(!log.contains("s3cret") && !log.contains("PRIVATE KEY"), "{log}");

    world.ok("label namespace default istio-injection=enabled");
    assert!(world.ok("get namespace -L istio-injection").contains("enabled"));
}

const MESH: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: istio
  namespace: istio-system
data:
  mesh: |-
    # As Istio's own file.
    outboundTrafficPolicy:
      mode: ALLOW_ANY
    trustDomain: example.com
";

#[test]
fn the_mesh_config_is_a_config_map_that_is_checked() {
    let world = World::new();
    world.file("mesh.yaml", MESH);
    let applied = world.ok("apply -f mesh.yaml");
    assert!(applied.contains("configmap/istio created"), "{applied}");
    assert!(applied.contains("Warning: data.mesh.trustDomain: is not enforced by this version"), "{applied}");
    assert_eq!(applied.matches("Warning").count(), 1, "{applied}");
    assert!(world.ok("apply -f mesh.yaml").contains("unchanged"));
    world.file("bad.yaml", &MESH.replace("ALLOW_ANY", "ALLOW_SOME"));
    let error = world.refused("apply -f bad.yaml");
    assert!(error.contains("data.mesh.outboundTrafficPolicy.mode: Unsupported value: \"ALLOW_SOME\""), "{error}");
    assert!(world.ok("get cm istio -n istio-system -o yaml").contains("mode: ALLOW_ANY"));
    let table = world.ok("get configmaps -A");
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[..7], ["NAMESPACE", "NAME", "DATA", "AGE", "istio-system", "istio", "1"], "{table}");
    let other = world.ok("create configmap any --from-literal=a=b");
    assert!(other.contains("created"), "{other}");
    assert_eq!(world.ok("get cm any -o jsonpath={.data.a}"), "b");
    let patched = world.ok(r#"patch cm any --type=merge -p {"data":{"a":"c"}}"#);
    assert!(patched.contains("only the ConfigMap istio in istio-system has an effect"), "{patched}");
    world.ok("delete -f mesh.yaml");
    world.ok("delete cm any");
    assert!(world.ok("get cm -A").contains("No resources found"));
}

/// Another of the program's commands: whether it succeeded, and what it said.
fn control(world: &World, arguments: &str) -> (bool, String) {
    let output = Command::new(CONTROL).args(arguments.split_whitespace()).current_dir(world.dir.path()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_backup_of_a_running_control_plane_is_another_ones_start() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    world.file("rules.yaml", &destination_rules());
    let (good, said) = control(&world, "validate rules.yaml");
    assert!(good && said.contains("4 objects, 0 refused"), "{said}");
    world.file("bad.yaml", &destination_rules().replace("host:", "hots:"));
    let (good, said) = control(&world, "validate rules.yaml bad.yaml");
    assert!(
        !good && said.contains("8 objects, 4 refused") && said.contains("bad.yaml: DestinationRule default/reviews"),
        "{said}"
    );
    assert_eq!(world.ok("apply -f rules.yaml").matches(" created").count(), 4);
    world.ok("create secret generic s --from-literal=a=b");

    let (good, said) = control(&world, "backup saved.json --admin-socket admin.sock");
    assert!(good, "{said}");
    assert_eq!(fs::metadata(world.path("saved.json")).unwrap().permissions().mode() & 0o777, 0o600, "Secrets are in it");
    let (good, said) = control(&world, "restore saved.json --state state");
    assert!(!good && said.contains("while mesh-control serve runs"), "{said}");
    let (good, said) = control(&world, "restore saved.json --state other");
    assert!(good && said.contains(" objects restored"), "{said}");
    world.file("broken.json", "{}");
    assert!(!control(&world, "restore broken.json --state other").0);

    let mut successor = World::new();
    successor.server.kill().unwrap();
    successor.server.wait().unwrap();
    fs::copy(world.path("saved.json"), successor.path("saved.json")).unwrap();
    assert!(control(&successor, "restore saved.json --state state").0);
    successor.serve();
    assert_eq!(successor.ok("get dr").lines().count(), 5);
    assert_eq!(successor.ok("get secret s -o jsonpath={.data.a}"), "Yg==");
}
