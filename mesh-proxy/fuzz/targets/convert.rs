//! libFuzzer's entry to the check of the same name.

#![no_main]

#[path = "../checks/convert.rs"]
mod convert;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| convert::check(bytes));
