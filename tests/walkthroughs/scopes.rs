//! Whose DestinationRule it is: the client's namespace first, then the service's, and no rule that is not exported to the client or whose
//! selector does not choose it. Each rule here is seen by one user's requests staying with one instance.

use crate::kit::{SOON, count, load, pods, values};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::{Value, json};

pub(crate) const CASES: &[Case] = &[("scopes::a DestinationRule is in force for those clients alone that see it", scopes)];

const WEB: &str = "http://myweb-service/";
/// Of namespace `default`, and two of namespace `guests`.
const CLIENTS: [&str; 3] = ["client", "guest", "visitor"];

fn scopes(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2", "more/guest", "more/visitor"])?;
    world.kubectl(&["create", "namespace", "guests"])?;
    seen_by(world, &[], "nobody")?;
    for (namespace, more, clients, why) in [
        ("guests", json!({}), &["guest", "visitor"][..], "a rule of their own namespace"),
        ("guests", json!({"workloadSelector": {"matchLabels": {"app": "guest"}}}), &["guest"], "chosen by the selector"),
        ("default", json!({"exportTo": ["."]}), &["client"], "exported to the service's namespace alone"),
        ("istio-system", json!({"exportTo": ["guests"]}), &["guest", "visitor"], "of the root namespace, exported to theirs"),
        // As in Istio, a namespace's own clients see a rule wherever it is exported to.
        ("default", json!({"exportTo": ["guests"]}), &CLIENTS, "exported to the other namespace too"),
    ] {
        apply(world, namespace, &more)?;
        seen_by(world, clients, why)?;
        world.kubectl(&["delete", "destinationrule", "scoped", "-n", namespace])?;
    }
    // The clients' own namespace goes before the service's: that rule has turns for all.
    apply(world, "default", &json!({}))?;
    apply(world, "guests", &json!({"trafficPolicy": {"loadBalancer": {"simple": "ROUND_ROBIN"}}}))?;
    seen_by(world, &["client"], "their own namespace says otherwise")?;
    world.kubectl(&["delete", "namespace", "guests"])?;
    seen_by(world, &CLIENTS, "a namespace takes its rules along")?;
    world.kubectl(&["delete", "destinationrule", "scoped"])?;
    seen_by(world, &[], "no rule is left")
}

/// A rule by which requests with the same header stay with one instance.
fn apply(world: &World, namespace: &str, more: &Value) -> Result<()> {
    let mut spec = json!({
        "host": "myweb-service",
        "trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "User"}}},
    });
    let (spec_fields, more) = (spec.as_object_mut().context("a map")?, more.as_object().context("a map")?);
    spec_fields.extend(more.clone());
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": {"name": "scoped", "namespace": namespace}, "spec": spec,
    });
    let output = world.try_kubectl(&["apply", "-f", "-"], &rule.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    ensure!(!said.contains("Warning"), "a rule in force that is warned about: {said}");
    Ok(())
}

/// The requests of these clients stay with one instance, those of the others take turns.
fn seen_by(world: &World, clients: &[&str], why: &str) -> Result<()> {
    for client in CLIENTS {
        let stays = clients.contains(&client);
        eventually(&format!("{client} {} ({why})", if stays { "sees the rule" } else { "sees none" }), SOON, || {
            let counts = load(world, client, 1, 24, &["--count", "instance", "-H", "User: tom", WEB])?;
            let instances = values(&counts, "instance").len();
            ensure!(count(&counts, "200") == 24, "{counts:?}");
            ensure!((instances == 1) == stays, "{instances} instances: {counts:?}");
            Ok(())
        })?;
    }
    Ok(())
}
