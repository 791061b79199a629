//! Rules that are exported to some namespaces only, as the mesh's own proxies have to see them: one proxy serves pods of all namespaces, so
//! that a pod is in one of them is a condition of every block of such a rule. At gateways it is settled when rules are bound to them.
//!
//! The oldest rule has a host whatever it is exported to: a younger one for other namespaces is told so.

use super::Abilities;
use super::mode::in_mesh;
use crate::istio::virtual_service::{HttpMatchRequest, L4MatchAttributes, TlsMatchAttributes};
use crate::istio::{Config, Resource, VirtualService};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The rules as pods of the mesh see them.
pub(super) fn scoped(config: &Config, can: Abilities) -> Cow<'_, Config> {
    let is_scoped = |rule: &Arc<Resource<VirtualService>>| rule.spec.is_scoped() && in_mesh(&rule.spec.gateways);
    if !can.source_namespace || !config.virtual_services.iter().any(is_scoped) {
        return Cow::Borrowed(config);
    }
    let mut scoped = config.clone();
    for rule in scoped.virtual_services.iter_mut().filter(|rule| is_scoped(rule)) {
        *rule = Arc::new(Resource { meta: rule.meta.clone(), spec: within(rule) });
    }
    // What nobody sees has no host either.
    scoped.virtual_services.retain(|rule| !(rule.spec.http.is_empty() && rule.spec.tls.is_empty() && rule.spec.tcp.is_empty()));
    Cow::Owned(scoped)
}

fn within(rule: &Resource<VirtualService>) -> VirtualService {
    let own = rule.meta.namespace.as_str();
    let exported = rule.spec.export_to.iter().map(|to| if to == "." { own } else { to.as_str() });
    let namespaces: BTreeSet<&str> = exported.filter(|to| *to != "~").collect();
    let mut spec = rule.spec.clone();
    spec.http.retain_mut(|route| narrow(&mut route.r#match, &namespaces));
    spec.tls.retain_mut(|route| narrow(&mut route.r#match, &namespaces));
    spec.tcp.retain_mut(|route| narrow(&mut route.r#match, &namespaces));
    spec
}

/// A block, as far as namespaces are concerned.
trait Block: Clone + Default {
    fn parts(&mut self) -> (&mut Vec<String>, &mut BTreeMap<String, String>, &mut String);
}

macro_rules! block {
    ($($ty:ty),+) => {$(
        impl Block for $ty {
            fn parts(&mut self) -> (&mut Vec<String>, &mut BTreeMap<String, String>, &mut String) {
                (&mut self.gateways, &mut self.source_labels, &mut self.source_namespace)
            }
        }
    )+};
}

block!(HttpMatchRequest, L4MatchAttributes, TlsMatchAttributes);

/// Makes the namespace a condition of each block; false if none is left, which must not come to mean: always.
fn narrow<B: Block>(blocks: &mut Vec<B>, namespaces: &BTreeSet<&str>) -> bool {
    let given = if blocks.is_empty() { vec![B::default()] } else { std::mem::take(blocks) };
    for block in given {
        for namespace in namespaces {
            let mut block = block.clone();
            let (gateways, labels, source) = block.parts();
            // In a block that names gateways, sources are not looked at: its own conditions fall, ours must not.
            if !gateways.is_empty() {
                labels.clear();
                source.clear();
            }
            let meant = in_mesh(gateways) && (source.is_empty() || source == namespace);
            if meant {
                gateways.clear();
                (*namespace).clone_into(source);
                blocks.push(block);
            }
        }
    }
    !blocks.is_empty()
}
