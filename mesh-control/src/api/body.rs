//! Request bodies: bounded in size and time, and said precisely what is wrong with them.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::status::ApiError;

/// The largest body: four times the largest object, since a patch or an indented object is larger than what is stored.
pub(super) const MAX_BODY_BYTES: usize = 1 << 20;
/// A body that takes longer than this is not coming.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// Reads a body whole.
pub(super) async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(MAX_BODY_BYTES)),
        Ok(Err(error)) => Err(ApiError::bad_request(format!("the body cannot be read: {error}"))),
        Err(_elapsed) => Err(ApiError::timeout("the body did not arrive in 15 s")),
    }
}

/// The media type without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    value.split(';').next().unwrap_or_default().trim()
}

/// JSON in which no object has a key twice: the first would be without effect, and nobody would be told.
pub(super) fn json(bytes: &[u8]) -> Result<Value, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    value.map_err(|e| ApiError::bad_request(format!("the object provided is unrecognized: invalid JSON: {e}")))
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(Self)?;
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate field {name:?}")));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn bad_json_is_located() {
        for (text, expected) in [
            ("{\"a\": 1,}", "trailing comma at line 1 column 9"),
            ("{\"a\":\n {\"b\": 1, \"b\": 2}}", "duplicate field \"b\" at line 2"),
            ("{} x", "trailing characters at line 1 column 4"),
            ("", "EOF while parsing a value"),
        ] {
            let error = super::json(text.as_bytes()).unwrap_err();
            assert!(error.message.contains(expected), "{text:?}: {}", error.message);
        }
        assert_eq!(super::json(b"{\"a\": [1, -2, 1.5, null, true, \"x\"]}").unwrap()["a"][2], 1.5);
    }
}
