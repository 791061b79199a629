//! What a Mesos agent leaves under /var/run/mesos of its node: pid files and the CNI isolator's records.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

/// `containers/<id>`, nested `containers/<parent>/containers/<id>`.
pub(crate) fn container(mesos_run: &Path, parent: Option<&str>, uuid: &str) -> PathBuf {
    let containers = mesos_run.join("containers");
    parent.map_or_else(|| containers.clone(), |parent| containers.join(parent).join("containers")).join(uuid)
}

/// Complete or absent: written beside and renamed.
pub(crate) fn write_pid(container: &Path, pid: u32) -> Result<()> {
    std::fs::create_dir_all(container)?;
    let new = container.join(".pid");
    std::fs::write(&new, pid.to_string())?;
    std::fs::rename(new, container.join("pid")).context("publish the pid file")
}

/// The CNI result of the instance's only interface. Containers on the host network have none, nested ones neither.
pub(crate) fn write_network(
    mesos_run: &Path,
    uuid: &str,
    network: &str,
    netns: &str,
    v4: Ipv4Addr,
    v6: Option<Ipv6Addr>,
) -> Result<()> {
    let base = mesos_run.join("isolators/network/cni").join(uuid);
    let interface = base.join(network).join("eth0");
    std::fs::create_dir_all(&interface)?;
    let [a, b, c, _] = v4.octets();
    let mut info = json!({
        "cniVersion": "0.3.0",
        "ip4": {"ip": format!("{v4}/24"), "gateway": format!("{a}.{b}.{c}.1"), "routes": [{"dst": "0.0.0.0/0"}]},
        "dns": {"nameservers": ["198.51.100.1"]},
    });
    if let Some(v6) = v6 {
        info["ip6"] = json!({"ip": format!("{v6}/64"), "routes": [{"dst": "::/0"}]});
    }
    std::fs::write(base.join(network).join("network.conf"), json!({"name": network, "type": "bridge"}).to_string())?;
    std::fs::write(interface.join("network.info"), info.to_string())?;
    // Mesos bind-mounts the namespace here; a link opens the same and leaves no mount behind.
    let _ = std::fs::remove_file(base.join("ns"));
    std::os::unix::fs::symlink(netns, base.join("ns"))?;
    Ok(())
}

pub(crate) fn remove(mesos_run: &Path, uuid: &str) {
    let _ = std::fs::remove_dir_all(mesos_run.join("containers").join(uuid));
    let _ = std::fs::remove_dir_all(mesos_run.join("isolators/network/cni").join(uuid));
}
