//! libFuzzer's entry to the check of the same name.

#![no_main]

#[path = "../checks/sni.rs"]
mod sni;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sni::check(bytes));
