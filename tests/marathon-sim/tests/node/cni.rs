//! Networks by CNI plugins: called once for each container, before anything runs in it, and again at its end.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::{SIM, Sim};

#[test]
fn a_network_is_made_by_its_plugin_or_the_container_does_not_start() {
    let sim = Sim::start("cni");
    let root = sim.state.join("node1/root/opt/mesosphere");
    let (configs, plugins) = (root.join("etc/dcos/network/cni"), root.join("active/cni"));
    std::fs::create_dir_all(&configs).unwrap();
    std::fs::create_dir_all(&plugins).unwrap();
    let (calls, broken) = (plugins.join("calls"), plugins.join("broken"));
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND $CNI_IFNAME $CNI_NETNS >> {}\n[ ! -e {} ] || {{ echo no room; exit 1; }}\nexec {SIM} __cni\n",
        calls.display(),
        broken.display()
    );
    std::fs::write(plugins.join("own"), script).unwrap();
    std::fs::set_permissions(plugins.join("own"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(configs.join("own.conf"), json!({"cniVersion": "0.3.1", "name": "dcos", "type": "own"}).to_string()).unwrap();
    std::fs::write(&broken, "").unwrap();
    let app = json!({
        "id": "/networked", "cmd": "exec sleep 1000", "networks": [{"mode": "container", "name": "dcos"}],
        "constraints": [["hostname", "CLUSTER", "198.18.0.11"]], "backoffSeconds": 0.1,
    });
    sim.post("/v2/apps", &app);
    let said = "the CNI plugin said: no room";
    sim.wait_for("the plugin's word", |all| all.iter().any(|i| i["lastFailure"].as_str().is_some_and(|why| why.contains(said))));
    std::fs::remove_file(broken).unwrap();
    let running = sim.running(1);
    let address = running[0]["address"].as_str().unwrap();
    assert!(sim.exec("/networked", "ip -o addr show eth0").contains(&format!("{address}/24")));
    sim.call("DELETE", "/v2/apps/networked?force=true", &json!(null));
    sim.wait_for("it is gone", |all| all.is_empty());
    let calls = std::fs::read_to_string(calls).unwrap();
    let last = calls.lines().last().unwrap();
    assert!(calls.starts_with("ADD eth0 /var/run/mesos/isolators/network/cni/") && last.starts_with("DEL eth0 "), "{calls}");
    std::fs::remove_dir_all(sim.down()).unwrap();
}
