//! h2load (Debian's nghttp2-client): HTTP/2 and gRPC, and HTTP/1 at a pace, with the time of each request. One thread.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::rival;
use crate::cargo::read;

/// Requests, and requests a second. With a file: it is posted as gRPC.
pub(super) fn run(url: &str, (connections, streams): (u32, u32), seconds: u32, message: Option<&Path>) -> Result<(f64, f64)> {
    let mut command = rival::bound("h2load");
    command.args(["-t", "1", "-c", &connections.to_string(), "-m", &streams.to_string(), "-D", &seconds.to_string()]);
    if let Some(message) = message {
        command.arg("-d").arg(message).args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    }
    let said = read(command.arg(url))?;
    let (requests, data) = parse(&said).with_context(|| format!("h2load {url} said:\n{said}"))?;
    // A gRPC error is a 200 too, but one without a message.
    ensure!(message.is_none() || data >= requests, "gRPC answers without a message are errors:\n{said}");
    Ok((requests, requests / f64::from(seconds)))
}

/// Requests that were answered, and bytes of bodies; an error if any was not.
fn parse(said: &str) -> Result<(f64, f64)> {
    let line = |start: &str| said.lines().find_map(|line| line.strip_prefix(start)).with_context(|| format!("no line {start}"));
    let number = |line: &str, word: &str| {
        let part = line.split(", ").find_map(|part| part.trim().strip_suffix(word)).with_context(|| format!("no {word}"))?;
        part.trim().parse::<f64>().with_context(|| format!("strange {word}: {part}"))
    };
    let requests = line("requests: ")?;
    let done = number(requests, "succeeded")?;
    let bad = number(requests, "failed")? + number(requests, "errored")? + number(requests, "timeout")?;
    ensure!(bad == 0.0 && done > 0.0, "a measurement with errors is none: {requests}");
    let data = line("traffic: ")?.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')')).context("no bytes of data")?.0;
    Ok((done, data.parse().with_context(|| format!("strange traffic: {data}"))?))
}

/// p50, p99 and p99.9 in microseconds, of HTTP/1 requests sent at a pace whatever the answers do.
pub(super) fn paced(url: &str, connections: u32, pace: u32, seconds: u32, dir: &Path) -> Result<[f64; 3]> {
    let log = dir.join("paced.log");
    let _ = std::fs::remove_file(&log);
    let mut command = rival::bound("h2load");
    command.args(["--h1", "-t", "1", "-c", &connections.to_string(), "-D", &seconds.to_string()]);
    command.arg(format!("--rps={}", pace / connections)).arg("--log-file").arg(&log);
    parse(&read(command.arg(url))?)?;
    let text = std::fs::read_to_string(&log).context("h2load left no log")?;
    percentiles(&text).with_context(|| format!("h2load {url} logged too little"))
}

/// Lines of start, status and microseconds.
fn percentiles(log: &str) -> Option<[f64; 3]> {
    let mut times: Vec<u32> = log.lines().filter_map(|line| line.rsplit('\t').next()?.trim().parse().ok()).collect();
    times.sort_unstable();
    let at = |per_mille: usize| times.get(times.len() * per_mille / 1000).copied().map(f64::from);
    Some([at(500)?, at(990)?, at(999)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "finished in 2.00s, 34105.50 req/s, 1.70MB/s
requests: 68211 total, 68275 started, 68211 done, 68211 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 68211 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 3.40MB (3567892) total, 1.10MB (1157892) headers (space savings 90.00%), 1.04MB (1091376) data
";

    #[test]
    fn what_h2load_prints_is_understood() {
        assert_eq!(parse(SAID).unwrap(), (68_211.0, 1_091_376.0));
        assert!(parse(&SAID.replace("0 errored", "3 errored")).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let log: String = (0..1000).rev().map(|n| format!("1700000000000000\t200\t{n}\n")).collect();
        assert_eq!(percentiles(&log), Some([500.0, 990.0, 999.0]));
        assert_eq!(percentiles(""), None);
    }
}
