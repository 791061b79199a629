//! Where in a resource a converter is, for the text of a NACK; and the check that nothing is left over.

use prost::Message;
use std::fmt::{self, Debug, Display};

/// Why a resource was refused. The text goes to the control plane.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Invalid {
    /// A field that this proxy does not take.
    #[error("{resource}: {field} is not supported")]
    Unsupported {
        /// Name of the resource.
        resource: String,
        /// Path of the field.
        field: String,
    },
    /// A field that must be there.
    #[error("{resource}: {field} is missing")]
    Missing {
        /// Name of the resource.
        resource: String,
        /// Path of the field.
        field: String,
    },
    /// A field with a value that makes no sense or that this proxy does not take.
    #[error("{resource}: {field}: {reason}")]
    Value {
        /// Name of the resource.
        resource: String,
        /// Path of the field.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// Not the protobuf message that its type says.
    #[error("{resource}: not a valid message: {reason}")]
    Decode {
        /// Name of the resource.
        resource: String,
        /// The decoder's words.
        reason: String,
    },
}

/// A path in a resource. Costs nothing until something is wrong.
#[derive(Clone, Copy)]
pub struct At<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Resource(&'a str),
    Field(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The resource itself.
    #[must_use]
    pub fn resource(name: &'a str) -> Self {
        Self { parent: None, step: Step::Resource(name) }
    }

    pub(super) fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(name) }
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    fn resource_name(&self) -> String {
        match (self.parent, self.step) {
            (Some(parent), _) => parent.resource_name(),
            (None, Step::Resource(name)) => name.to_owned(),
            (None, _) => String::new(),
        }
    }

    pub(super) fn unsupported(&self) -> Invalid {
        Invalid::Unsupported { resource: self.resource_name(), field: self.to_string() }
    }

    pub(super) fn missing(&self) -> Invalid {
        Invalid::Missing { resource: self.resource_name(), field: self.to_string() }
    }

    pub(super) fn value(&self, reason: impl Display) -> Invalid {
        Invalid::Value { resource: self.resource_name(), field: self.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn decode(&self, reason: impl Display) -> Invalid {
        Invalid::Decode { resource: self.resource_name(), reason: reason.to_string() }
    }

    /// Takes a value that must be there.
    pub(super) fn required<T>(&self, value: Option<T>) -> Result<T, Invalid> {
        value.ok_or_else(|| self.missing())
    }

    /// Refuses a message in which anything is set; its known fields were taken out before.
    pub(super) fn nothing_else<M: Message + Default + PartialEq + Debug>(&self, rest: &M) -> Result<(), Invalid> {
        let empty = M::default();
        if *rest == empty {
            return Ok(());
        }
        let field = first_difference(&format!("{rest:#?}"), &format!("{empty:#?}"));
        Err(self.field(&field).unsupported())
    }
}

/// The name of the first field that differs in two pretty-printed structs of one type: fields are indented by exactly four spaces.
fn first_difference(rest: &str, empty: &str) -> String {
    fn fields(text: &str) -> impl Iterator<Item = (&str, String)> {
        let mut fields: Vec<(&str, String)> = Vec::new();
        for line in text.lines().skip(1) {
            match line.strip_prefix("    ") {
                Some(inner) if !inner.starts_with(' ') && inner.contains(": ") => {
                    let (name, value) = inner.split_once(": ").unwrap_or((inner, ""));
                    fields.push((name, value.to_owned()));
                }
                _ => {
                    if let Some((_, value)) = fields.last_mut() {
                        value.push_str(line);
                    }
                }
            }
        }
        fields.into_iter()
    }
    let differs = fields(rest).zip(fields(empty)).find(|((_, a), (_, b))| a != b);
    differs.map_or_else(|| "a field".to_owned(), |((name, _), _)| name.trim_start_matches("r#").to_owned())
}

impl Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        Display::fmt(parent, f)?;
        match self.step {
            Step::Field(name) if parent.parent.is_some() => write!(f, ".{name}"),
            Step::Field(name) | Step::Resource(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}
