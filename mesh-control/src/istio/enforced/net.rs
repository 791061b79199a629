//! Fields of TCP and TLS routes without effect.

use super::{Abilities, Findings};
use crate::istio::virtual_service::VirtualService;

pub(super) fn routes(rule: &VirtualService, can: Abilities, found: &mut Findings) {
    for (i, block) in rule.tls.iter().enumerate().flat_map(|(i, route)| route.r#match.iter().map(move |block| (i, block))) {
        if !can.filter_chains && (block.gateways.is_empty() || block.gateways.iter().any(|name| name == "mesh")) {
            let why = "is not enforced by this version in the mesh, so the match never holds there";
            found.tell(format!("spec.tls[{i}].match.sniHosts"), why);
        }
    }
    for (i, route) in rule.tcp.iter().enumerate() {
        for (j, block) in route.r#match.iter().enumerate() {
            let at = format!("spec.tcp[{i}].match[{j}]");
            let given =
                [("sourceLabels", !block.source_labels.is_empty()), ("sourceNamespace", !block.source_namespace.is_empty())];
            for (name, _) in given.into_iter().filter(|(_, given)| *given) {
                if !block.gateways.is_empty() {
                    found.tell(format!("{at}.{name}"), "is not looked at in a block with gateways");
                } else if !can.filter_chains {
                    found.tell(format!("{at}.{name}"), "is not enforced by this version, so the match never holds");
                }
            }
            if !block.source_subnet.is_empty() {
                // Istio itself has it without effect.
                found.tell(format!("{at}.sourceSubnet"), "is ignored, as in Istio");
            }
        }
    }
}
