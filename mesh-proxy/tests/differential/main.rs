//! The same resources and the same requests into Envoy and into mesh-proxy: the same decisions out.
//!
//! Envoy is the oracle for what a field means. Every case is generated from a seed, which is printed; what both did is compared whole: status,
//! headers and body of the answer, and every request that arrived at a backend, so also retries, mirrored copies and the endpoint chosen.

#![allow(unreachable_pub, reason = "a test program has no users")]

#[path = "../path/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the path, which use more of it")]
mod world;

mod backend;
mod certificates;
mod client;
mod compare;
mod fields;
mod generate;
mod generate_action;
mod generate_match;
#[macro_use]
mod glue;
mod limits;
mod mutants;
mod oracle;
mod pool;
mod pool_special;
mod resources;
mod stage;
mod volleys;

use generate::Case;
use pool::Pooled;
use stage::Stage;

/// Another one is another set of cases: `MESH_SEED=7 cargo xtask test --only envoy`.
const SEED: u64 = 20_261_121;
const CASES: usize = 2500;
const LIMITED: usize = 720;
/// Cases that each field of the lists occurs in, at least.
const LEAST: usize = 100;

fn seed() -> u64 {
    std::env::var("MESH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED)
}

fn cases(seed: u64, pool: &[Pooled]) -> Vec<Case> {
    (0..CASES).map(|number| generate::case(number, seed, pool)).collect()
}

#[tokio::test]
async fn generated_cases_agree() {
    let seed = seed();
    println!("seed {seed}, {CASES} cases, and {LIMITED} in which requests meet");
    let stage = Stage::new(seed, LIMITED);
    let table = stage.fields();
    for (field, count) in &table {
        println!("{count:6}  {field}");
    }
    let mut found = stage.run().await;
    found.extend(volleys::run(&stage).await);
    for disagreement in found.iter().take(10) {
        println!("{disagreement}\n");
    }
    assert!(found.is_empty(), "{} disagreements", found.len());
    for (field, count) in table {
        assert!(count >= LEAST, "{field} occurs in {count} cases only");
    }
}
