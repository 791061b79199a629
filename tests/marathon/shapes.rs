//! Marathon from 1.3 to 1.11: ids, networks and endpoints that came and went.

use crate::Case;
use crate::kit::{Control, Marathon};
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use serde_json::{Value, json};

pub(crate) const CASES: &[Case] = &[("shapes::every Marathon from 1.3 to 1.11 gives the same registry", ages)];

fn ages() -> Result<()> {
    let marathon = Marathon::start()?;
    let mapping = |host: Value| {
        let mut mapping = json!({"containerPort": 8080, "name": "http", "protocol": "tcp"});
        if !host.is_null() {
            mapping["hostPort"] = host;
        }
        mapping
    };
    let container = |name: &str, network: Value, mut mapping: Value| {
        mapping["labels"] = json!({"VIP_0": format!("/{name}:80")});
        json!({"id": format!("/{name}"), "cmd": "serve", "networks": [network],
            "container": {"type": "DOCKER", "docker": {"image": "i"}, "portMappings": [mapping]}})
    };
    marathon.app("a-host")?;
    marathon.call("POST", "/v2/apps", &container("b-bridge", json!({"mode": "container/bridge"}), mapping(json!(0))))?;
    marathon.call(
        "POST",
        "/v2/apps",
        &container("c-overlay", json!({"mode": "container", "name": "dcos"}), mapping(Value::Null)),
    )?;
    let endpoint =
        json!({"name": "http", "containerPort": 9080, "hostPort": 0, "protocol": ["tcp"], "labels": {"VIP_0": "/d-pod:80"}});
    let pod = json!({"id": "/d-pod", "containers": [{"name": "c", "exec": {"command": {"shell": "serve"}}, "endpoints": [endpoint]}],
        "networks": [{"mode": "container", "name": "mesos-bridge"}], "scaling": {"kind": "fixed", "instances": 1}});
    marathon.call("POST", "/v2/pods", &pod)?;
    let mut first: Option<Vec<String>> = None;
    for version in ["1.11.24", "1.10", "1.9", "1.8.222", "1.7.189", "1.6.352", "1.5.5", "1.4.14", "1.3.13"] {
        marathon.faults(&json!({"version": version}))?;
        let control = Control::start(&[&marathon.url()], &[])?;
        let has_pods = version != "1.3.13";
        control.serves(if has_pods {
            &["a-host", "b-bridge", "c-overlay", "d-pod"]
        } else {
            &["a-host", "b-bridge", "c-overlay"]
        })?;
        let mut endpoints = control.endpoints()?;
        match &mut first {
            None => first = Some(endpoints.clone()),
            Some(first) => {
                let want: Vec<_> = first.iter().filter(|line| has_pods || !line.starts_with("d-pod")).cloned().collect();
                endpoints.sort();
                ensure!(endpoints == want, "{version}: {endpoints:?} instead of {want:?}");
            }
        }
        // By an event of that age.
        let name = format!("x{}", version.replace('.', "-"));
        marathon.app(&name)?;
        eventually("an event of that age", crate::kit::SOON, || {
            ensure!(control.endpoints()?.iter().any(|line| line.starts_with(&name)), "{name}");
            Ok(())
        })?;
        marathon.call("DELETE", &format!("/v2/apps/{name}?force=true"), &Value::Null)?;
        eventually("its end", crate::kit::SOON, || {
            ensure!(!control.endpoints()?.iter().any(|line| line.starts_with(&name)), "{name}");
            Ok(())
        })?;
    }
    Ok(())
}
