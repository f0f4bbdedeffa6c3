//! See `openlambda::fuzz::settings`.
#![no_main]
#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| openlambda::fuzz::settings(bytes));
