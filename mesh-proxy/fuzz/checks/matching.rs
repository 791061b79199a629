//! Route matching: a table and a request are made of the input's bytes ([`scenario`]); the route that mesh-proxy finds is the one that a naive
//! model ([`model`]) finds in the same protobuf messages. What follows from a match (weights, rewrites, redirects) must not panic.

#[path = "model.rs"]
mod model;
#[path = "scenario.rs"]
mod scenario;

use arbitrary::Unstructured;
use mesh_proxy::convert::{at::At, route};
use mesh_proxy::core::matching::RequestView;
use mesh_proxy::core::route::{Action, Route};

/// Panics if mesh-proxy and the model disagree.
pub(crate) fn check(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(table) = scenario::table(&mut input) else { return };
    let Ok(request) = scenario::request(&mut input) else { return };
    let converted = match route::table(&At::resource("t"), table.clone()) {
        Ok(converted) => converted,
        Err(invalid) => {
            assert!(model::repeats_a_domain(&table), "{invalid}: {table:#?}");
            return;
        }
    };
    assert!(!model::repeats_a_domain(&table), "taken: {table:#?}");
    let view = RequestView {
        method: &request.method,
        authority: &request.authority,
        scheme: request.scheme,
        path: &request.path,
        query: request.query.as_deref(),
        headers: &request.headers,
    };
    let found = converted.find(&view, &request.labels, request.dice).map(|(_, route)| route);
    let expected = model::find(&table, &request);
    assert_eq!(found.map(|route| &*route.name), expected, "{request:#?}\n{table:#?}");
    if let Some(route) = found {
        consequences(route, &view);
    }
}

/// What is done with a match.
fn consequences(route: &Route, request: &RequestView<'_>) {
    let matched = route.when.path.matched(request.path);
    match &route.action {
        Action::Forward(forward) => {
            let mut dice = Dice(request.path.len() as u64);
            let target = forward.choose(&mut dice);
            assert!(target.weight > 0, "a target without weight was chosen");
            if let Some(rewrite) = &forward.path {
                let _ = rewrite.apply(request.path, matched);
            }
        }
        Action::Redirect(redirect) => assert!(redirect.location(request, matched).contains("://")),
        Action::Respond(status, _) => assert!((200..600).contains(&status.as_u16())),
    }
}

/// Randomness that is part of the input: the same each time.
struct Dice(u64);

impl rand::RngCore for Dice {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }

    fn fill_bytes(&mut self, into: &mut [u8]) {
        into.fill_with(|| self.next_u32() as u8);
    }
}
