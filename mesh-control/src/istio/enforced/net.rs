//! Fields of TCP and TLS routes without effect.

use super::Findings;
use crate::istio::virtual_service::{L4MatchAttributes, VirtualService};

pub(super) fn routes(rule: &VirtualService, found: &mut Findings) {
    found.if_set("spec.tls".to_owned(), !rule.tls.is_empty());
    for (i, route) in rule.tcp.iter().enumerate() {
        for (j, block) in route.r#match.iter().enumerate() {
            condition(block, &format!("spec.tcp[{i}].match[{j}]"), found);
        }
    }
}

fn condition(block: &L4MatchAttributes, at: &str, found: &mut Findings) {
    let why = "is not enforced by this version, so the match never holds";
    if block.gateways.is_empty() {
        for (name, set) in
            [("sourceLabels", !block.source_labels.is_empty()), ("sourceNamespace", !block.source_namespace.is_empty())]
        {
            if set {
                found.tell(format!("{at}.{name}"), why);
            }
        }
    }
    if !block.source_subnet.is_empty() {
        // Istio itself has it without effect.
        found.tell(format!("{at}.sourceSubnet"), "is ignored, as in Istio");
    }
}
