//! The generated cases notice mistakes: each of a list of mistakes, made in the text of our own matcher, is told from Envoy by some request.
//!
//! Envoy answers each request with the name of the route that it took: the cases' table, with every action replaced by a direct response. The
//! matcher as it is finds the same routes; each mutant, asked in this process, finds another one at least once.

use super::backend::{Backends, Seen};
use super::client::Client;
use super::fields::inline;
use super::generate::{Ask, Case};
use super::oracle::{Envoy, free_port};
use super::pool::pool;
use super::resources;
use envoy_types::pb::envoy::config::route::v3 as pb;
use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_proxy::convert::{at::At, route::table};
use mesh_proxy::core::matching::RequestView;
use mesh_proxy::core::route::RouteTable;

/// Which routes a matcher finds for these requests.
type Routes = fn(&RouteTable, &[RequestView<'_>]) -> Vec<Option<String>>;

#[allow(warnings, reason = "each is the matcher's whole text with a mistake, of which the test calls one function")]
mod planted {
    mesh_proxy_mutants::mutants!();
}

/// The hosts with their conditions alone; what a route does is to say its name.
fn named(cases: &[Case]) -> Vec<pb::VirtualHost> {
    let say = |name: &str| pb::DirectResponseAction { status: 200, body: Some(inline(name)), ..Default::default() };
    let route = |(index, route): (usize, &pb::Route)| {
        let name = format!("route {index}");
        let action = Some(pb::route::Action::DirectResponse(say(&name)));
        pb::Route { name, r#match: route.r#match.clone(), action, ..Default::default() }
    };
    let host = |case: &Case| pb::VirtualHost {
        name: case.host.name.clone(),
        domains: case.host.domains.clone(),
        routes: case.host.routes.iter().enumerate().map(route).collect(),
        ..Default::default()
    };
    cases.iter().map(host).collect()
}

/// The routes that Envoy takes; `None`: 404.
async fn of_envoy(hosts: &[pb::VirtualHost], asks: &[Ask]) -> Vec<Option<String>> {
    let port = free_port();
    let _envoy = Envoy::start(vec![resources::listener_of_envoy(port, hosts)], Vec::new(), port);
    let mut client = Client::new(port);
    let mut all = Vec::new();
    for ask in asks {
        let answer = client.send(ask, "named").await;
        assert!(matches!(answer.status, 200 | 404), "{ask:?}: {answer:?}");
        all.push((answer.status == 200).then_some(answer.body));
    }
    all
}

/// The request as the matcher sees it.
struct View<'a> {
    ask: &'a Ask,
    headers: HeaderMap,
}

impl<'a> View<'a> {
    fn new(ask: &'a Ask) -> Self {
        let header = |(name, value): &(&'static str, String)| {
            (HeaderName::from_static(name), HeaderValue::try_from(value.as_str()).expect("a value"))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in ask.headers.iter().map(header) {
            headers.append(name, value);
        }
        Self { ask, headers }
    }

    fn view(&self) -> RequestView<'_> {
        let (path, query) =
            self.ask.target.split_once('?').map_or((self.ask.target.as_str(), None), |(path, query)| (path, Some(query)));
        let Self { ask: Ask { method, host, .. }, headers } = self;
        RequestView { method, authority: host, scheme: "http", path, query, headers }
    }
}

/// Which answers differ.
fn differing(expected: &[Option<String>], got: &[Option<String>]) -> Vec<usize> {
    assert_eq!(expected.len(), got.len());
    (0..got.len()).filter(|index| expected[*index] != got[*index]).collect()
}

#[tokio::test]
async fn mistakes_of_the_matcher_are_noticed() {
    let seed = super::seed();
    let cases = super::cases(seed, &pool(&Backends::start(&Seen::default()), seed));
    let hosts = named(&cases);
    // An answer to HEAD has no body that could name the route.
    let asks: Vec<Ask> = cases.iter().flat_map(|case| &case.asks).filter(|ask| ask.method != "HEAD").cloned().collect();
    let envoys = of_envoy(&hosts, &asks).await;
    let seen: Vec<View<'_>> = asks.iter().map(View::new).collect();
    let views: Vec<RequestView<'_>> = seen.iter().map(View::view).collect();
    let table = table(&At::resource("all"), resources::table(&hosts)).expect("the generator makes what is taken");
    let wrong = differing(&envoys, &planted::m0::routes(&table, &views));
    assert!(wrong.is_empty(), "as it is, the matcher differs from Envoy, first at {:?}", asks[wrong[0]]);
    println!("seed {seed}, {} requests, {} mistakes", asks.len(), planted::MUTANTS.len());
    for (name, routes) in planted::MUTANTS {
        let noticed = differing(&envoys, &routes(&table, &views));
        println!("{:6}  {name}", noticed.len());
        assert!(!noticed.is_empty(), "nobody notices: {name}");
    }
}
