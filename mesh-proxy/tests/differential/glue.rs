//! What every mutant of the matcher gets beside the matcher's text: its own types filled with what conversion made, and a question.

/// See the module; for `mesh_proxy_mutants::mutants!()`.
macro_rules! glue {
    () => {
        use ::mesh_proxy::core::{matching as given, route as real};
        use matching::*;
        use route::*;

        /// Which route each request takes.
        pub fn routes(table: &real::RouteTable, requests: &[given::RequestView<'_>]) -> Vec<Option<String>> {
            let hosts = table.virtual_hosts().iter().map(host).collect();
            let table = RouteTable::new(String::new(), hosts, Ports::Ignored).expect("no domain occurs twice");
            // Those of the world's workload.
            let labels = std::collections::BTreeMap::from([("team".to_owned(), "shop".to_owned())]);
            let find = |request: &given::RequestView<'_>| {
                let given::RequestView { method, authority, scheme, path, query, headers } = *request;
                let view = RequestView { method, authority, scheme, path, query, headers };
                table.find(&view, &labels, 0).map(|(_, route)| route.name.to_string())
            };
            requests.iter().map(find).collect()
        }

        fn host(host: &real::VirtualHost) -> VirtualHost {
            VirtualHost {
                name: host.name.clone(),
                domains: host.domains.clone(),
                routes: host.routes.iter().map(route).collect(),
                attempt_count: false,
                require_tls: false,
            }
        }

        fn route(route: &real::Route) -> Route {
            let real::When { path, headers, query, source_labels, source_namespaces, share } = &route.when;
            let path = match path {
                real::PathMatch::String(test) => PathMatch::String(string(test)),
                real::PathMatch::Segments(prefix, fold) => PathMatch::Segments(prefix.clone(), *fold),
                real::PathMatch::Connect => PathMatch::Connect,
            };
            let query = query.iter().map(|query| QueryMatch {
                name: query.name.clone(),
                test: query.test.as_ref().map(string).map_err(|present| *present),
            });
            Route {
                name: route.name.clone(),
                when: When {
                    path,
                    headers: headers.iter().map(header).collect(),
                    query: query.collect(),
                    source_labels: source_labels.clone(),
                    source_namespaces: source_namespaces.clone(),
                    share: share.clone(),
                },
                action: Action::Respond(http::StatusCode::OK, bytes::Bytes::new()),
                fault: None,
                cors: None,
                response: Vec::new(),
            }
        }

        fn header(header: &given::HeaderMatch) -> HeaderMatch {
            let key = match &header.key {
                given::HeaderKey::Method => HeaderKey::Method,
                given::HeaderKey::Authority => HeaderKey::Authority,
                given::HeaderKey::Path => HeaderKey::Path,
                given::HeaderKey::Scheme => HeaderKey::Scheme,
                given::HeaderKey::Name(name) => HeaderKey::Name(name.clone()),
            };
            let test = match &header.test {
                given::HeaderTest::Present(wanted) => HeaderTest::Present(*wanted),
                given::HeaderTest::Value(test) => HeaderTest::Value(string(test)),
                given::HeaderTest::Range(from, to) => HeaderTest::Range(*from, *to),
            };
            HeaderMatch { key, test, invert: header.invert, missing_is_empty: header.missing_is_empty }
        }

        fn string(test: &given::StringMatch) -> StringMatch {
            let pattern = match &test.pattern {
                given::Pattern::Exact(text) => Pattern::Exact(text.clone()),
                given::Pattern::Prefix(text) => Pattern::Prefix(text.clone()),
                given::Pattern::Suffix(text) => Pattern::Suffix(text.clone()),
                given::Pattern::Contains(text) => Pattern::Contains(text.clone()),
                given::Pattern::Regex(regex) => Pattern::Regex(regex.clone()),
            };
            StringMatch { pattern, ignore_case: test.ignore_case }
        }
    };
}
