//! The shop as a person sees it: headless Chromium opens the product page through the mesh, on a phone and on a desk. One mesh and one
//! browser serve all tests, which run one after another; each leaves no rule and no login behind. What was seen is kept as pictures under
//! `target/test-artefacts/browser`, one more for each test that fails.

mod chromium;
mod page;
mod rules;
mod shop;
mod wire;

use anyhow::{Context, Result};
use chromium::Browser;
use libtest_mimic::{Arguments, Failed, Trial};
use mesh_tests::world::{World, root};
use page::Shop;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

type Case = (&'static str, fn(&Shop) -> Result<()>);

const CASES: &[&[Case]] = &[shop::CASES, rules::CASES];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    let shop = match start() {
        Ok(shop) => Arc::new(Mutex::new(shop)),
        Err(error) => {
            let failed = Trial::test("the mesh and a browser come up", move || Err(Failed::from(format!("{error:#}"))));
            arguments.filter = None;
            return libtest_mimic::run(&arguments, vec![failed]).exit_code();
        }
    };
    libtest_mimic::run(&arguments, trials(Some(&shop))).exit_code()
}

/// The browser first: it takes a second, the mesh many, and a missing browser should be told at once.
fn start() -> Result<Shop> {
    let pictures = root().join("target/test-artefacts/browser");
    if pictures.is_dir() {
        std::fs::remove_dir_all(&pictures)?;
    }
    std::fs::create_dir_all(&pictures).with_context(|| format!("making {}", pictures.display()))?;
    let browser = Browser::start()?;
    let world = World::start(&["--no-zipkin"])?;
    Ok(Shop { browser, world, pictures })
}

fn trials(shop: Option<&Arc<Mutex<Shop>>>) -> Vec<Trial> {
    let trial = |(name, case): &Case| {
        let (name, case, shop) = (*name, *case, shop.cloned());
        Trial::test(name, move || {
            let Some(shop) = shop else { return Ok(()) };
            let shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = shop.fresh().and_then(|()| case(&shop));
            if outcome.is_err() {
                // Only to look at: the test has failed already.
                let _ = shop.picture(&format!("failed-{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
            }
            outcome.map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    CASES.iter().copied().flatten().map(trial).collect()
}
