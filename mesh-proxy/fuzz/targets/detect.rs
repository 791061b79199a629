//! libFuzzer's entry to the check of the same name.

#![no_main]

#[path = "../checks/detect.rs"]
mod detect;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| detect::check(bytes));
