//! Makes of the client's request what the upstream gets. In Envoy's order: changes of headers, host, path.

use super::exchange::{Decision, Exchange};
use crate::core::format::Facts;
use crate::core::route::{Forward, Target};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Uri, Version};

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

impl Exchange<'_> {
    pub(super) fn prepare(
        &self,
        parts: &mut Parts,
        decision: &Decision<'_>,
        forward: &Forward,
        target: &Target,
        facts: &Facts<'_>,
    ) {
        if !target.request.is_empty() {
            let path = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
            let pseudo = [parts.method.as_str(), path, self.admitted.authority(), self.admitted.scheme];
            let facts = Facts { pseudo, request: None, ..*facts };
            target.request.iter().for_each(|ops| ops.apply(&mut parts.headers, &facts));
        }
        self.host(parts, forward, target);
        let rewritten = match &forward.path {
            None => None,
            Some(rewrite) => {
                let mut path = rewrite.apply(parts.uri.path(), decision.matched);
                if let Some(query) = parts.uri.query() {
                    // A path that brings a query of its own goes on with the request's.
                    path.push(if path.contains('?') { '&' } else { '?' });
                    path.push_str(query);
                }
                // What is no path leaves the old one.
                path.parse::<PathAndQuery>().ok()
            }
        };
        if let Some(new) = rewritten {
            let old = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
            if let Ok(old) = HeaderValue::try_from(old) {
                parts.headers.insert(ORIGINAL_PATH, old);
            }
            parts.uri = Uri::from(new);
        } else if parts.uri.authority().is_some() {
            // Origin form, whatever form the client used.
            parts.uri = parts.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        }
        parts.version = Version::HTTP_11;
    }

    fn host(&self, parts: &mut Parts, forward: &Forward, target: &Target) {
        let of_route = forward.host.as_ref().and_then(|host| host.apply(&parts.headers, parts.uri.path()));
        if of_route.is_some() {
            // What the route's rewrite replaces, which may be the destination's.
            let replaced = target.host.as_ref().unwrap_or(&self.admitted.authority).clone();
            parts.headers.insert(ORIGINAL_HOST, replaced);
        }
        match of_route.or_else(|| target.host.clone()) {
            Some(host) => {
                if forward.append_forwarded_host {
                    parts.headers.append(FORWARDED_HOST, self.admitted.authority.clone());
                }
                parts.headers.insert(header::HOST, host);
            }
            // As the client sent it, mostly.
            None if parts.headers.get(header::HOST) == Some(&self.admitted.authority) => {}
            None => drop(parts.headers.insert(header::HOST, self.admitted.authority.clone())),
        }
    }
}
