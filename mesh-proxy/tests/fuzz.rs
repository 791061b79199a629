//! The fuzz targets' corpora as plain tests, so that every run of the tests sees what fuzzing once saw. `cargo xtask fuzz` looks for more.

#[path = "../fuzz/checks/convert.rs"]
mod convert;
#[path = "../fuzz/checks/detect.rs"]
mod detect;
#[path = "../fuzz/checks/matching.rs"]
mod matching;
#[path = "../fuzz/checks/request.rs"]
mod request;
#[path = "../fuzz/checks/response.rs"]
mod response;
#[path = "../fuzz/checks/sni.rs"]
mod sni;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::path::Path;

/// Neighbours of each input that are tried too: what is checked in stays small, and a wrong condition needs an input that meets it.
const NEIGHBOURS: u64 = 40;

/// Every input of a target, each cut short, and each with a few bytes changed, the same ones in every run.
fn replay(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&dir).expect("the corpus is checked in") {
        let path = entry.expect("readable").path();
        let bytes = std::fs::read(&path).expect("readable");
        let cut = [bytes.clone(), bytes[..bytes.len() / 2].to_vec(), bytes[..bytes.len().saturating_sub(1)].to_vec()];
        let near = (0..NEIGHBOURS).map(|seed| neighbour(&bytes, seed));
        for input in cut.into_iter().chain(near) {
            let outcome = std::panic::catch_unwind(|| check(&input));
            assert!(outcome.is_ok(), "{} became {}", path.display(), input.escape_ascii());
            inputs += 1;
        }
    }
    assert!(inputs >= 1000, "{target}: {inputs} inputs are no corpus");
}

/// The same with one to three bytes changed.
fn neighbour(bytes: &[u8], seed: u64) -> Vec<u8> {
    let (mut bytes, mut rng) = (bytes.to_vec(), SmallRng::seed_from_u64(seed));
    for _ in 0..rng.random_range(1..=3) {
        if let Some(last) = bytes.len().checked_sub(1) {
            bytes[rng.random_range(0..=last)] = rng.random();
        }
    }
    bytes
}

#[test]
fn convert() {
    replay("convert", convert::check);
}

#[test]
fn detect() {
    replay("detect", detect::check);
}

#[test]
fn matching() {
    replay("matching", matching::check);
}

#[test]
fn request() {
    replay("request", request::check);
}

#[test]
fn response() {
    replay("response", response::check);
}

#[test]
fn sni() {
    replay("sni", sni::check);
}
