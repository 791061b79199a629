//! TLS towards a service with kubectl's Secrets (`credentialName`): for the workloads that a selector chooses, and for gateways.

use crate::kit::{SOON, outside, pods};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

pub(crate) const CASES: &[Case] =
    &[("credentials::a Secret is shown to a service by chosen workloads and by gateways, and by nobody else", shown)];

const VAULT: &str = "http://vault/";
/// Requests while the Secret is renewed: some seconds' worth.
const ENOUGH: u32 = 100;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(params, key) })
    }

    /// Certificate and key.
    fn issue(&self, name: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new([format!("{name}.example.com")])?;
        params.distinguished_name.push(DnType::CommonName, name);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

/// Tells who its client is, and serves nobody whom `clients` did not sign.
fn vault(servers: &Authority, clients: &Authority) -> Result<Value> {
    let (certificate, key) = servers.issue("vault")?;
    let write =
        "cd $MESOS_SANDBOX && echo \"$CERTIFICATE\" > own.crt && echo \"$KEY\" > own.key && echo \"$CLIENTS\" > clients.crt";
    let serve =
        "openssl s_server -quiet -accept 9443 -cert own.crt -key own.key -CAfile clients.crt -Verify 1 -verify_return_error -www";
    Ok(json!({
        "id": "/vault",
        "labels": {"app": "vault"},
        "environment": {"CERTIFICATE": certificate, "KEY": key, "CLIENTS": clients.pem},
        "containers": [{
            "name": "vault", "resources": {"cpus": 0.1, "mem": 64}, "image": {"kind": "DOCKER", "id": "mesh/walkthrough"},
            "exec": {"command": {"shell": format!("{write} && exec {serve}")}},
            "endpoints": [{"name": "http-9443", "containerPort": 9443, "hostPort": 0, "protocol": ["tcp"], "labels": {"VIP_0": "/vault:80"}}],
        }],
        "networks": [{"name": "dcos", "mode": "container"}], "scaling": {"kind": "fixed", "instances": 1},
    }))
}

fn apply(world: &World, object: &Value) -> Result<()> {
    let output = world.try_kubectl(&["apply", "-f", "-"], &object.to_string())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// `kubectl create secret generic`, applied.
fn secret(world: &World, namespace: &str, servers: &Authority, (certificate, key): (String, String)) -> Result<()> {
    let files = tempfile::tempdir()?;
    let file = |name: &str, content: &str| -> Result<String> {
        let path = files.path().join(name);
        std::fs::write(&path, content)?;
        Ok(format!("--from-file={name}={}", path.display()))
    };
    let from = [file("tls.crt", &certificate)?, file("tls.key", &key)?, file("ca.crt", &servers.pem)?];
    let create = ["create", "secret", "generic", "vault-client", "-n", namespace, "--dry-run=client", "-o", "json"];
    let made = world.kubectl(&[&create[..], &from.each_ref().map(String::as_str)].concat())?;
    apply(world, &serde_json::from_str(&made)?)
}

/// The rule; with a selector it is for the client.
fn rule(selector: bool) -> Value {
    let tls =
        json!({"mode": "MUTUAL", "credentialName": "vault-client", "sni": "vault", "subjectAltNames": ["vault.example.com"]});
    let mut spec = json!({"host": "vault", "trafficPolicy": {"tls": tls}});
    if selector {
        spec["workloadSelector"] = json!({"matchLabels": {"app": "client"}});
    }
    json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "vault"}, "spec": spec})
}

fn shown(world: &mut World) -> Result<()> {
    let (servers, clients) = (Authority::new("servers")?, Authority::new("clients")?);
    pods(world, &["1/client", "more/guest"])?;
    world.marathon("POST", "/v2/pods", &vault(&servers, &clients)?.to_string())?;
    eventually("the vault runs", SOON, || pid_of(world.instances_of("/vault")?.first().context("none")?).map(drop))?;
    let seen = |why: &str, ask: &dyn Fn() -> Result<(u16, String)>, status: u16, words: &str| {
        eventually(why, SOON, || {
            let (found, body) = ask()?;
            ensure!(found == status && body.contains(words), "{found} {body}");
            Ok(())
        })
    };
    let (client, guest) = (|| world.curl("client", &["-m", "5", VAULT]), || world.curl("guest", &["-m", "5", VAULT]));
    apply(world, &rule(true))?;
    seen("nothing is dialled without the Secret", &client, 503, "TLS error: Secret is not supplied by SDS")?;
    secret(world, "default", &servers, clients.issue("first-client")?)?;
    seen("the client shows the Secret", &client, 200, "first-client")?;
    let stranger = guest();
    ensure!(!matches!(stranger, Ok((200, _))), "nobody chose the guest: {stranger:?}");
    secret(world, "default", &servers, clients.issue("second-client")?)?;
    let mut renewed = 0;
    for nth in 0..ENOUGH {
        let (status, body) = client()?;
        ensure!(status == 200, "request {nth} while the Secret is renewed: {status} {body}");
        renewed += u32::from(body.contains("second-client"));
    }
    ensure!(renewed > 0, "the new Secret was never shown");
    world.kubectl(&["delete", "secret", "vault-client"])?;
    at_gateways(world, &servers, &clients)?;
    world.marathon("DELETE", "/v2/pods/vault?force=true", "").map(drop)
}

/// Without a selector the rule is for gateways, which find the Secret in their own namespace.
fn at_gateways(world: &World, servers: &Authority, clients: &Authority) -> Result<()> {
    secret(world, "istio-system", servers, clients.issue("gateway-client")?)?;
    let gateway = json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "vault"}, "spec": {
        "selector": {"istio": "ingressgateway"},
        "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["vault.example.com"]}]}});
    let bound = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "vault"}, "spec": {
        "hosts": ["vault.example.com"], "gateways": ["vault"], "http": [{"route": [{"destination": {"host": "vault"}}]}]}});
    [rule(false), gateway, bound].iter().try_for_each(|object| apply(world, object))?;
    for node in [1, 2] {
        eventually(&format!("the gateway of node {node} shows the Secret"), SOON, || {
            let (status, body) = outside(world, node, "vault.example.com", "/")?;
            ensure!(status == 200 && body.contains("gateway-client"), "{status} {body}");
            Ok(())
        })?;
    }
    let (status, body) = world.curl("client", &["-m", "5", VAULT])?;
    ensure!(status >= 500 && !body.contains("gateway-client"), "the client is no gateway: {status} {body}");
    world.kubectl(&["delete", "gateway,virtualservice,destinationrule", "vault"])?;
    world.kubectl(&["delete", "secret", "vault-client", "-n", "istio-system"]).map(drop)
}
