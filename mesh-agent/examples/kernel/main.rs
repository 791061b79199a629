//! What a connection costs on a node: as it is, with the mesh's kernel programs, and with the rules of iptables and nftables that do the same.
//! Called by `cargo xtask bench kernel`, which makes tables of the lines of JSON that this prints; never decides what a figure means.
//!
//! Everything is made for the run and vanishes with it: namespaces, a cgroup, pins. `kernel ROUNDS MILLISECONDS [VARIANT [SERVICES]]`.

#[path = "../../tests/common/mod.rs"]
mod common;
mod load;
mod rules;
mod stage;

use std::time::Duration;

use serde_json::json;
use stage::{Stage, Variant};

/// Services beside the one that is asked, itself included.
const SIZES: [u32; 3] = [10, 1_000, 10_000];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        || arguments.next().and_then(|text| text.parse().ok()).expect("kernel ROUNDS MILLISECONDS [VARIANT [SERVICES]]");
    let (rounds, slice): (u64, u64) = (number(), number());
    let slice = Duration::from_millis(slice);
    let (only, size) = (arguments.next(), arguments.next());
    for services in SIZES.into_iter().filter(|services| size.as_ref().is_none_or(|size| *size == services.to_string())) {
        let stage = Stage::new(services);
        for round in 0..rounds {
            // Whoever comes first in one round comes last in the next.
            for turn in 0..Variant::ALL.len() {
                let variant = Variant::ALL[(turn + round as usize) % Variant::ALL.len()];
                if only.as_ref().is_some_and(|only| variant.name() != only) {
                    continue;
                }
                for (case, sample) in stage.measure(variant, slice) {
                    let load::Sample { done, seconds, cpu, p50, p99 } = sample;
                    let line = json!({
                        "case": case, "variant": variant.name(), "services": services, "round": round,
                        "done": done, "seconds": seconds, "cpu": cpu, "p50": p50, "p99": p99,
                    });
                    println!("{line}");
                }
            }
        }
    }
}
