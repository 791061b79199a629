//! The context of a trace in headers: B3 in several headers, B3 in one, W3C `traceparent`.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, RngCore};
use std::fmt::Write;

const B3: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a client's headers say. What is malformed counts as absent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Incoming {
    /// The trace that it continues and its span in it.
    pub parent: Option<Parent>,
    /// Its decision about sampling, if it made one.
    pub sampled: Option<bool>,
}

/// The span of the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parent {
    trace: u128,
    span: u64,
}

/// The context of our own span.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Context {
    /// Of the trace; 64 bits if the upper half is 0.
    pub trace: u128,
    /// Ours.
    pub span: u64,
    /// The client's.
    pub parent: Option<u64>,
    /// Is it reported?
    pub sampled: bool,
}

impl Incoming {
    /// Reads headers: `b3`, then `x-b3-*`, then, if `w3c`, `traceparent`.
    #[must_use]
    pub fn read(headers: &HeaderMap, w3c: bool) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let single = text(&B3).map(b3_single).unwrap_or_default();
        let several = Self {
            parent: text(&TRACE_ID)
                .and_then(hex128)
                .zip(text(&SPAN_ID).and_then(hex64))
                .map(|(trace, span)| Parent { trace, span }),
            sampled: match (text(&FLAGS), text(&SAMPLED)) {
                (Some("1"), _) => Some(true),
                (_, Some(sampled)) => Some(matches!(sampled, "1" | "true")),
                (..) => None,
            },
        };
        let parent = if w3c { text(&TRACEPARENT).and_then(traceparent) } else { None };
        let w3c = Self { parent: parent.map(|(parent, _)| parent), sampled: parent.map(|(_, sampled)| sampled) };
        Self {
            parent: single.parent.or(several.parent).or(w3c.parent),
            sampled: single.sampled.or(several.sampled).or(w3c.sampled),
        }
    }
}

impl Context {
    /// A child of the client's span, or the root of a new trace, whose span has the trace's id as in Envoy.
    pub fn new(incoming: Incoming, sampled: bool, long_ids: bool, rng: &mut dyn RngCore) -> Self {
        let span = rng.random_range(1..=u64::MAX);
        match incoming.parent {
            Some(parent) => Self { trace: parent.trace, span, parent: Some(parent.span), sampled },
            None => {
                let high = if long_ids { rng.random_range(1..=u64::MAX) } else { 0 };
                Self { trace: u128::from(high) << 64 | u128::from(span), span, parent: None, sampled }
            }
        }
    }

    /// Of a span below ours.
    pub fn child(&self, rng: &mut dyn RngCore) -> Self {
        Self { span: rng.random_range(1..=u64::MAX), parent: Some(self.span), ..*self }
    }

    /// Tells the upstream. `b3` only if the client used it.
    pub fn write(&self, headers: &mut HeaderMap, w3c: bool) {
        let trace = self.trace_id();
        let span = format!("{:016x}", self.span);
        let sampled = u8::from(self.sampled);
        if headers.contains_key(B3) {
            let mut one = format!("{trace}-{span}-{sampled}");
            if let Some(parent) = self.parent {
                // Writing to a string does not fail.
                let _ = write!(one, "-{parent:016x}");
            }
            set(headers, B3, &one);
        }
        if w3c {
            set(headers, TRACEPARENT, &format!("00-{:032x}-{span}-{sampled:02x}", self.trace));
        }
        match self.parent {
            Some(parent) => set(headers, PARENT_ID, &format!("{parent:016x}")),
            None => drop(headers.remove(PARENT_ID)),
        }
        set(headers, TRACE_ID, &trace);
        set(headers, SPAN_ID, &span);
        set(headers, SAMPLED, if self.sampled { "1" } else { "0" });
    }

    /// 16 digits, or 32 if the id is longer.
    #[must_use]
    pub fn trace_id(&self) -> String {
        if self.trace >> 64 == 0 { format!("{:016x}", self.trace) } else { format!("{:032x}", self.trace) }
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or `SAMPLED` alone.
fn b3_single(text: &str) -> Incoming {
    let sampled = |text: &str| match text {
        "1" | "d" => Some(true),
        "0" => Some(false),
        _ => None,
    };
    let mut parts = text.split('-');
    let (first, span, decision) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    match (hex128(first), span.and_then(hex64)) {
        (Some(trace), Some(span)) => Incoming { parent: Some(Parent { trace, span }), sampled: decision.and_then(sampled) },
        _ => Incoming { parent: None, sampled: sampled(text) },
    }
}

/// `00-TRACE-SPAN-FLAGS`; a later version may have more parts.
fn traceparent(text: &str) -> Option<(Parent, bool)> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let version = byte(version).filter(|version| *version != 0xff)?;
    if (version == 0 && parts.next().is_some()) || trace.len() != 32 {
        return None;
    }
    Some((Parent { trace: hex128(trace)?, span: hex64(span)? }, byte(flags)? & 1 == 1))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn byte(text: &str) -> Option<u8> {
    if text.len() == 2 && is_hex(text) { u8::from_str_radix(text, 16).ok() } else { None }
}

/// 16 or 32 digits, not all 0.
fn hex128(text: &str) -> Option<u128> {
    let valid = matches!(text.len(), 16 | 32) && is_hex(text);
    u128::from_str_radix(text, 16).ok().filter(|id| valid && *id != 0)
}

/// 16 digits, not all 0.
fn hex64(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok().filter(|id| text.len() == 16 && is_hex(text) && *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
    const SPAN: &str = "0020000000000001";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().expect("a value"));
        pairs.iter().map(pair).collect()
    }

    fn parent() -> Option<Parent> {
        Some(Parent { trace: 0x463a_c35c_9f64_13ad_4848_5a39_53bb_6124, span: 0x0020_0000_0000_0001 })
    }

    #[test]
    fn each_form_is_read_and_b3_goes_before_w3c() {
        let w3c = format!("00-{TRACE}-{SPAN}-01");
        for (pairs, expected) in [
            (vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)], Incoming { parent: parent(), sampled: None }),
            (
                vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")],
                Incoming { parent: parent(), sampled: Some(false) },
            ),
            (vec![("x-b3-sampled", "true")], Incoming { parent: None, sampled: Some(true) }),
            (vec![("x-b3-sampled", "0"), ("x-b3-flags", "1")], Incoming { parent: None, sampled: Some(true) }),
            (
                vec![("b3", "463ac35c9f6413ad48485a3953bb6124-0020000000000001-d-00000000000000aa")],
                Incoming { parent: parent(), sampled: Some(true) },
            ),
            (vec![("b3", "0")], Incoming { parent: None, sampled: Some(false) }),
            (vec![("traceparent", w3c.as_str())], Incoming { parent: parent(), sampled: Some(true) }),
            (vec![("traceparent", w3c.as_str()), ("x-b3-sampled", "0")], Incoming { parent: parent(), sampled: Some(false) }),
            (vec![("traceparent", "00-463a-0020000000000001-01")], Incoming::default()),
            (vec![("traceparent", "ff-463ac35c9f6413ad48485a3953bb6124-0020000000000001-01")], Incoming::default()),
            (vec![("x-b3-traceid", "0000000000000000"), ("x-b3-spanid", SPAN)], Incoming::default()),
            (vec![("x-b3-traceid", "+463ac35c9f6413a"), ("x-b3-spanid", SPAN)], Incoming::default()),
        ] {
            assert_eq!(Incoming::read(&headers(&pairs), true), expected, "{pairs:?}");
        }
        assert_eq!(Incoming::read(&headers(&[("traceparent", &w3c)]), false), Incoming::default(), "only where it is asked for");
    }

    #[test]
    fn a_child_continues_the_trace_in_every_form() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut all = headers(&[("b3", "463ac35c9f6413ad48485a3953bb6124-0020000000000001-1"), ("tracestate", "a=b")]);
        let incoming = Incoming::read(&all, true);
        let context = Context::new(incoming, true, true, &mut rng);
        assert_eq!((context.trace, context.parent), (incoming.parent.expect("parent").trace, Some(0x0020_0000_0000_0001)));
        context.write(&mut all, true);
        let span = format!("{:016x}", context.span);
        assert_eq!(all["b3"], format!("{TRACE}-{span}-1-{SPAN}").as_str());
        assert_eq!(all["traceparent"], format!("00-{TRACE}-{span}-01").as_str());
        assert_eq!(
            (&all["x-b3-traceid"], &all["x-b3-parentspanid"]),
            (&HeaderValue::from_static(TRACE), &HeaderValue::from_static(SPAN))
        );
        assert_eq!(all["tracestate"], "a=b", "handed on as it came");
        // What we write, the next hop reads: in each form by itself.
        for form in [vec!["b3"], vec!["traceparent"], vec!["x-b3-traceid", "x-b3-spanid", "x-b3-sampled"]] {
            let one: HeaderMap = form.iter().map(|name| (HeaderName::from_static(name), all[*name].clone())).collect();
            let read = Incoming::read(&one, true);
            assert_eq!(read, Incoming { parent: Some(Parent { trace: context.trace, span: context.span }), sampled: Some(true) });
        }
    }

    #[test]
    fn a_root_is_as_long_as_asked_and_says_that_it_is_not_sampled() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut all = headers(&[("x-b3-parentspanid", SPAN)]);
        let short = Context::new(Incoming::default(), false, false, &mut rng);
        assert_eq!((short.trace, short.parent), (u128::from(short.span), None));
        short.write(&mut all, false);
        assert_eq!((all["x-b3-traceid"].len(), &all["x-b3-sampled"]), (16, &HeaderValue::from_static("0")));
        assert!(!all.contains_key("x-b3-parentspanid") && !all.contains_key("b3") && !all.contains_key("traceparent"));
        let long = Context::new(Incoming::default(), true, true, &mut rng);
        assert_eq!(long.trace_id().len(), 32);
    }
}
