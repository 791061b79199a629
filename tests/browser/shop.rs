//! The page without any rule: book, reviews, stars, signing in and out, on a phone and on a desk.

use super::Case;
use super::chromium::Screen;
use super::page::{Seen, Shop};
use anyhow::{Result, bail, ensure};
use std::collections::BTreeSet;

pub(crate) const CASES: &[Case] = &[
    ("shop::book, reviews and the stars of the version that served: none, black, red", stars),
    ("shop::signing in and out by the form, on a phone and on a desk", signing_in),
    ("shop::the page fits a dark phone and a small one", fits),
];

/// Three versions take turns, so three loads would do; more are for what else asks at the same time.
const LOADS: usize = 12;

fn stars(shop: &Shop) -> Result<()> {
    let mut versions = BTreeSet::new();
    for _ in 0..LOADS {
        let (seen, _) = shop.open()?;
        seen.is_whole()?;
        let version = seen.version()?.to_owned();
        right_stars(&seen, &version)?;
        if versions.insert(version.clone()) {
            shop.pictures(&format!("reviews-{version}"))?;
        }
        if versions.len() == 3 {
            return Ok(());
        }
    }
    bail!("{LOADS} loads showed only {versions:?}")
}

fn right_stars(seen: &Seen, version: &str) -> Result<()> {
    let stars = seen.stars()?;
    let counts: Vec<u64> = stars.iter().map(|(full, _)| *full).collect();
    let painted = |right: fn([u64; 3]) -> bool| stars.iter().all(|(_, color)| right(*color));
    let right = match version {
        "v1" => stars.is_empty(),
        "v2" => counts == [5, 4] && painted(|parts| parts.iter().all(|part| *part < 64)),
        "v3" => counts == [5, 4] && painted(|[red, green, blue]| red > 160 && green < 80 && blue < 80),
        _ => bail!("no such version: {seen}"),
    };
    ensure!(right, "wrong stars for {version}: {seen}");
    Ok(())
}

fn signing_in(shop: &Shop) -> Result<()> {
    for screen in Screen::BOTH {
        shop.browser.screen(screen)?;
        shop.browser.open(&shop.world.page)?;
        shop.browser.click("summary.button")?;
        shop.look()?;
        shop.picture(&format!("sign-in-{}", screen.width()))?;
        shop.sign_in("jason")?;
        let (seen, _) = shop.open()?;
        ensure!(seen.user() == Some("jason"), "forgotten: {seen}");
        seen.is_whole()?;
        shop.picture(&format!("signed-in-{}", screen.width()))?;
        shop.sign_out()?;
        let (seen, _) = shop.open()?;
        ensure!(seen.user().is_none(), "still there: {seen}");
    }
    Ok(())
}

fn fits(shop: &Shop) -> Result<()> {
    shop.browser.color_scheme("dark")?;
    shop.pictures("dark")?;
    // A name without a place to break is what makes a page scroll.
    shop.browser.screen(Screen::Phone)?;
    shop.sign_in(&"W".repeat(64))?;
    shop.picture("long-name-390")?;
    shop.sign_out()
}
