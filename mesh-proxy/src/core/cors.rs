//! Cross-origin requests: which are answered here, and what is said on the answers of others. Envoy's CORS filter.

use super::fault::PerMillion;
use super::matching::StringMatch;
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use rand::RngCore;

const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// One level's policy; what it leaves open, the level around it says.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Share of requests for which it is on. Only the innermost level's counts.
    pub enabled: PerMillion,
    /// Who may ask. Empty: open.
    pub origins: Vec<StringMatch>,
    /// `access-control-allow-methods`; `*` echoes what was asked for.
    pub methods: Option<HeaderValue>,
    /// `access-control-allow-headers`; `*` echoes what was asked for.
    pub headers: Option<HeaderValue>,
    /// `access-control-expose-headers`.
    pub expose: Option<HeaderValue>,
    /// `access-control-max-age`.
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials: true`.
    pub credentials: Option<bool>,
    /// `access-control-allow-private-network: true` if asked for.
    pub private_network: Option<bool>,
    /// A preflight of a stranger goes to the upstream (so if open), or is answered without permission.
    pub forward_strangers: Option<bool>,
}

/// What the filter says of a request.
#[derive(Debug)]
pub enum Judged {
    /// Nothing.
    None,
    /// It goes on; its answer is stamped for this origin.
    Allowed(HeaderValue),
    /// It is a preflight and is answered with 200 and these headers.
    Answer(HeaderMap),
}

impl Cors {
    /// This level over the one around it.
    #[must_use]
    pub fn over(self, outer: &Self) -> Self {
        Self {
            enabled: self.enabled,
            origins: if self.origins.is_empty() { outer.origins.clone() } else { self.origins },
            methods: self.methods.or_else(|| outer.methods.clone()),
            headers: self.headers.or_else(|| outer.headers.clone()),
            expose: self.expose.or_else(|| outer.expose.clone()),
            max_age: self.max_age.or_else(|| outer.max_age.clone()),
            credentials: self.credentials.or(outer.credentials),
            private_network: self.private_network.or(outer.private_network),
            forward_strangers: self.forward_strangers.or(outer.forward_strangers),
        }
    }

    /// Decides for one request.
    pub fn judge(&self, method: &Method, request: &HeaderMap, rng: &mut dyn RngCore) -> Judged {
        let Some(origin) = request.get(header::ORIGIN).filter(|origin| !origin.is_empty()) else { return Judged::None };
        if !self.enabled.hits(rng) {
            return Judged::None;
        }
        let allowed =
            origin.to_str().is_ok_and(|origin| self.origins.iter().any(|test| test.matches("*") || test.matches(origin)));
        let asked_method = request.get(header::ACCESS_CONTROL_REQUEST_METHOD).filter(|value| !value.is_empty());
        match asked_method.filter(|_| method == Method::OPTIONS) {
            Some(asked) if allowed || !self.forward_strangers.unwrap_or(true) => {
                Judged::Answer(self.preflight(allowed.then_some(origin), asked, request))
            }
            _ if allowed => Judged::Allowed(origin.clone()),
            _ => Judged::None,
        }
    }

    fn preflight(&self, origin: Option<&HeaderValue>, asked_method: &HeaderValue, request: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        let echo =
            |value: &HeaderValue, asked: Option<&HeaderValue>| if value == "*" { asked.cloned() } else { Some(value.clone()) };
        match origin {
            Some(origin) => self.stamp(origin, &mut answer),
            None if self.credentials == Some(true) => drop(answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE)),
            None => {}
        }
        if let Some(methods) = self.methods.as_ref().and_then(|methods| echo(methods, Some(asked_method))) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        let asked = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(headers) = self.headers.as_ref().and_then(|headers| echo(headers, asked)) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, headers);
        }
        if let Some(max_age) = &self.max_age {
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, max_age.clone());
        }
        if self.private_network == Some(true) && request.get(REQUEST_PRIVATE_NETWORK).is_some_and(|asked| asked == "true") {
            answer.insert(ALLOW_PRIVATE_NETWORK, TRUE);
        }
        answer
    }

    /// Says on an answer that this origin may read it.
    pub fn stamp(&self, origin: &HeaderValue, answer: &mut HeaderMap) {
        answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials == Some(true) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = &self.expose {
            answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::matching::Pattern;
    use rand::{SeedableRng, rngs::SmallRng};

    fn policy() -> Cors {
        Cors {
            enabled: PerMillion::new(100, 100),
            origins: vec![StringMatch::new(Pattern::Exact("http://a".to_owned()))],
            methods: Some(HeaderValue::from_static("GET,POST")),
            headers: Some(HeaderValue::from_static("*")),
            expose: None,
            max_age: Some(HeaderValue::from_static("86400")),
            credentials: None,
            private_network: None,
            forward_strangers: None,
        }
    }

    fn judge(policy: &Cors, method: &Method, headers: &[(&'static str, &'static str)]) -> Judged {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        policy.judge(method, &headers.collect(), &mut SmallRng::seed_from_u64(1))
    }

    const PREFLIGHT: &str = "access-control-request-method";

    #[test]
    fn preflights_of_known_origins_are_answered_and_those_of_strangers_forwarded() {
        let known = [("origin", "http://a"), (PREFLIGHT, "PUT"), ("access-control-request-headers", "x-a,x-b")];
        let Judged::Answer(answer) = judge(&policy(), &Method::OPTIONS, &known) else { panic!("answered") };
        let said = |name: &str| answer.get(name).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(said("access-control-allow-origin").as_deref(), Some("http://a"));
        assert_eq!(said("access-control-allow-methods").as_deref(), Some("GET,POST"));
        assert_eq!(said("access-control-allow-headers").as_deref(), Some("x-a,x-b"), "an asterisk echoes");
        assert_eq!(said("access-control-max-age").as_deref(), Some("86400"));
        let stranger = [("origin", "http://b"), (PREFLIGHT, "PUT")];
        assert!(matches!(judge(&policy(), &Method::OPTIONS, &stranger), Judged::None));
        let strict = Cors { forward_strangers: Some(false), ..policy() };
        let Judged::Answer(answer) = judge(&strict, &Method::OPTIONS, &stranger) else { panic!("answered") };
        assert!(!answer.contains_key("access-control-allow-origin"));
    }

    #[test]
    fn other_requests_go_on_and_their_answers_are_stamped() {
        for (method, headers, allowed) in [
            (Method::GET, &[("origin", "http://a")][..], true),
            (Method::GET, &[("origin", "http://b")], false),
            (Method::GET, &[], false),
            (Method::OPTIONS, &[("origin", "http://a")], true),
            (Method::GET, &[("origin", "http://a"), (PREFLIGHT, "PUT")], true),
        ] {
            let judged = judge(&policy(), &method, headers);
            assert_eq!(matches!(judged, Judged::Allowed(_)), allowed, "{method} {headers:?}: {judged:?}");
        }
        let off = Cors { enabled: PerMillion::new(0, 100), ..policy() };
        assert!(matches!(judge(&off, &Method::GET, &[("origin", "http://a")]), Judged::None));
        let any = Cors { origins: vec![StringMatch::new(Pattern::Exact("*".to_owned()))], ..policy() };
        let Judged::Allowed(origin) = judge(&any, &Method::GET, &[("origin", "http://x")]) else { panic!("allowed") };
        assert_eq!(origin, "http://x", "the origin itself, not the asterisk");
    }

    #[test]
    fn a_level_says_what_it_says_and_leaves_the_rest_to_the_one_around_it() {
        let inner = Cors { origins: Vec::new(), methods: Some(HeaderValue::from_static("PUT")), max_age: None, ..policy() };
        let merged = inner.over(&Cors { credentials: Some(true), ..policy() });
        assert_eq!((merged.origins.len(), merged.credentials), (1, Some(true)));
        assert_eq!(
            (merged.methods.expect("some"), merged.max_age.expect("some")),
            ("PUT".parse().expect("v"), "86400".parse().expect("v"))
        );
    }
}
