//! libFuzzer's entry to the check of the same name.

#![no_main]

#[path = "../checks/response.rs"]
mod response;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| response::check(bytes));
