//! The same resources and the same requests into Envoy and into mesh-proxy: the same decisions out.
//!
//! Envoy is the oracle for what a field means. Every case is generated from a seed, which is printed; what both did is compared whole: status,
//! headers and body of the answer, and every request that arrived at a backend, so also retries, mirrored copies and the endpoint chosen.

#![allow(unreachable_pub, reason = "a test program has no users")]

#[path = "../path/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the path, which use more of it")]
mod world;

mod backend;
mod compare;
mod fields;
mod generate;
mod generate_action;
mod generate_match;
mod limits;
mod oracle;
mod pool;
mod stage;

use stage::Stage;

/// Another one is another set of cases: `MESH_SEED=7 cargo xtask test --only envoy`.
const SEED: u64 = 20_261_121;
const CASES: usize = 2500;
const LIMITED: usize = 220;

fn seed() -> u64 {
    std::env::var("MESH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED)
}

#[tokio::test]
async fn generated_cases_agree() {
    let seed = seed();
    println!("seed {seed}, {CASES} cases");
    let mut stage = Stage::new(seed, CASES, LIMITED);
    let mut found = stage.run().await;
    found.extend(stage.run_limited().await);
    let table = stage.fields();
    for (field, count) in &table {
        println!("{count:6}  {field}");
    }
    for disagreement in found.iter().take(10) {
        println!("{disagreement}\n");
    }
    assert!(found.is_empty(), "{} disagreements", found.len());
    for (field, count) in table {
        assert!(count >= 40, "{field} occurs in {count} cases only");
    }
}
