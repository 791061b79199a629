//! Cases from a seed: a virtual host with a few routes, and requests that come close to them. Each case has a domain of its own, so that all of
//! them stand in one table and both proxies are configured once.

use super::generate_action::action;
use super::generate_match::matching;
use super::pool::Pooled;
use envoy_types::pb::envoy::config::route::v3 as route;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

pub const PATHS: [&str; 9] = ["/", "/a", "/a/b", "/A/B", "/ab", "/api/v1/x", "/api/v2/x", "/v2example", "/a//b"];
pub const NAMES: [&str; 4] = ["x-alpha", "x-beta", "end-user", "cookie"];
pub const VALUES: [&str; 6] = ["alpha", "beta", "Alpha", "42", "7", "usertype=tester"];
const QUERIES: [&str; 7] = ["", "?q=alpha", "?q=beta&r=7", "?r", "?Q=alpha", "?q=&r=42", "?q=beta&q=alpha"];
const SCRIPTS: [&str; 16] = [
    "200",
    "200",
    "200",
    "503,200",
    "503",
    "500,200",
    "502,504,200",
    "409,200",
    "reset,200",
    "reset",
    "rl,200",
    "grpc:14,200",
    "grpc:1,200",
    "grpc:8,grpc:13,200",
    "hdr,200",
    "418,200",
];

/// Of cases with time-outs: attempts that no answer comes of, and others.
const SCRIPTS_IN_TIME: [&str; 4] = ["never", "never,200", "503,never,200", "never,never,503"];

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: &'static str,
    pub target: String,
    pub host: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: &'static str,
    pub script: String,
}

impl Ask {
    /// GET / of nobody.
    pub fn get(script: &str) -> Self {
        let (target, script) = ("/".to_owned(), script.to_owned());
        Self { method: "GET", target, host: String::new(), headers: Vec::new(), body: "", script }
    }
}

/// A virtual host and its requests.
pub struct Case {
    pub host: route::VirtualHost,
    pub asks: Vec<Ask>,
    /// Which of the issue's fields it has.
    pub fields: BTreeSet<&'static str>,
}

impl Case {
    /// Copies of its requests are sent.
    pub fn mirrored(&self) -> bool {
        self.fields.contains("mirror")
    }

    /// Clocks decide.
    pub fn timed(&self) -> bool {
        TIMED.iter().any(|field| self.fields.contains(field))
    }
}

const TIMED: [&str; 2] = ["timeout", "retry per-try timeout"];

/// What the parts of the generator share.
pub struct Dice<'a> {
    pub rng: SmallRng,
    pub pool: &'a [Pooled],
    pub fields: BTreeSet<&'static str>,
    pub case: usize,
    /// Every route that sends on has a time-out, so that nobody waits for ever where a backend does not answer.
    pub timed: bool,
}

impl Dice<'_> {
    /// With this probability; then the field is counted.
    pub fn roll(&mut self, probability: f64, field: &'static str) -> bool {
        let rolled = self.rng.random_bool(probability);
        if rolled {
            self.fields.insert(field);
        }
        rolled
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.rng).expect("never empty")
    }

    pub fn mark(&mut self, field: &'static str) {
        self.fields.insert(field);
    }
}

/// The case of this number.
pub fn case(number: usize, seed: u64, pool: &[Pooled]) -> Case {
    let rng = SmallRng::seed_from_u64(seed.wrapping_add(number as u64));
    let mut dice = Dice { rng, pool, fields: BTreeSet::new(), case: number, timed: number % 10 == 9 };
    let (domains, names) = domains(&mut dice);
    let routes = 1 + dice.rng.random_range(0..4);
    let mut host = route::VirtualHost { name: format!("case-{number}"), domains, ..Default::default() };
    host.routes = (0..routes)
        .map(|_| {
            let when = matching(&mut dice);
            action(&mut dice, when)
        })
        .collect();
    host.include_request_attempt_count = dice.roll(0.2, "attempt count");
    super::generate_action::of_host(&mut dice, &mut host);
    let asks = (0..6).map(|_| ask(&mut dice, &names)).collect();
    Case { host, asks, fields: dice.fields }
}

fn domains(dice: &mut Dice<'_>) -> (Vec<String>, Vec<String>) {
    let n = dice.case;
    match dice.rng.random_range(0..4) {
        0 => {
            dice.mark("host suffix");
            (
                vec![format!("*.c{n}.test")],
                vec![format!("w.c{n}.test"), format!("c{n}.test"), format!(".c{n}.test"), format!("v.w.c{n}.test")],
            )
        }
        1 => {
            dice.mark("host prefix");
            (vec![format!("c{n}.any.*")], vec![format!("c{n}.any.thing"), format!("c{n}.any."), format!("c{n}.any")])
        }
        2 => {
            dice.mark("host port");
            (vec![format!("c{n}.test")], vec![format!("c{n}.test:9080"), format!("C{n}.Test"), format!("c{n}.test:81")])
        }
        _ => {
            dice.mark("host exact");
            (vec![format!("c{n}.test")], vec![format!("c{n}.test"), format!("C{n}.TEST")])
        }
    }
}

fn ask(dice: &mut Dice<'_>, names: &[String]) -> Ask {
    let method = dice.pick(&["GET", "GET", "GET", "POST", "OPTIONS", "DELETE", "HEAD"]);
    let target = format!("{}{}", dice.pick(&PATHS), dice.pick(&QUERIES));
    let mut headers: Vec<(&'static str, String)> = Vec::new();
    for name in NAMES {
        if dice.rng.random_bool(0.45) {
            headers.push((name, dice.pick(&VALUES).to_owned()));
            if dice.rng.random_bool(0.1) && name != "cookie" {
                headers.push((name, dice.pick(&VALUES).to_owned()));
            }
        }
    }
    if dice.rng.random_bool(0.3) {
        headers.push(("origin", dice.pick(&["https://alpha.example", "https://beta.example"]).to_owned()));
        if method == "OPTIONS" {
            headers.push(("access-control-request-method", "GET".to_owned()));
        }
    }
    let host = names.choose(&mut dice.rng).expect("never empty").clone();
    let body = if method == "POST" { dice.pick(&["", "some body"]) } else { "" };
    // A mirrored copy is an attempt too, and nobody says which one comes first.
    let script = match (dice.fields.contains("mirror"), dice.timed) {
        (true, _) => dice.pick(&["200", "503", "409"]),
        (false, true) if dice.rng.random_bool(0.4) => dice.pick(&SCRIPTS_IN_TIME),
        _ => dice.pick(&SCRIPTS),
    };
    // What may be sent twice without harm is sent again after a reset, which Envoy does not do (docs/design/0009).
    let (method, body) = if script.starts_with("reset") { ("POST", "some body") } else { (method, body) };
    Ask { method, target, host, headers, body, script: script.to_owned() }
}
