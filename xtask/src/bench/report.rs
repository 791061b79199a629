//! Medians, spread and ratios of `bench path`, and the sections of docs/benchmarks.md. Pure but for the last function.

use std::fmt::Write;
use std::process::Command;

use anyhow::{Context, Result};

use super::stage::{Place, Variant};
use super::wrk::Measured;
use crate::cargo::{self, read};
use crate::ui::{note, say};

pub(super) struct Sample {
    pub(super) variant: Variant,
    pub(super) place: Place,
    pub(super) connections: u32,
    pub(super) measured: Measured,
    /// CPU seconds.
    pub(super) proxy: f64,
    pub(super) server: f64,
}

pub(super) struct Conditions {
    command: String,
    rounds: u32,
    seconds: f64,
    cores: usize,
    kernel: String,
    date: String,
    load: String,
}

impl Conditions {
    pub(super) fn of_this_machine(command: &str, rounds: u32, seconds: impl Into<f64>) -> Result<Self> {
        let file = |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        Ok(Self {
            command: command.to_owned(),
            rounds,
            seconds: seconds.into(),
            cores: std::thread::available_parallelism()?.get(),
            kernel: file("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            date: read(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned(),
            load: file("/proc/loadavg")?.split(' ').nth(2).unwrap_or_default().to_owned(),
        })
    }

    /// How a section begins.
    pub(super) fn sentence(&self) -> String {
        let Self { command, rounds, seconds, cores, kernel, date, load } = self;
        format!(
            "`{command}`, {date}, {cores} cores, Linux {kernel}, load average over 15 minutes at the end {load}. {rounds} rounds of {seconds} s, \
             variants taking turns"
        )
    }
}

/// Smallest, middle, largest.
pub(super) fn spread(values: impl IntoIterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

/// The section of `bench path`.
pub(super) fn section(samples: &[Sample], conditions: &Conditions) -> String {
    let mut out = format!(
        "{}; medians, with smallest and largest in brackets. nginx (one process) serves 1 KiB to wrk (one thread), \
         HTTP/1.1 keep-alive, client and server in pods of their own; Envoy has one thread. CPU is user and system time per request of \
         each process; the kernel's own threads are in nobody's account.\n",
        conditions.sentence()
    );
    let mut cells: Vec<(Place, u32)> = samples.iter().map(|sample| (sample.place, sample.connections)).collect();
    cells.sort_by_key(|(place, connections)| (place.name(), *connections));
    cells.dedup();
    for (place, connections) in cells {
        let of = |variant| {
            samples.iter().filter(move |s| s.variant == variant && s.place == place && s.connections == connections).collect()
        };
        let base: Vec<&Sample> = of(Variant::Direct);
        let plural = if connections == 1 { "" } else { "s" };
        let _ = write!(
            out,
            "\nServer on the {}, {connections} connection{plural}:\n\n| | requests/s | of no mesh | p50 µs | p99 µs | client CPU µs | proxy CPU µs | server CPU µs |\n|---|---|---|---|---|---|---|---|\n",
            place.name()
        );
        for variant in Variant::ALL {
            out.push_str(&row(variant.name(), &of(variant), &base));
        }
    }
    out
}

fn row(name: &str, samples: &[&Sample], base: &[&Sample]) -> String {
    let values = |of: fn(&Sample) -> f64| spread(samples.iter().map(|sample| of(sample)));
    let (low, rate, high) = values(|s| s.measured.per_second);
    // Of the same round: then what disturbs the machine for longer than a round does not count.
    let ratios = samples.iter().zip(base).map(|(sample, base)| sample.measured.per_second / base.measured.per_second);
    let (least, ratio, most) = spread(ratios);
    let ((p50_low, p50, p50_high), (p99_low, p99, p99_high)) = (values(|s| s.measured.p50), values(|s| s.measured.p99));
    let cpu = |of: fn(&Sample) -> f64| spread(samples.iter().map(|s| of(s) / s.measured.requests * 1e6)).1;
    format!(
        "| {name} | {rate:.0} ({low:.0}–{high:.0}) | {ratio:.2} ({least:.2}–{most:.2}) | {p50:.0} ({p50_low:.0}–{p50_high:.0}) | {p99:.0} ({p99_low:.0}–{p99_high:.0}) | {:.1} | {:.1} | {:.1} |\n",
        cpu(|s| s.measured.cpu),
        cpu(|s| s.proxy),
        cpu(|s| s.server)
    )
}

/// The page with the section of this name in place of the one it has; without one, at its end.
fn replace(page: &str, name: &str, section: &str) -> String {
    let (begin, end) = (format!("<!-- bench {name}: begin -->"), format!("<!-- bench {name}: end -->"));
    let marked = format!("{begin}\n{section}{end}");
    match page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1))) {
        Some((before, after)) => format!("{before}{marked}{after}"),
        None => format!("{}\n\n{marked}\n", page.trim_end()),
    }
}

/// Prints a section and puts it into docs/benchmarks.md.
pub(super) fn publish(name: &str, section: &str) -> Result<()> {
    say(section);
    let file = cargo::root().join("docs/benchmarks.md");
    let page = std::fs::read_to_string(&file).unwrap_or_else(|_| "# Benchmarks\n".to_owned());
    std::fs::write(&file, replace(&page, name, section)).with_context(|| format!("cannot write {}", file.display()))?;
    note("written to docs/benchmarks.md");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(variant: Variant, per_second: f64) -> Sample {
        let measured = Measured { requests: 1000.0, per_second, p50: 10.0, p99: 20.0, cpu: 0.004 };
        Sample { variant, place: Place::Far, connections: 32, measured, proxy: 0.012, server: 0.003 }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let base = [sample(Variant::Direct, 100.0), sample(Variant::Direct, 50.0), sample(Variant::Direct, 200.0)];
        let ours = [sample(Variant::Proxy, 60.0), sample(Variant::Proxy, 25.0), sample(Variant::Proxy, 80.0)];
        let row = row("ours", &ours.iter().collect::<Vec<_>>(), &base.iter().collect::<Vec<_>>());
        assert!(row.contains("| 60 (25–80) | 0.50 (0.40–0.60) |"), "{row}");
        assert!(row.ends_with("| 4.0 | 12.0 | 3.0 |\n"), "{row}");
    }

    #[test]
    fn a_section_takes_the_place_of_the_last_one() {
        let first = replace("# Benchmarks\n", "path", "one\n");
        assert_eq!(first, "# Benchmarks\n\n<!-- bench path: begin -->\none\n<!-- bench path: end -->\n");
        let page = format!("{first}\nmore\n");
        assert_eq!(replace(&page, "path", "two\n"), page.replace("one", "two"));
        assert!(replace(&page, "proxy", "two\n").starts_with(page.trim_end()), "another's section stays");
    }
}
