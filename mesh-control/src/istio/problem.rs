//! What is wrong with an object, field by field, in the words of the Kubernetes API server.
//!
//! Made by the decoder and the checks of each kind; read by the API (Status causes) and by the compiler (logs). It knows no HTTP.

use std::fmt;

use serde_json::Value;

/// Where in the object we are. A list on the stack: nothing is allocated unless something is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    parent: Option<&'a Self>,
    segment: Segment<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Segment<'a> {
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The outermost field, for example `spec`.
    #[must_use]
    pub(crate) const fn root(name: &'a str) -> Self {
        Self { parent: None, segment: Segment::Field(name) }
    }

    /// A named field below this one, by its JSON name.
    #[must_use]
    pub(crate) const fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), segment: Segment::Field(name) }
    }

    /// A value of a map.
    #[must_use]
    pub(crate) const fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), segment: Segment::Key(key) }
    }

    /// An element of a list.
    #[must_use]
    pub(crate) const fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), segment: Segment::Index(index) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.segment {
            Segment::Field(name) if self.parent.is_none() => f.write_str(name),
            Segment::Field(name) => write!(f, ".{name}"),
            Segment::Key(key) => write!(f, "[{key}]"),
            Segment::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// The API server's classes of field errors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    /// The schema has no such field. Reported apart (400): nothing else was looked at.
    Unknown,
    /// A required field is absent or empty.
    Required,
    /// A value that cannot be.
    Invalid,
    /// Not one of the enumeration.
    Unsupported,
    /// A value of another JSON type.
    Type,
    /// Well-formed, but this version cannot do it.
    Forbidden,
}

impl Class {
    /// `details.causes[].reason`.
    #[must_use]
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "FieldValueUnknown",
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::Unsupported => "FieldValueNotSupported",
            Self::Type => "FieldValueTypeInvalid",
            Self::Forbidden => "FieldValueForbidden",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    /// For example `spec.http[0].timeout`.
    pub(crate) field: String,
    /// What sort of error it is.
    pub(crate) class: Class,
    /// The error without the field: `Invalid value: 999: HTTP status 999 is not in range 200-599`.
    pub(crate) message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            Class::Unknown => write!(f, "unknown field {:?}", self.field),
            _ => write!(f, "{}: {}", self.field, self.message),
        }
    }
}

/// All that is wrong with one object, in the order of its fields.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// How many are kept: a hostile object must not be answered with a megabyte.
    pub(crate) const MAX: usize = 64;

    fn push(&mut self, at: &Path<'_>, class: Class, message: String) {
        if self.0.len() < Self::MAX {
            self.0.push(Problem { field: at.to_string(), class, message });
        }
    }

    /// The schema has no such field.
    pub(crate) fn unknown(&mut self, at: &Path<'_>) {
        self.push(at, Class::Unknown, "unknown field".to_owned());
    }

    /// The field is needed; `why` may be empty.
    pub(crate) fn required(&mut self, at: &Path<'_>, why: &str) {
        let message = if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        self.push(at, Class::Required, message);
    }

    /// The value, printed as JSON, cannot be.
    pub(crate) fn invalid(&mut self, at: &Path<'_>, value: impl Into<Value>, why: impl fmt::Display) {
        let value = shortened(&value.into());
        self.push(at, Class::Invalid, format!("Invalid value: {value}: {why}"));
    }

    /// Reports a value if the verdict on it is bad.
    pub(crate) fn judge(&mut self, at: &Path<'_>, value: impl Into<Value>, verdict: Result<(), String>) {
        if let Err(why) = verdict {
            self.invalid(at, value, why);
        }
    }

    /// The value is not one of `supported`.
    pub(crate) fn unsupported(&mut self, at: &Path<'_>, value: &Value, supported: &[&str]) {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        self.push(at, Class::Unsupported, format!("Unsupported value: {}: supported values: {list}", shortened(value)));
    }

    /// The value has another JSON type.
    pub(crate) fn wrong_type(&mut self, at: &Path<'_>, wanted: &str, value: &Value) {
        let found = type_name(value);
        self.push(at, Class::Type, format!("Invalid value: {found:?}: {at} in body must be of type {wanted}: {found:?}"));
    }

    /// Well-formed, but refused.
    pub(crate) fn forbidden(&mut self, at: &Path<'_>, why: &str) {
        self.push(at, Class::Forbidden, format!("Forbidden: {why}"));
    }

    /// Adds what another check found.
    pub(crate) fn extend(&mut self, other: Self) {
        let room = Self::MAX.saturating_sub(self.0.len());
        self.0.extend(other.0.into_iter().take(room));
    }

    /// Nothing is wrong.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// Whether fields unknown to the schema are among them.
    #[must_use]
    pub(crate) fn has_unknown(&self) -> bool {
        self.0.iter().any(|p| p.class == Class::Unknown)
    }
}

/// As the API server aggregates: one plainly, several in brackets.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => one.fmt(f),
            many => {
                let list = many.iter().map(Problem::to_string).collect::<Vec<_>>().join(", ");
                write!(f, "[{list}]")
            }
        }
    }
}

impl std::error::Error for Problems {}

/// JSON's types in the words of OpenAPI.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn shortened(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > 300 {
        let end = (0..=300).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
