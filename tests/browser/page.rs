//! The product page as the browser shows it, and what the tests do on it.

use super::chromium::{Browser, Screen};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::World;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);
/// One look at the DOM, so that all of it is of the same page.
const LOOK: &str = r"
    const text = query => document.querySelector(query)?.textContent.trim() ?? null;
    const all = query => [...document.querySelectorAll(query)];
    return {
        title: document.title,
        heading: text('h1'),
        author: text('.by'),
        facts: all('[data-part=details] dl > div').length,
        trouble: text('[data-part=details] .trouble h3'),
        reviews: all('[data-part=reviews] figure blockquote').filter(quote => quote.textContent.trim()).length,
        version: text('[data-part=reviews] .served b'),
        stars: all('[data-part=reviews] .stars').map(stars => ({
            full: [...stars.firstChild.textContent].length,
            color: getComputedStyle(stars).color.match(/\d+/g).map(Number),
        })),
        user: text('.who b'),
        content: document.documentElement.scrollWidth,
        screen: document.documentElement.clientWidth,
    };";

/// The mesh, a browser, and a place for pictures. The browser ends first.
pub(crate) struct Shop {
    pub(crate) browser: Browser,
    pub(crate) world: World,
    pub(crate) pictures: PathBuf,
}

/// What a person would see.
pub(crate) struct Seen(Value);

impl Shop {
    /// No rule, nobody signed in, a desk: how each test begins.
    pub(crate) fn fresh(&self) -> Result<()> {
        self.world.forget_rules()?;
        self.browser.screen(Screen::Desk)?;
        self.browser.color_scheme("light")?;
        eventually("a page without rules", SOON, || {
            self.browser.open(&self.world.page.replace("/productpage", "/logout"))?;
            let seen = self.look()?;
            ensure!(seen.user().is_none(), "{seen}");
            seen.is_whole()
        })
    }

    /// Opens the page; what it shows and how long it took.
    pub(crate) fn open(&self) -> Result<(Seen, Duration)> {
        let started = Instant::now();
        self.browser.open(&self.world.page)?;
        let took = started.elapsed();
        Ok((self.look()?, took))
    }

    /// The page as it is now; never wider than the screen.
    pub(crate) fn look(&self) -> Result<Seen> {
        let seen = Seen(self.browser.script(LOOK)?);
        let width = |name: &str| seen.0[name].as_u64().with_context(|| format!("no {name}"));
        ensure!(width("content")? <= width("screen")?, "the page scrolls sideways: {seen}");
        Ok(seen)
    }

    /// By the form, as a person does.
    pub(crate) fn sign_in(&self, user: &str) -> Result<()> {
        self.browser.open(&self.world.page)?;
        self.browser.click("summary.button")?;
        self.browser.write("input[name=username]", user)?;
        self.browser.write("input[name=passwd]", "any will do")?;
        self.browser.click("form button")?;
        eventually("signing in", SOON, || {
            let seen = self.look()?;
            ensure!(seen.user() == Some(user), "{seen}");
            Ok(())
        })
    }

    pub(crate) fn sign_out(&self) -> Result<()> {
        self.browser.click("a[href='/logout']")?;
        eventually("signing out", SOON, || {
            let seen = self.look()?;
            ensure!(seen.user().is_none(), "{seen}");
            Ok(())
        })
    }

    /// Keeps the page as it is now, on a phone and on a desk; it fits on both.
    pub(crate) fn pictures(&self, name: &str) -> Result<()> {
        for screen in Screen::BOTH {
            self.browser.screen(screen)?;
            let seen = self.look().with_context(|| format!("{screen:?}"))?;
            ensure!(seen.0["screen"] == screen.width(), "{screen:?}: {seen}");
            self.picture(&format!("{name}-{}", screen.width()))?;
        }
        Ok(())
    }

    pub(crate) fn picture(&self, name: &str) -> Result<()> {
        self.browser.picture(&self.pictures.join(format!("{name}.png")))
    }
}

impl Seen {
    /// The book with its facts, and two reviews.
    pub(crate) fn is_whole(&self) -> Result<()> {
        ensure!(self.0["heading"] == "The Comedy of Errors", "no book: {self}");
        ensure!(self.0["title"].as_str().is_some_and(|title| title.starts_with("The Comedy of Errors")), "no title: {self}");
        ensure!(self.0["author"] == "by William Shakespeare" && self.0["facts"] == 7, "no details: {self}");
        ensure!(self.trouble().is_none(), "{self}");
        ensure!(self.0["reviews"] == 2, "no reviews: {self}");
        Ok(())
    }

    /// The version of `reviews` that served the page.
    pub(crate) fn version(&self) -> Result<&str> {
        self.0["version"].as_str().with_context(|| format!("no version: {self}"))
    }

    /// Per review: how many stars, and their color as it is painted (red, green, blue).
    pub(crate) fn stars(&self) -> Result<Vec<(u64, [u64; 3])>> {
        let stars = self.0["stars"].as_array().context("no list of stars")?;
        let one = |stars: &Value| {
            let color = |part: usize| stars["color"][part].as_u64();
            Some((stars["full"].as_u64()?, [color(0)?, color(1)?, color(2)?]))
        };
        stars.iter().map(|stars| one(stars).with_context(|| format!("strange stars: {self}"))).collect()
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.0["user"].as_str()
    }

    /// What the page says in place of the details.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.0["trouble"].as_str()
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
