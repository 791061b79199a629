//! The agents as the Mesos master lists them (v0's /slaves). Pure.

use serde_json::{Value, json};

use crate::core::Core;
use crate::core::instance::{REGION, zone};

/// The answer to `GET /slaves`, as much of it as clients read.
pub(crate) fn slaves(core: &Core) -> Value {
    let slave = |(index, node): (usize, &crate::core::Node)| {
        json!({
            "id": node.agent_id, "hostname": node.hostname, "port": 5051, "pid": format!("slave(1)@{}:5051", node.hostname),
            "active": true, "version": "1.11.0", "attributes": {}, "capabilities": ["MULTI_ROLE", "REFINED_RESERVATION"],
            "domain": {"fault_domain": {"region": {"name": REGION}, "zone": {"name": zone(index)}}},
        })
    };
    let slaves: Vec<Value> = core.nodes.iter().enumerate().map(slave).collect();
    json!({"slaves": slaves, "recovered_slaves": []})
}
