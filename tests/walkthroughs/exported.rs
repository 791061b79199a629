//! What a ServiceEntry opens to the namespaces that it is exported to, and to no other: by name, and behind a VIP.

use crate::kit::{SOON, pods};
use crate::one::Outside;
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use serde_json::json;

pub(crate) const CASES: &[Case] =
    &[("exported::an entry opens a host, and a VIP, to the namespaces that it is exported to", by_namespace)];

const NAMED: &str = "http://httpbin.org/headers";
const FIXED: &str = "http://fixed.example.com/headers";

/// A host that DNS knows, and one behind a VIP, for these namespaces; both are 203.0.113.10.
fn entries(to: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: named, namespace: shop}}
spec:
  hosts: [httpbin.org]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: DNS
  exportTo: {to}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: fixed, namespace: shop}}
spec:
  hosts: [fixed.example.com]
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  resolution: STATIC
  endpoints: [{{address: 203.0.113.10}}]
  exportTo: {to}
"
    )
}

fn by_namespace(world: &mut World) -> Result<()> {
    pods(world, &["1/client"])?;
    if world.instances_of("/shop-client").is_err() {
        world.marathon("POST", "/v2/pods", &shop_client().to_string())?;
    }
    eventually("the shop's client runs", SOON, || pid_of(&world.instances_of("/shop-client")?[0]).map(drop))?;
    let _server = Outside::httpbin(world)?;
    let kubectl = |arguments: &[&str], to: &str| -> Result<()> {
        let output = world.try_kubectl(&[arguments, &["-f", "-"]].concat(), &entries(to))?;
        ensure!(output.status.success() && !String::from_utf8_lossy(&output.stderr).contains("exportTo"), "{output:?}");
        Ok(())
    };
    let open = |pod: &str, url: &str| {
        eventually(&format!("{pod} gets {url}"), SOON, || {
            let (status, body) = world.curl(pod, &["-m", "5", url])?;
            ensure!(status == 200, "{status} {body}");
            Ok(())
        })
    };
    // Not reached at all, or refused by the proxy of its own node.
    let closed = |pod: &str, url: &str| {
        eventually(&format!("{url} is closed to {pod}"), SOON, || {
            let answer = world.curl(pod, &["-m", "5", url]);
            ensure!(!matches!(answer, Ok((200, _))), "{answer:?}");
            Ok(())
        })
    };
    let both = [NAMED, FIXED];
    world.kubectl(&["create", "namespace", "shop"])?;
    kubectl(&["apply"], "['.']")?;
    both.iter().try_for_each(|url| open("shop-client", url))?;
    // The address is known by now, to whom it is allowed.
    both.iter().try_for_each(|url| closed("client", url))?;
    kubectl(&["apply"], "[default]")?;
    both.iter().try_for_each(|url| open("client", url))?;
    both.iter().try_for_each(|url| closed("shop-client", url))?;
    kubectl(&["apply"], "['*']")?;
    both.iter().try_for_each(|url| ["client", "shop-client"].iter().try_for_each(|pod| open(pod, url)))?;
    kubectl(&["delete"], "['*']")?;
    both.iter().try_for_each(|url| closed("client", url))?;
    world.kubectl(&["delete", "namespace", "shop"])?;
    world.marathon("DELETE", "/v2/pods/shop-client?force=true", "").map(drop)
}

fn shop_client() -> serde_json::Value {
    json!({
        "id": "/shop-client",
        "labels": {"app": "shop-client", "istio.io/namespace": "shop", "sidecar.istio.io/inject": "true"},
        "containers": [{"name": "client", "resources": {"cpus": 0.1, "mem": 64}, "image": {"kind": "DOCKER", "id": "mesh/walkthrough"},
            "exec": {"command": {"shell": "exec sleep 100000000"}}}],
        "networks": [{"name": "dcos", "mode": "container"}], "scaling": {"kind": "fixed", "instances": 1},
    })
}
