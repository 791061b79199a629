//! One run of wrk, and what it printed. One thread; HTTP/1.1, keep-alive unless a header says otherwise.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpu;
use crate::cargo::read;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    pub(super) requests: f64,
    pub(super) per_second: f64,
    /// Microseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// CPU seconds of wrk.
    pub(super) cpu: f64,
}

/// `exec` is wrk where it shall run, without arguments.
pub(super) fn run(mut exec: Command, url: &str, connections: u32, seconds: u32, headers: &[&str]) -> Result<Measured> {
    exec.args(["--threads", "1", "--latency", "--timeout", "5s"]);
    for header in headers {
        exec.args(["--header", header]);
    }
    exec.args(["--connections", &connections.to_string(), "--duration", &format!("{seconds}s"), url]);
    let before = cpu::children()?;
    let said = read(&mut exec)?;
    let cpu = cpu::children()? - before;
    let mut measured = parse(&said).with_context(|| format!("wrk {url} said:\n{said}"))?;
    measured.cpu = cpu;
    Ok(measured)
}

fn parse(said: &str) -> Result<Measured> {
    let lines = || said.lines().map(str::trim);
    if let Some(trouble) = lines().find(|line| line.starts_with("Socket errors") || line.starts_with("Non-2xx")) {
        bail!("a measurement with errors is none: {trouble}");
    }
    let latency = |percent: &str| lines().find_map(|line| micros(line.strip_prefix(percent)?.trim()));
    let requests = lines().find_map(|line| line.split_once(" requests in ")?.0.parse().ok());
    let per_second = lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    Ok(Measured {
        requests: requests.context("no requests")?,
        per_second: per_second.context("no rate")?,
        p50: latency("50%").context("no p50")?,
        p99: latency("99%").context("no p99")?,
        cpu: 0.0,
    })
}

/// `84.00us`, `1.20ms`, `2.00s`.
fn micros(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return Some(number.parse::<f64>().ok()? * factor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 3s test @ http://bench-far:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   327.85us   50.13us   1.60ms   86.15%
    Req/Sec    97.71k     2.05k  100.37k    83.33%
  Latency Distribution
     50%  315.00us
     75%  335.00us
     90%  362.00us
     99%    1.52ms
  291648 requests in 3.00s, 331.99MB read
Requests/sec:  97212.51
Transfer/sec:    110.66MB
";

    #[test]
    fn what_wrk_prints_is_understood() {
        let expected = Measured { requests: 291_648.0, per_second: 97_212.51, p50: 315.0, p99: 1520.0, cpu: 0.0 };
        assert_eq!(parse(SAID).unwrap(), expected);
    }

    #[test]
    fn errors_make_a_measurement_void() {
        for trouble in ["  Socket errors: connect 0, read 3, write 0, timeout 0", "  Non-2xx or 3xx responses: 7"] {
            assert!(parse(&format!("{SAID}{trouble}\n")).is_err());
        }
        assert!(parse("").is_err());
    }
}
