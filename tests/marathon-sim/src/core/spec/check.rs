//! Health checks of pods (`healthCheck`) and apps (`healthChecks`), with Marathon's defaults. Pure.

use serde_json::Value;

use super::{Container, Endpoint, Invalid, list, millis, port, text, texts};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) probe: Probe,
    /// From TASK_RUNNING to the first attempt.
    pub(crate) delay_ms: i64,
    /// From TASK_RUNNING on, failures before the first success do not count.
    pub(crate) grace_ms: i64,
    /// From one result to the next attempt.
    pub(crate) interval_ms: i64,
    pub(crate) timeout_ms: i64,
    pub(crate) max_failures: u32,
    /// Made by Mesos, not by Marathon: zero `maxConsecutiveFailures` means that the first failure kills, not that none does.
    pub(crate) native: bool,
    /// As it was posted, for the events.
    pub(crate) raw: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Healthy is a status from 200 to 399.
    Http {
        port: Port,
        path: String,
    },
    Tcp {
        port: Port,
    },
    Exec(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// Index into the container's endpoints.
    Endpoint(usize),
    Number(u16),
}

impl Check {
    fn new(raw: &Value, probe: Probe, native: bool) -> Self {
        let failures = raw.get("maxConsecutiveFailures").and_then(Value::as_u64).unwrap_or(3);
        Self {
            probe,
            delay_ms: millis(raw, "delaySeconds", 15_000),
            grace_ms: millis(raw, "gracePeriodSeconds", 300_000),
            interval_ms: millis(raw, "intervalSeconds", 60_000),
            timeout_ms: millis(raw, "timeoutSeconds", 20_000),
            max_failures: u32::try_from(failures).unwrap_or(u32::MAX),
            native,
            raw: raw.clone(),
        }
    }

    /// Has it failed often enough?
    pub(crate) fn kills(&self, failures: u32) -> bool {
        failures >= self.max_failures && (self.native || self.max_failures > 0)
    }
}

/// A pod container's only one.
pub(crate) fn pod(raw: &Value, endpoints: &[Endpoint]) -> Result<Option<Check>, Invalid> {
    let Some(raw) = raw.get("healthCheck").filter(|c| !c.is_null()) else { return Ok(None) };
    let at = |part: &Value| {
        let name = text(part, "endpoint").unwrap_or_default();
        let index = endpoints.iter().position(|e| e.name == name);
        index.map(Port::Endpoint).ok_or_else(|| Invalid::new("/healthCheck", format!("no endpoint is called '{name}'")))
    };
    let probe = match (raw.get("http"), raw.get("tcp"), raw.pointer("/exec/command")) {
        (Some(http), None, None) => {
            if text(http, "scheme").is_some_and(|s| s.eq_ignore_ascii_case("https")) {
                return Err(no_tls("/healthCheck/http/scheme"));
            }
            Probe::Http { port: at(http)?, path: text(http, "path").unwrap_or_else(|| "/".into()) }
        }
        (None, Some(tcp), None) => Probe::Tcp { port: at(tcp)? },
        (None, None, Some(command)) => match (text(command, "shell"), texts(command, "argv")) {
            (Some(line), _) => shell(line),
            (None, argv) if !argv.is_empty() => Probe::Exec(argv),
            (None, _) => return Err(Invalid::new("/healthCheck/exec", "a command has 'shell' or 'argv'")),
        },
        _ => return Err(Invalid::new("/healthCheck", "exactly one of 'http', 'tcp' and 'exec' must be given")),
    };
    Ok(Some(Check::new(raw, probe, true)))
}

pub(crate) fn app(raw: &Value, container: &Container, errors: &mut Vec<Invalid>) -> Vec<Check> {
    let mut out = Vec::new();
    for (index, item) in list(raw, "healthChecks").iter().enumerate() {
        match one(item, container) {
            Ok(check) => out.push(check),
            Err(error) => errors.push(Invalid::new(format!("/healthChecks({index}){}", error.path), error.error)),
        }
    }
    out
}

fn one(raw: &Value, container: &Container) -> Result<Check, Invalid> {
    let protocol = text(raw, "protocol").unwrap_or_else(|| "HTTP".into());
    let at = || match (port(raw, "port").filter(|p| *p != 0), port(raw, "portIndex").unwrap_or(0)) {
        (Some(number), _) => Ok(Port::Number(number)),
        (None, index) if usize::from(index) < container.endpoints.len() => Ok(Port::Endpoint(index.into())),
        (None, index) => Err(Invalid::new("/portIndex", format!("there is no port {index}"))),
    };
    let probe = match protocol.as_str() {
        "HTTP" | "MESOS_HTTP" => Probe::Http { port: at()?, path: text(raw, "path").unwrap_or_else(|| "/".into()) },
        "TCP" | "MESOS_TCP" => Probe::Tcp { port: at()? },
        "COMMAND" => match raw.pointer("/command/value").and_then(Value::as_str) {
            Some(line) => shell(line.to_owned()),
            None => return Err(Invalid::new("/command/value", "must not be empty")),
        },
        "HTTPS" | "MESOS_HTTPS" => return Err(no_tls("/protocol")),
        other => return Err(Invalid::new("/protocol", format!("'{other}' is not a protocol of a health check"))),
    };
    Ok(Check::new(raw, probe, !matches!(protocol.as_str(), "HTTP" | "TCP")))
}

fn shell(line: String) -> Probe {
    Probe::Exec(vec!["/bin/sh".into(), "-c".into(), line])
}

fn no_tls(path: &str) -> Invalid {
    Invalid::new(path, "the stand-in makes no HTTPS checks; use HTTP or TCP")
}
