//! The page under rules that a person applies: jason waits, jason gets an error, nobody else notices.

use super::Case;
use super::page::Shop;
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use std::time::Duration;

pub(crate) const CASES: &[Case] =
    &[("rules::jason waits 7 s for the details, others do not", delay), ("rules::jason gets an error, others do not", abort)];

const DELAY: Duration = Duration::from_secs(7);
/// From kubectl's return until a rule must be in force, pages that are slow themselves included.
const IN_FORCE: Duration = Duration::from_secs(20);

fn apply(shop: &Shop, rule: &str) -> Result<()> {
    shop.world.kubectl(&["apply", "-f", "bookinfo/destination-rule-all.yaml", "-f", rule]).map(drop)
}

fn delay(shop: &Shop) -> Result<()> {
    shop.sign_in("jason")?;
    apply(shop, "bookinfo/vs-delay-details.yaml")?;
    eventually("jason waits", IN_FORCE, || {
        let (seen, took) = shop.open()?;
        ensure!(seen.user() == Some("jason"), "{seen}");
        ensure!(took >= DELAY && took < DELAY * 2, "the page took {took:?}");
        seen.is_whole()
    })?;
    shop.pictures("delay-jason")?;
    shop.sign_out()?;
    let (seen, took) = shop.open()?;
    ensure!(took < DELAY, "others wait too: {took:?}");
    seen.is_whole()
}

fn abort(shop: &Shop) -> Result<()> {
    shop.sign_in("jason")?;
    apply(shop, "bookinfo/vs-details-abort.yaml")?;
    eventually("jason sees an error", IN_FORCE, || {
        let (seen, _) = shop.open()?;
        ensure!(seen.user() == Some("jason"), "{seen}");
        ensure!(seen.trouble() == Some("Error fetching product details!"), "{seen}");
        // The rest of the page is there.
        seen.version().map(drop)
    })?;
    shop.pictures("abort-jason")?;
    shop.sign_out()?;
    let (seen, _) = shop.open()?;
    seen.is_whole()
}
