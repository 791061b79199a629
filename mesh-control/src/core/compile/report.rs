//! What of the rules is not in force: told, never dropped in silence.

use crate::istio::Meta;

/// A field that has no effect.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Unsupported {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `spec.http[0].corsPolicy`.
    pub(crate) field: String,
    /// Why, as the end of a sentence that begins with the field.
    pub(crate) reason: String,
}

impl Unsupported {
    pub(crate) fn new(kind: &'static str, meta: &Meta, field: String, reason: &str) -> Self {
        Self { kind, namespace: meta.namespace.clone(), name: meta.name.clone(), field, reason: reason.to_owned() }
    }
}

/// Collects for one resource.
pub(super) struct Report<'a> {
    kind: &'static str,
    meta: &'a Meta,
    out: &'a mut Vec<Unsupported>,
}

impl<'a> Report<'a> {
    pub(super) fn new(kind: &'static str, meta: &'a Meta, out: &'a mut Vec<Unsupported>) -> Self {
        Self { kind, meta, out }
    }

    pub(super) fn tell(&mut self, field: &str, why: &str) {
        let told = Unsupported::new(self.kind, self.meta, field.to_owned(), why);
        // One rule may be compiled for several ports.
        if !self.out.contains(&told) {
            self.out.push(told);
        }
    }

    pub(super) fn if_set(&mut self, field: &str, set: bool) {
        if set {
            self.tell(field, "is not enforced by this version");
        }
    }
}
