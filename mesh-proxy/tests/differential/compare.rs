//! What one proxy did with one request, and what of it must be equal.

use super::backend::Arrived;

/// One request's fate.
#[derive(Clone, Debug, PartialEq)]
pub struct Fate {
    /// 0: the connection ended.
    pub status: u16,
    /// Sorted by name, without those that cannot be equal.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// At the backends, in order of arrival; mirrored copies apart.
    pub arrived: Vec<Arrived>,
}

/// Of these only the presence is compared: a clock, a measurement, dice.
const PRESENT: [&str; 4] = ["date", "x-envoy-upstream-service-time", "x-request-id", "x-envoy-expected-rq-timeout-ms"];
/// Of the connection, not of the message, and the tests' own mark. The last two Envoy puts on mirrored copies, with an address of its own.
const IGNORED: [&str; 7] =
    ["connection", "keep-alive", "transfer-encoding", "content-length", "x-case", "x-envoy-internal", "x-forwarded-for"];

pub fn normal(headers: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut headers: Vec<_> = headers
        .into_iter()
        .filter(|(name, _)| !IGNORED.contains(&name.as_str()))
        .map(|(name, value)| if PRESENT.contains(&name.as_str()) { (name, "...".to_owned()) } else { (name, value) })
        .collect();
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    headers
}

/// In which ways two fates differ, one line each.
pub fn differences(expected: &Fate, got: &Fate) -> Vec<String> {
    let mut all = Vec::new();
    let mut differ = |what: &str, expected: String, got: String| {
        if expected != got {
            all.push(format!("{what}: Envoy {expected}, ours {got}"));
        }
    };
    differ("status", expected.status.to_string(), got.status.to_string());
    differ("body", expected.body.clone(), got.body.clone());
    differ("attempts", expected.arrived.len().to_string(), got.arrived.len().to_string());
    differ("headers", only(&expected.headers, &got.headers), only(&got.headers, &expected.headers));
    for (n, (expected, got)) in expected.arrived.iter().zip(&got.arrived).enumerate() {
        differ(&format!("port of attempt {n}"), expected.port.to_string(), got.port.to_string());
        differ(&format!("target of attempt {n}"), expected.target.clone(), got.target.clone());
        differ(&format!("body of attempt {n}"), expected.body.clone(), got.body.clone());
        differ(&format!("TLS of attempt {n}"), format!("{:?}", expected.tls), format!("{:?}", got.tls));
        differ(&format!("requests on the connection of attempt {n}"), expected.nth.to_string(), got.nth.to_string());
        let headers = (only(&expected.headers, &got.headers), only(&got.headers, &expected.headers));
        differ(&format!("headers of attempt {n}"), headers.0, headers.1);
    }
    all
}

/// Those that the other has not; where both have the same ones in another order or number, all of the first name that differs.
fn only(all: &[(String, String)], other: &[(String, String)]) -> String {
    let line = |(name, value): &(String, String)| format!("{name}: {value}");
    let rest: Vec<_> = all.iter().filter(|header| !other.contains(header)).map(line).collect();
    if !rest.is_empty() || all == other {
        return rest.join(", ");
    }
    let of = |headers: &[(String, String)], name: &str| -> Vec<String> {
        headers.iter().filter(|header| header.0 == name).map(line).collect()
    };
    let differing = all.iter().chain(other).find(|(name, _)| of(all, name) != of(other, name));
    differing.map(|(name, _)| of(all, name).join(", ")).unwrap_or_default()
}

impl Fate {
    /// Which backend is a matter of turns where the request alone does not decide it.
    pub fn blur_ports(&mut self) {
        for arrived in &mut self.arrived {
            arrived.port = 0;
        }
        if self.body.starts_with("port ") {
            self.body = "port".to_owned();
        }
    }

    /// Envoy sets a generated cookie once for each attempt, always to the same value; we set it once.
    pub fn cookies_once(&mut self) {
        self.headers.dedup_by(|a, b| a.0 == "set-cookie" && a == b);
    }

    /// A generated session cookie is dice.
    pub fn blur_cookies(&mut self) {
        for (name, value) in &mut self.headers {
            if name == "set-cookie" {
                let mut inside = 0;
                *value = value
                    .chars()
                    .map(|c| {
                        inside += u32::from(c == '"');
                        if inside == 1 && c != '"' { '.' } else { c }
                    })
                    .collect();
            }
        }
    }
}
