//! The samples as tables: medians with spread, and ratios within rounds. Pure.

use std::fmt::Write;

use super::case::{CASES, Case, KEEP_ALIVE, MANY};
use super::rival::Rival;
use super::{CONNECTIONS, IDLE, PACE, Paced, Sample};
use crate::bench::report::{Conditions, spread};

/// Who takes part, in the order of the first round.
fn rivals(samples: &[Sample]) -> Vec<Rival> {
    let mut rivals = Vec::new();
    for sample in samples {
        if !rivals.contains(&sample.rival) {
            rivals.push(sample.rival);
        }
    }
    rivals
}

fn of<'a>(samples: &'a [Sample], case: &str, rival: Rival) -> Vec<&'a Sample> {
    samples.iter().filter(|sample| sample.case == case && sample.rival == rival).collect()
}

fn efficiency(sample: &Sample) -> f64 {
    sample.requests / sample.cpu
}

/// Of what another has done in the same round: then what disturbs the machine for longer than a round does not count.
fn ratio(ours: &[&Sample], theirs: &[&Sample]) -> (f64, f64, f64) {
    spread(ours.iter().zip(theirs).map(|(ours, theirs)| efficiency(ours) / efficiency(theirs)))
}

pub(super) fn case(case: &Case, samples: &[Sample]) -> String {
    let mut out = format!(
        "{}:\n\n| | requests per CPU-second | of nginx | of Envoy | requests/s | CPU µs per request |\n|---|---|---|---|---|---|\n",
        case.name
    );
    for rival in rivals(samples) {
        let own = of(samples, case.name, rival);
        let (low, middle, high) = spread(own.iter().map(|sample| efficiency(sample)));
        let (_, rate, _) = spread(own.iter().map(|sample| sample.per_second));
        let against = |other| {
            let (low, middle, high) = ratio(&own, &of(samples, case.name, other));
            format!("{middle:.2} ({low:.2}–{high:.2})")
        };
        let _ = writeln!(
            out,
            "| {} | {middle:.0} ({low:.0}–{high:.0}) | {} | {} | {rate:.0} | {:.1} |",
            rival.name(),
            against(Rival::Nginx),
            against(Rival::Envoy),
            1e6 / middle
        );
    }
    out
}

/// From one route to many, within rounds.
fn flat(samples: &[Sample]) -> String {
    let mut out =
        "Requests per CPU-second with 1,000 routes, of those with one:\n\n| | 1,000 routes / 1 route |\n|---|---|\n".to_owned();
    for rival in rivals(samples) {
        let (low, middle, high) = ratio(&of(samples, MANY, rival), &of(samples, KEEP_ALIVE, rival));
        let _ = writeln!(out, "| {} | {middle:.2} ({low:.2}–{high:.2}) |", rival.name());
    }
    out
}

fn paced(paced: &[Paced], rivals: &[Rival]) -> String {
    let mut out = format!(
        "{PACE} requests a second over {CONNECTIONS} connections, 1 KiB:\n\n| | p50 µs | p99 µs | p99.9 µs |\n|---|---|---|---|\n"
    );
    for rival in rivals {
        let cell = |index: usize| {
            let values = paced.iter().filter(|paced| paced.rival == *rival).map(|paced| paced.micros[index]);
            let (low, middle, high) = spread(values);
            format!("{middle:.0} ({low:.0}–{high:.0})")
        };
        let _ = writeln!(out, "| {} | {} | {} | {} |", rival.name(), cell(0), cell(1), cell(2));
    }
    out
}

fn memory(memory: &[(Rival, (f64, f64))]) -> String {
    let mut out = format!(
        "Memory with {IDLE} idle connections, each of which has carried a request:\n\n| | before, MiB | after, MiB | a connection, KiB |\n|---|---|---|---|\n"
    );
    for (rival, (before, after)) in memory {
        #[expect(clippy::cast_precision_loss, reason = "a thousand")]
        let each = (after - before) / IDLE as f64;
        let _ = writeln!(out, "| {} | {:.1} | {:.1} | {each:.1} |", rival.name(), before / 1024.0, after / 1024.0);
    }
    out
}

/// The section of docs/benchmarks.md.
pub(super) fn all(samples: &[Sample], at_pace: &[Paced], idle: &[(Rival, (f64, f64))], conditions: &Conditions) -> String {
    let mut out = format!(
        "{}. HAProxy 2.6, nginx 1.22, Envoy 1.40 and mesh-proxy with one thread each, wrk and h2load with one, nginx (one process) as \
         backend, a hyper server for gRPC; medians, with smallest and largest in brackets. A CPU-second is one of the proxy's own, user and \
         system; ratios are of such seconds.\n",
        conditions.sentence()
    );
    for part in CASES.iter().map(|one| case(one, samples)) {
        let _ = write!(out, "\n{part}");
    }
    let _ = write!(out, "\n{}\n{}\n{}", flat(samples), paced(at_pace, &rivals(samples)), memory(idle));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rival: Rival, requests: f64) -> Sample {
        Sample { rival, case: KEEP_ALIVE, requests, per_second: requests / 2.0, cpu: 0.5 }
    }

    #[test]
    fn ratios_are_of_cpu_seconds_within_a_round() {
        let samples = [
            sample(Rival::Nginx, 1000.0),
            sample(Rival::Ours, 500.0),
            sample(Rival::Ours, 1000.0),
            sample(Rival::Nginx, 500.0),
            sample(Rival::Ours, 800.0),
            sample(Rival::Nginx, 800.0),
        ];
        let table = case(&CASES[0], &samples);
        assert!(table.contains("| mesh-proxy | 1600 (1000–2000) | 1.00 (0.50–2.00) |"), "{table}");
        assert!(table.contains("| nginx | 1600 (1000–2000) | 1.00 (1.00–1.00) |"), "{table}");
    }

    #[test]
    fn latencies_and_memory_are_medians() {
        let rounds = [10.0, 30.0, 20.0].map(|micros| Paced { rival: Rival::Ours, micros: [micros, 50.0, 60.0] });
        assert!(paced(&rounds, &[Rival::Ours]).ends_with("| mesh-proxy | 20 (10–30) | 50 (50–50) | 60 (60–60) |\n"));
        assert!(memory(&[(Rival::Ours, (2048.0, 12048.0))]).ends_with("| mesh-proxy | 2.0 | 11.8 | 10.0 |\n"));
    }
}
