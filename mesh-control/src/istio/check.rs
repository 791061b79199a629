//! What the schema cannot say: Istio's own rules, in its words, each with the field that breaks it.

use super::kind::Kind;
use super::problem::{Path, Problems};
use super::resource::Spec;
use super::{DestinationRule, Gateway, ServiceEntry, VirtualService};

impl Spec for VirtualService {
    const KIND: Kind = Kind::VirtualService;
    fn check(&self, _: &Path<'_>, _: &mut Problems) {}
}
impl Spec for DestinationRule {
    const KIND: Kind = Kind::DestinationRule;
    fn check(&self, _: &Path<'_>, _: &mut Problems) {}
}
impl Spec for Gateway {
    const KIND: Kind = Kind::Gateway;
    fn check(&self, _: &Path<'_>, _: &mut Problems) {}
}
impl Spec for ServiceEntry {
    const KIND: Kind = Kind::ServiceEntry;
    fn check(&self, _: &Path<'_>, _: &mut Problems) {}
}
