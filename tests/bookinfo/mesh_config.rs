//! The MeshConfig of ConfigMap `istio` in `istio-system`, in force on the nodes.

use super::Case;
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::World;
use std::process::{Child, Stdio};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[("mesh_config::ALLOW_ANY lets pods out, and its deletion keeps them in again", outbound)];

const MESH: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: istio\n  namespace: istio-system\ndata:\n  mesh: |-\n    \
    outboundTrafficPolicy:\n      mode: ALLOW_ANY\n";

/// A server outside the mesh, ended with the test.
struct Outside(Child);

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

fn outbound(world: &mut World) -> Result<()> {
    let program = world.echo_program();
    let mut server = world.in_namespace("outside", &[&program, "serve", "--port", "8099"])?;
    let _server = Outside(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    let gets_out = |wanted: bool| {
        eventually(if wanted { "pods get out" } else { "pods stay in" }, Duration::from_secs(30), || {
            for pod in super::rules::clients(world)? {
                let seen = world.echo(&pod, &["dial", "203.0.113.10:8099"])?;
                ensure!(seen["ok"] == wanted, "{pod}: {seen}");
            }
            Ok(())
        })
    };
    gets_out(false)?;
    let applied = world.try_kubectl(&["apply", "-f", "-"], MESH)?;
    let said = String::from_utf8_lossy(&applied.stderr).into_owned();
    ensure!(applied.status.success() && !said.contains("Warning"), "{said}");
    gets_out(true)?;
    world.kubectl(&["delete", "configmap", "istio", "-n", "istio-system"])?;
    gets_out(false)
}
