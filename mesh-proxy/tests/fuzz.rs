//! The fuzz targets' corpora as plain tests, so that every run of the tests sees what fuzzing once saw. `cargo xtask fuzz` looks for more.

#[path = "../fuzz/checks/convert.rs"]
mod convert;
#[path = "../fuzz/checks/detect.rs"]
mod detect;
#[path = "../fuzz/checks/matching.rs"]
mod matching;
#[path = "../fuzz/checks/sni.rs"]
mod sni;

use std::path::Path;

/// Every input of a target, and each cut short: what is checked in stays small and still reaches the ends of messages.
fn replay(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&dir).expect("the corpus is checked in") {
        let path = entry.expect("readable").path();
        let bytes = std::fs::read(&path).expect("readable");
        let all = [&bytes[..], &bytes[..bytes.len() / 2], &bytes[..bytes.len().saturating_sub(1)]];
        for input in all {
            let name = path.display();
            let outcome = std::panic::catch_unwind(|| check(input));
            assert!(outcome.is_ok(), "{name}, the first {} of {} bytes", input.len(), bytes.len());
            inputs += 1;
        }
    }
    assert!(inputs >= 100, "{target}: {inputs} inputs are no corpus");
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
fn sni() {
    replay("sni", sni::check);
}
