//! The mesh and the shop, as Marathon sees them: credentials onto the nodes, apps and pods posted, readiness asked for.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::images::Binaries;
use super::state::{Session, State};
use crate::cargo::{self, read};
use crate::http;
use crate::ui::{self, Poll, note, say, step};

pub(crate) const API_PORT: u16 = 32443;
const CONTROL: &str = "mesh-control.marathon.agentip.dcos.thisdcos.directory";
/// Posted in this order: what the others need comes first.
const APPS: [&str; 4] = ["mesh-control", "mesh-agent", "mesh-proxy", "mesh-dns"];
const PODS: [&str; 6] = ["details", "ratings", "reviews-v1", "reviews-v2", "reviews-v3", "productpage"];

/// Mints authority, certificate and tokens, lays them where the processes expect them, returns the kubeconfig.
pub(crate) fn credentials(state: &State, binaries: &Binaries, nodes: &[String], api: u16) -> Result<PathBuf> {
    step("minting certificates and tokens", || {
        let out = state.join("credentials");
        let mut command = Command::new(binaries.path("mesh-control"));
        command.arg("init").arg("--out").arg(&out);
        for san in [CONTROL, "127.0.0.1", "localhost"] {
            command.args(["--san", san]);
        }
        read(command.arg("--api-server").arg(format!("https://127.0.0.1:{api}")))?;
        for node in nodes {
            lay(&out, &state.on_node(node, "/etc/mesh"))?;
            sockets(&state.on_node(node, "/run/mesh"))?;
        }
        let kubeconfig = out.join("kubeconfig");
        if !kubeconfig.is_file() {
            bail!("mesh-control init wrote no {}", kubeconfig.display());
        }
        Ok(kubeconfig)
    })
}

/// What a node needs; the control node's part is readable by root only.
fn lay(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.join("control"))?;
    let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    mode(to, 0o755)?;
    mode(&to.join("control"), 0o700)?;
    for (name, bits) in [
        ("ca.crt", 0o644),
        ("node.token", 0o440),
        ("control/server.crt", 0o600),
        ("control/server.key", 0o600),
        ("control/tokens.csv", 0o600),
    ] {
        let file = to.join(name);
        std::fs::copy(from.join(name), &file).with_context(|| format!("mesh-control init left no {name}"))?;
        mode(&file, bits)?;
    }
    // The proxy's and the DNS's user reads the token, no other but root does.
    std::os::unix::fs::chown(to.join("node.token"), Some(0), Some(65534))?;
    Ok(())
}

/// The directory of the unix sockets: root's, and the proxy's user may add its own there, but not remove others' (sticky).
fn sockets(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::os::unix::fs::chown(dir, Some(0), Some(65534))?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o1775))?;
    Ok(())
}

pub(crate) fn install(marathon: &str, nodes: u8) -> Result<()> {
    step("posting install/*.json to Marathon", || {
        for app in APPS {
            let mut body = definition(&format!("install/{app}.json"))?;
            if body["constraints"].is_array() {
                body["instances"] = json!(nodes);
            }
            post(marathon, "/v2/apps", &body)?;
        }
        Ok(())
    })
}

/// One that may be missing.
pub(crate) fn post_app(marathon: &str, app: &str) -> Result<()> {
    step(&format!("posting install/{app}.json to Marathon"), || {
        post(marathon, "/v2/apps", &definition(&format!("install/{app}.json"))?)
    })
}

pub(crate) fn post_pods(marathon: &str) -> Result<()> {
    step("posting bookinfo/*.json to Marathon", || {
        PODS.iter().try_for_each(|pod| post(marathon, "/v2/pods", &definition(&format!("bookinfo/{pod}.json"))?))
    })
}

fn definition(file: &str) -> Result<Value> {
    let text = std::fs::read_to_string(cargo::root().join(file)).with_context(|| format!("cannot read {file}"))?;
    serde_json::from_str(&text).with_context(|| format!("{file} is not JSON"))
}

pub(crate) fn post(marathon: &str, path: &str, body: &Value) -> Result<()> {
    let answer = http::tcp(marathon, "POST", path, Some(&body.to_string()), Duration::from_secs(10))?;
    if answer.status != 201 {
        bail!("Marathon refused {}: {} {}", body["id"], answer.status, answer.body.trim());
    }
    Ok(())
}

/// Every process of the mesh says that it is ready, on every node.
pub(crate) fn wait(state: &State, nodes: &[String]) -> Result<()> {
    ui::wait("waiting for the mesh: control, and agent, proxy and DNS on each node", Duration::from_secs(60), || {
        let missing = missing(state, nodes);
        Ok(if missing.is_empty() { Poll::Ready(()) } else { Poll::Pending(missing.join(", ")) })
    })
}

fn missing(state: &State, nodes: &[String]) -> Vec<String> {
    let ready = |node: &String, name: &str| ready(&state.on_node(node, &format!("/run/mesh/{name}-admin.sock")));
    let mut missing = Vec::new();
    let control: Vec<Result<(), String>> = nodes.iter().map(|node| ready(node, "control")).collect();
    if !control.iter().any(Result::is_ok) {
        missing.push(format!("mesh-control ({})", control.into_iter().find_map(Result::err).unwrap_or_default()));
    }
    for node in nodes {
        for name in ["agent", "proxy", "dns"] {
            if let Err(reason) = ready(node, name) {
                missing.push(format!("{name} on {node} ({reason})"));
            }
        }
    }
    missing
}

fn ready(socket: &Path) -> Result<(), String> {
    match http::unix(socket, "GET", "/ready", None) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.body.trim().chars().take(120).collect::<String>())),
        Err(_) => Err("not started yet".into()),
    }
}

/// The page answers, and with all its parts.
pub(crate) fn wait_page(port: u16) -> Result<()> {
    let address = format!("127.0.0.1:{port}");
    ui::wait("waiting for the product page", Duration::from_secs(60), || {
        let missing = match http::tcp(&address, "GET", "/productpage", None, Duration::from_secs(15)) {
            Ok(answer) if answer.status != 200 => format!("it answers {}", answer.status),
            Ok(answer) if !answer.body.contains("The Comedy of Errors") => "something else answers".into(),
            Ok(answer) if answer.body.contains("Error fetching") => why(&answer.body),
            Ok(_) => return Ok(Poll::Ready(())),
            Err(error) => format!("{error:#}"),
        };
        Ok(Poll::Pending(missing))
    })
}

/// The first reason that the page itself gives.
fn why(html: &str) -> String {
    let reason = html.split_once(r#"class="why">"#).and_then(|(_, rest)| rest.split_once('<')).map(|(reason, _)| reason);
    reason.unwrap_or("a part of it is missing").to_owned()
}

/// What runs where, for `status`.
pub(crate) fn status(state: &State, session: &Session) -> Result<()> {
    for line in
        read(Command::new(Binaries::of(state).path("marathon-sim")).arg("instances").arg("--state").arg(&state.dir))?.lines()
    {
        say(&format!("  {line}"));
    }
    for missing in missing(state, &session.nodes) {
        note(&format!("not ready: {missing}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_is_posted_is_there() {
        for file in
            APPS.map(|app| format!("install/{app}.json")).into_iter().chain(PODS.map(|pod| format!("bookinfo/{pod}.json")))
        {
            let body = definition(&file).unwrap();
            let name = file.split(['/', '.']).nth(1).unwrap();
            assert_eq!(body["id"], format!("/{name}"), "{file}");
        }
    }

    #[test]
    fn a_pages_own_reason_is_shown() {
        assert_eq!(why(r#"<p class="why">details answered 503</p>"#), "details answered 503");
        assert_eq!(why(""), "a part of it is missing");
    }
}
