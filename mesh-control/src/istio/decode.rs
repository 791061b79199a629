//! JSON to typed specs: the one parser, used on admission and again when the stored configuration is compiled.
//!
//! A message is declared once by `message!`; the struct, its JSON names and its decoder come from that declaration, so a field cannot be
//! accepted by one and unknown to another. The decoder collects every problem instead of stopping at the first.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::problem::{Path, Problems};

/// A value that can be read from JSON, with all its problems reported.
pub(crate) trait Decode: Sized {
    /// Reads it; `None` only if a problem was reported.
    fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self>;
    /// What an absent field means; `None` if the field is required.
    fn absent() -> Option<Self>;
}

/// `consecutive_5xx_errors` → `consecutive5xxErrors`, as protobuf names JSON fields; `mirror_percent_` → `mirror_percent`, for what Istio's
/// schema has in both spellings.
pub(crate) fn json_name(field: &str) -> String {
    let field = field.strip_prefix("r#").unwrap_or(field);
    if let Some(as_it_stands) = field.strip_suffix('_') {
        return as_it_stands.to_owned();
    }
    let mut name = String::with_capacity(field.len());
    let mut upper = false;
    for c in field.chars() {
        if c == '_' {
            upper = true;
        } else {
            name.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    name
}

/// Declares a message. A field is optional unless its type has no empty value (a message) or it is marked `= required`.
/// `oneof [a, b]` lists fields (all `Option`) of which at most one may be given.
macro_rules! message {
    ($(#[$meta:meta])* $name:ident {
        $($(#[$doc:meta])* $field:ident : $ty:ty $(= $flag:ident)?,)*
    } $(oneof [$($one:ident),+])*) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        #[allow(dead_code, reason = "declared whole, as in the proto: admission knows every field, enforced.rs names those not yet read")]
        pub(crate) struct $name { $($(#[$doc])* pub(crate) $field: $ty,)* }

        impl $crate::istio::decode::Decode for $name {
            fn decode(
                value: &serde_json::Value,
                at: &$crate::istio::problem::Path<'_>,
                problems: &mut $crate::istio::problem::Problems,
            ) -> Option<Self> {
                static NAMES: std::sync::LazyLock<Vec<String>> =
                    std::sync::LazyLock::new(|| vec![$($crate::istio::decode::json_name(stringify!($field)),)*]);
                let fields = $crate::istio::decode::object(value, &NAMES, at, problems)?;
                $({
                    let one = [$($crate::istio::decode::json_name(stringify!($one)),)+];
                    $crate::istio::decode::at_most_one(fields, &one, at, problems);
                })*
                let mut names = NAMES.iter();
                $(let $field = $crate::istio::decode::field::<$ty>(
                    fields,
                    names.next().map_or("", String::as_str),
                    message!(@required $($flag)?),
                    at,
                    problems,
                );)*
                Some(Self { $($field: $field?,)* })
            }

            fn absent() -> Option<Self> {
                None
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::istio::decode::deserialize(deserializer)
            }
        }
    };
    (@required) => { false };
    (@required required) => { true };
}

/// Declares an enumeration by its proto names; the first variant is the default.
macro_rules! enumeration {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub(crate) enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $text),)+];
        }

        impl Default for $name {
            fn default() -> Self {
                Self::ALL[0].0
            }
        }

        impl $crate::istio::decode::Decode for $name {
            fn decode(
                value: &serde_json::Value,
                at: &$crate::istio::problem::Path<'_>,
                problems: &mut $crate::istio::problem::Problems,
            ) -> Option<Self> {
                let found = value.as_str().and_then(|text| Self::ALL.iter().find(|(_, name)| *name == text));
                if found.is_none() {
                    if value.is_string() {
                        let names: Vec<&str> = Self::ALL.iter().map(|(_, name)| *name).collect();
                        problems.unsupported(at, value, &names);
                    } else {
                        problems.wrong_type(at, "string", value);
                    }
                }
                found.map(|(variant, _)| *variant)
            }

            fn absent() -> Option<Self> {
                Some(Self::default())
            }
        }
    };
}

pub(crate) use {enumeration, message};

type Fields = serde_json::Map<String, Value>;

/// The fields of a JSON object; unknown names are reported.
pub(crate) fn object<'v>(value: &'v Value, names: &[String], at: &Path<'_>, problems: &mut Problems) -> Option<&'v Fields> {
    let Some(fields) = value.as_object() else {
        problems.wrong_type(at, "object", value);
        return None;
    };
    for name in fields.keys().filter(|name| !names.contains(name)) {
        problems.unknown(&at.field(name));
    }
    Some(fields)
}

/// One field of a message.
pub(crate) fn field<T: Decode>(fields: &Fields, name: &str, required: bool, at: &Path<'_>, problems: &mut Problems) -> Option<T> {
    let at = at.field(name);
    if let Some(value) = fields.get(name) {
        if required && value.as_str() == Some("") {
            problems.required(&at, "");
            return None;
        }
        return T::decode(value, &at, problems);
    }
    let absent = if required { None } else { T::absent() };
    if absent.is_none() {
        problems.required(&at, "");
    }
    absent
}

/// A proto `oneof`.
pub(crate) fn at_most_one(fields: &Fields, names: &[String], at: &Path<'_>, problems: &mut Problems) {
    let given = names.iter().filter(|name| fields.get(*name).is_some_and(|v| !v.is_null())).count();
    if given > 1 {
        let why = format!("\"{at}\" must validate one and only one schema (oneOf). Found {given} valid alternatives");
        problems.invalid(at, "", why);
    }
}

/// Lets serde read a message through the same decoder, for tests and fixtures.
pub(crate) fn deserialize<'de, T: Decode, D: serde::Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let value = <Value as serde::Deserialize>::deserialize(deserializer)?;
    let mut problems = Problems::default();
    match T::decode(&value, &Path::root("spec"), &mut problems) {
        Some(message) if problems.is_empty() => Ok(message),
        _ => Err(serde::de::Error::custom(problems)),
    }
}

/// Scalars, and how each is told from other JSON.
macro_rules! scalar {
    ($($ty:ty, $name:literal, $read:expr;)+) => {$(
        impl Decode for $ty {
            fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self> {
                let read: fn(&Value) -> Option<$ty> = $read;
                let found = read(value);
                if found.is_none() {
                    problems.wrong_type(at, $name, value);
                }
                found
            }

            fn absent() -> Option<Self> {
                Some(Self::default())
            }
        }
    )+};
}

scalar! {
    String, "string", |v| v.as_str().map(str::to_owned);
    bool, "boolean", Value::as_bool;
    f64, "number", Value::as_f64;
}

/// Integers, with the range of their width; JSON's `100.0` is an integer, as in the API server.
macro_rules! integer {
    ($($ty:ty),+) => {$(
        impl Decode for $ty {
            fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self> {
                let whole = value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from)).or_else(|| {
                    #[expect(clippy::cast_possible_truncation, reason = "fract() is zero and the bounds are far inside i128")]
                    value.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e18).map(|f| f as i128)
                });
                let Some(whole) = whole else {
                    problems.wrong_type(at, "integer", value);
                    return None;
                };
                let fits = Self::try_from(whole).ok();
                if fits.is_none() && whole < i128::from(Self::MIN) {
                    problems.invalid(at, value.clone(), format_args!("{at} in body should be greater than or equal to {}", Self::MIN));
                } else if fits.is_none() {
                    problems.invalid(at, value.clone(), format_args!("{at} in body should be less than or equal to {}", Self::MAX));
                }
                fits
            }

            fn absent() -> Option<Self> {
                Some(0)
            }
        }
    )+};
}

integer!(i32, u32, u64);

impl Decode for Duration {
    fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let Some(text) = value.as_str() else {
            problems.wrong_type(at, "string", value);
            return None;
        };
        let parsed = parse_duration(text);
        if parsed.is_none() {
            problems.invalid(at, text, "must be a valid duration, for example 7s, 0.5s, 100ms or 1m30s");
        }
        parsed
    }

    fn absent() -> Option<Self> {
        Some(Self::ZERO)
    }
}

/// Go's `time.ParseDuration` for values that are not negative: `1h`, `1m30s`, `0.5s`, `100ms`, `0`.
#[must_use]
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(tail) => tail.split_at(tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len())),
            None => ("", after),
        };
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 15 || fraction.len() > 15 {
            return None;
        }
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len()));
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
        total += number(whole)? * nanos + number(fraction)? * nanos / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        rest = after;
    }
    // Go counts nanoseconds in an i64.
    let nanos = i64::try_from(total).ok()?;
    Some(Duration::from_nanos(nanos.unsigned_abs()))
}

impl<T: Decode> Decode for Option<T> {
    fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        // As in protobuf's JSON: null is absent.
        if value.is_null() { Some(None) } else { T::decode(value, at, problems).map(Some) }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let Some(items) = value.as_array() else {
            problems.wrong_type(at, "array", value);
            return None;
        };
        let decoded: Vec<Option<T>> = items.iter().enumerate().map(|(i, v)| T::decode(v, &at.index(i), problems)).collect();
        decoded.into_iter().collect()
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let Some(fields) = value.as_object() else {
            problems.wrong_type(at, "object", value);
            return None;
        };
        let decoded: Vec<Option<(String, T)>> =
            fields.iter().map(|(k, v)| Some((k.clone(), T::decode(v, &at.key(k), problems)?))).collect();
        decoded.into_iter().collect()
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}
