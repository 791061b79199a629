//! Shares that are told by counting: a part of the requests mirrored, and a new instance that warms up.

use crate::kit::{SOON, apply, count, delete, load, logs, pods, scale, sniffed, within};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("shares::a quarter of the requests is mirrored", mirrored),
    ("shares::a new instance warms up: it gets a tenth at first, and more as its age says", warmed_up),
];

const RETRY: &str = "http://retry-service/";

fn mirrored(world: &mut World) -> Result<()> {
    const REQUESTS: u32 = 600;
    sniffed(world)?;
    apply(world, "more/mirror-quarter")?;
    let copies = |world: &World, mark: &str| -> Result<u32> {
        let log = logs(world, "sniffer")?;
        Ok(u32::try_from(log.lines().filter(|line| line.starts_with("GET / ") && line.contains(mark)).count())?)
    };
    let send = |mark: &str| -> Result<()> {
        let counts = load(world, "client", 2, REQUESTS, &["-H", &format!("x-walk: {mark}"), RETRY])?;
        ensure!(count(&counts, "200") == REQUESTS, "{counts:?}");
        Ok(())
    };
    eventually("some are mirrored", SOON, || {
        send("in-force")?;
        ensure!(copies(world, "in-force")? > 0, "none");
        Ok(())
    })?;
    send("counted")?;
    eventually("a quarter is mirrored", SOON, || within(copies(world, "counted")?, REQUESTS, 0.25))?;
    // Copies of what was sent before are not on their way any more when copies of what came long after have arrived.
    send("later")?;
    eventually("later ones are mirrored", SOON, || within(copies(world, "later")?, REQUESTS, 0.25))?;
    within(copies(world, "counted")?, REQUESTS, 0.25)?;
    delete(world, "more/mirror-quarter")
}

/// As `more/warm-up` has it.
const WINDOW: Duration = Duration::from_secs(12);

/// The share of one that is so old, beside one that is long warm.
fn share_at(age: Duration) -> f64 {
    let factor = (age.as_secs_f64() / WINDOW.as_secs_f64()).clamp(0.1, 1.0);
    factor / (1.0 + factor)
}

/// How far chance and rounding may take a count from its expectation: four standard deviations.
fn allowed(requests: u32, share: f64) -> f64 {
    4.0 * (f64::from(requests) * share * (1.0 - share)).sqrt()
}

fn warmed_up(world: &mut World) -> Result<()> {
    const REQUESTS: u32 = 200;
    pods(world, &["1/client", "more/warm"])?;
    let old = world.instances_of("/warm")?[0]["id"].as_str().context("no id")?.to_owned();
    let node = world.instances_of("/client")?[0]["node"].as_str().context("no node")?.to_owned();
    // How many requests the new instance has answered.
    let of_new = || -> Result<u32> {
        let seen = world.echo("client", &["count", "warm", "80", "/get", &REQUESTS.to_string(), "instance"])?;
        let by_old = seen.as_object().context("no map")?.iter().filter(|(task, _)| task.starts_with(&old));
        let by_old: u64 = by_old.filter_map(|(_, count)| count.as_u64()).sum();
        ensure!(by_old > 0, "{seen}, the old one is {old}");
        Ok(REQUESTS - u32::try_from(by_old)?)
    };
    eventually("the one instance answers", SOON, || of_new().map(drop))?;
    apply(world, "more/warm-up")?;
    eventually("the rule is in force", SOON, || {
        let dump = world.admin(&node, "proxy", "/config_dump")?;
        ensure!(dump.contains("SlowStart"), "no cluster warms up");
        Ok(())
    })?;
    let posted = Instant::now();
    scale(world, "more/warm", 2)?;
    // However slow the machine: it is no older than since it was asked for, and no younger than since it was seen.
    let mut seen: Option<Instant> = None;
    let mut windows = Vec::new();
    loop {
        let youngest = seen.map_or(Duration::ZERO, |seen| seen.elapsed());
        let new = of_new()?;
        let oldest = posted.elapsed();
        seen = seen.or_else(|| (new > 0).then(Instant::now));
        windows.push((youngest, oldest, new));
        let (least, most) = (f64::from(REQUESTS) * share_at(youngest), f64::from(REQUESTS) * share_at(oldest));
        let (under, over) = (least - allowed(REQUESTS, share_at(youngest)), most + allowed(REQUESTS, share_at(oldest)));
        ensure!(f64::from(new) <= over, "more than {over:.0}: {windows:?}");
        ensure!(youngest.is_zero() || f64::from(new) >= under, "less than {under:.0}: {windows:?}");
        ensure!(oldest < WINDOW + 3 * SOON, "never warm: {windows:?}");
        if youngest > WINDOW {
            break;
        }
    }
    let warm = of_new()?;
    within(warm, REQUESTS, 0.5)?;
    println!("{} windows, first {:?}, last {:?}", windows.len(), windows.first(), windows.last());
    delete(world, "more/warm-up")?;
    scale(world, "more/warm", 1)
}
