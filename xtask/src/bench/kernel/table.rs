//! The tables of `bench kernel`.

use std::fmt::Write;

use super::super::report::{Conditions, spread};
use super::Sample;

const DIRECT: &str = "direct";
const REDIRECT: &str = "iptables REDIRECT";

pub(super) fn section(samples: &[Sample], conditions: &Conditions) -> String {
    let mut out = format!(
        "{}; medians, with smallest and largest in brackets, ratios within rounds. Client and server in pods of their own on one node, one \
         thread for both on one core, so that a figure is the work of the kernel for both ends; three backends for each service, any of \
         the services asked at random.\n",
        conditions.sentence()
    );
    let mut sizes: Vec<u32> = samples.iter().map(|sample| sample.services).collect();
    sizes.dedup();
    for size in &sizes {
        let _ = write!(
            out,
            "\nNew connections among {size} services:\n\n| | connections/CPU-s | of direct | connect() p50 µs | p99 µs | CPU µs |\n|---|---|---|---|---|---|\n"
        );
        let of = |variant: &str| find(samples, "connect", variant, *size);
        let base = of(DIRECT);
        for variant in variants(samples, "connect").into_iter().filter(|variant| !is_hand_over(variant)) {
            out.push_str(&connect(variant, &of(variant), &base));
        }
    }
    for size in &sizes {
        let _ = write!(
            out,
            "\nHanding connections to a proxy, among {size} services (REDIRECT: one rule for all):\n\n| | connections/CPU-s | of REDIRECT | connect() p50 µs | p99 µs | CPU µs |\n|---|---|---|---|---|---|\n"
        );
        let of = |variant: &str| find(samples, "connect", variant, *size);
        let base = of(REDIRECT);
        for variant in variants(samples, "connect").into_iter().filter(|variant| is_hand_over(variant)) {
            out.push_str(&connect(variant, &of(variant), &base));
        }
    }
    out.push_str(&carried(samples));
    out
}

/// What goes over connections that are there: it does not depend on how many services there are, so all rounds count.
fn carried(samples: &[Sample]) -> String {
    let mut out = "\nOver connections that stay:\n\n| | requests/CPU-s | of direct | p50 µs | Gbit/CPU-s | of direct |\n|---|---|---|---|---|---|\n".to_owned();
    let all = |case: &str, variant: &str| -> Vec<&Sample> {
        samples.iter().filter(|sample| sample.case == case && sample.variant == variant).collect()
    };
    let (requests, bytes) = (all("requests", DIRECT), all("stream", DIRECT));
    for variant in variants(samples, "requests") {
        let (asked, carried) = (all("requests", variant), all("stream", variant));
        let _ = writeln!(
            out,
            "| {variant} | {} | {} | {} | {} | {} |",
            cell(&asked, 0, Sample::per_core),
            ratio(&asked, &requests),
            cell(&asked, 2, |sample| sample.p50 / 1e3),
            cell(&carried, 1, |sample| sample.per_core() * 8.0 / 1e9),
            ratio(&carried, &bytes)
        );
    }
    out
}

fn is_hand_over(variant: &str) -> bool {
    variant == REDIRECT || variant == "eBPF hand-over"
}

/// In the order in which they first appear.
fn variants<'a>(samples: &'a [Sample], case: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for sample in samples.iter().filter(|sample| sample.case == case) {
        if !found.contains(&sample.variant.as_str()) {
            found.push(&sample.variant);
        }
    }
    found
}

fn find<'a>(samples: &'a [Sample], case: &str, variant: &str, services: u32) -> Vec<&'a Sample> {
    samples.iter().filter(|s| s.case == case && s.variant == variant && s.services == services).collect()
}

fn connect(variant: &str, samples: &[&Sample], base: &[&Sample]) -> String {
    format!(
        "| {variant} | {} | {} | {} | {} | {:.1} |\n",
        cell(samples, 0, Sample::per_core),
        ratio(samples, base),
        cell(samples, 1, |sample| sample.p50 / 1e3),
        cell(samples, 1, |sample| sample.p99 / 1e3),
        spread(samples.iter().map(|sample| sample.cpu / sample.done * 1e6)).1
    )
}

fn cell(samples: &[&Sample], digits: usize, of: impl Fn(&Sample) -> f64) -> String {
    let (low, middle, high) = spread(samples.iter().map(|sample| of(sample)));
    format!("{middle:.digits$} ({low:.digits$}–{high:.digits$})")
}

/// Of the same round and size: then what disturbs the machine for longer than a round does not count.
fn ratio(samples: &[&Sample], base: &[&Sample]) -> String {
    let of = |sample: &&Sample| {
        let base = base.iter().find(|base| (base.services, base.round) == (sample.services, sample.round))?;
        Some(sample.per_core() / base.per_core())
    };
    let (low, middle, high) = spread(samples.iter().filter_map(of));
    format!("{middle:.2} ({low:.2}–{high:.2})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(variant: &str, services: u32, round: u32, done: f64) -> Sample {
        let (case, variant) = ("connect".to_owned(), variant.to_owned());
        Sample { case, variant, services, round, done, cpu: 0.5, p50: 12_000.0, p99: 20_000.0 }
    }

    #[test]
    fn ratios_are_of_the_same_round_and_size() {
        let base = [sample(DIRECT, 10, 0, 100.0), sample(DIRECT, 10, 1, 50.0), sample(DIRECT, 1000, 0, 10.0)];
        let ours = [sample("ours", 10, 0, 90.0), sample("ours", 10, 1, 50.0), sample("ours", 1000, 0, 8.0)];
        let (ours, base) = (ours.iter().collect::<Vec<_>>(), base.iter().collect::<Vec<_>>());
        assert_eq!(ratio(&ours, &base), "0.90 (0.80–1.00)");
        assert_eq!(
            connect("ours", &ours[..1], &base),
            "| ours | 180 (180–180) | 0.90 (0.90–0.90) | 12.0 (12.0–12.0) | 20.0 (20.0–20.0) | 5555.6 |\n"
        );
    }

    #[test]
    fn every_variant_has_a_row_where_it_belongs() {
        let samples = [sample(DIRECT, 10, 0, 100.0), sample("kernel mode", 10, 0, 90.0), sample(REDIRECT, 10, 0, 80.0)];
        assert_eq!(variants(&samples, "connect"), [DIRECT, "kernel mode", REDIRECT]);
        assert!(is_hand_over(REDIRECT) && !is_hand_over(DIRECT));
    }
}
