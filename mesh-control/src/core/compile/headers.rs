//! Header changes of a route or of a destination, on the way there and back.

use super::envoy::{core, route};
use crate::istio::virtual_service::Headers;

/// The four lists of header changes, which routes and weighted clusters both have.
pub(super) struct Changed<'a> {
    add: [&'a mut Vec<core::HeaderValueOption>; 2],
    remove: [&'a mut Vec<String>; 2],
}

impl<'a> Changed<'a> {
    pub(super) fn of_route(to: &'a mut route::Route) -> Self {
        Self {
            add: [&mut to.request_headers_to_add, &mut to.response_headers_to_add],
            remove: [&mut to.request_headers_to_remove, &mut to.response_headers_to_remove],
        }
    }

    pub(super) fn of_weight(to: &'a mut route::weighted_cluster::ClusterWeight) -> Self {
        Self {
            add: [&mut to.request_headers_to_add, &mut to.response_headers_to_add],
            remove: [&mut to.request_headers_to_remove, &mut to.response_headers_to_remove],
        }
    }
}

/// A route with an action and a rule's header changes. There is nobody to see a changed host.
pub(super) fn with(headers: Option<&Headers>, action: route::route::Action) -> route::Route {
    let mut found = route::Route { action: Some(action), ..Default::default() };
    change(&mut Changed::of_route(&mut found), headers);
    found
}

/// Is this the host, under one of its names?
pub(super) fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

/// Header operations into Envoy's lists. The host is no header to Envoy: a change of it is returned, and removing it is no change.
pub(super) fn change(to: &mut Changed<'_>, headers: Option<&Headers>) -> Option<String> {
    use core::header_value_option::HeaderAppendAction;
    let headers = headers?;
    let mut host = None;
    for (i, operations) in [&headers.request, &headers.response].into_iter().enumerate() {
        let Some(operations) = operations else { continue };
        let set = operations.set.iter().map(|pair| (pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
        let add = operations.add.iter().map(|pair| (pair, HeaderAppendAction::AppendIfExistsOrAdd));
        for ((name, value), action) in set.chain(add) {
            if i == 0 && is_host(name) {
                host = host.or_else(|| Some(value.clone()));
            } else if !name.starts_with(':') {
                let header = core::HeaderValue { key: name.clone(), value: value.clone(), ..Default::default() };
                to.add[i].push(core::HeaderValueOption {
                    header: Some(header),
                    append_action: action.into(),
                    ..Default::default()
                });
            }
        }
        to.remove[i].extend(operations.remove.iter().filter(|name| !name.starts_with(':') && !is_host(name)).cloned());
    }
    host
}
