//! Label and field selectors.

use serde_json::Value;

use super::status::ApiError;

/// Which objects are meant.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Selector {
    labels: Vec<(String, Requirement)>,
    /// `metadata.name` or `metadata.namespace`, equal or not.
    fields: Vec<(&'static str, bool, String)>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Requirement {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// Reads both selectors of a query.
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, ApiError> {
        let wrong = |what: &str, text: &str| ApiError::bad_request(format!("unable to parse {what} selector {text:?}"));
        let mut selector = Self::default();
        for term in split(labels) {
            selector.labels.push(label(term).ok_or_else(|| wrong("label", labels))?);
        }
        for term in fields.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let (name, equal, value) = if let Some((name, value)) = term.split_once("!=") {
                (name, false, value)
            } else if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (name, true, value)
            } else {
                return Err(wrong("field", fields));
            };
            let name = match name {
                "metadata.name" => "name",
                "metadata.namespace" => "namespace",
                other => return Err(ApiError::bad_request(format!("field label not supported: {other}"))),
            };
            selector.fields.push((name, equal, value.to_owned()));
        }
        Ok(selector)
    }

    /// Whether an object is meant.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        let fields = self.fields.iter().all(|(name, equal, value)| (meta[*name].as_str() == Some(value)) == *equal);
        fields
            && self.labels.iter().all(|(key, requirement)| {
                let value = meta["labels"].get(key).and_then(Value::as_str);
                match requirement {
                    Requirement::In(values) => value.is_some_and(|v| values.iter().any(|x| x == v)),
                    Requirement::NotIn(values) => value.is_none_or(|v| values.iter().all(|x| x != v)),
                    Requirement::Exists => value.is_some(),
                    Requirement::Absent => value.is_none(),
                }
            })
    }
}

/// Terms at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut depth) = (vec![], 0, 0_i32);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.into_iter().map(str::trim).filter(|t| !t.is_empty()).collect()
}

fn label(term: &str) -> Option<(String, Requirement)> {
    let key = |key: &str| {
        let key = key.trim();
        let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/".contains(&b));
        (plain && !key.is_empty()).then(|| key.to_owned())
    };
    if let Some((name, value)) = term.split_once("!=") {
        return Some((key(name)?, Requirement::NotIn(vec![value.trim().to_owned()])));
    }
    if let Some((name, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return Some((key(name)?, Requirement::In(vec![value.trim().to_owned()])));
    }
    if let Some((head, values)) = term.split_once('(') {
        let values = values.strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let (name, operator) = head.trim().rsplit_once(' ')?;
        return match operator {
            "in" => Some((key(name)?, Requirement::In(values))),
            "notin" => Some((key(name)?, Requirement::NotIn(values))),
            _ => None,
        };
    }
    match term.strip_prefix('!') {
        Some(name) => Some((key(name)?, Requirement::Absent)),
        None => Some((key(term)?, Requirement::Exists)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selects_as_kubernetes_does() {
        let object = json!({ "metadata": { "name": "a", "labels": { "app": "x", "t/v": "1" } } });
        for (labels, fields, expected) in [
            ("", "", true),
            ("app=x", "metadata.name=a", true),
            ("app==x,t/v!=2", "", true),
            ("app in (y, x),!gone", "", true),
            ("app notin (x)", "", false),
            ("gone", "", false),
            ("gone!=1", "", true),
            ("", "metadata.name!=a", false),
        ] {
            assert_eq!(Selector::parse(labels, fields).unwrap().matches(&object), expected, "{labels} {fields}");
        }
        let error = Selector::parse("", "spec.x=1").unwrap_err();
        assert_eq!(error.message, "field label not supported: spec.x");
        assert!(Selector::parse("a b", "").is_err());
    }
}
