//! See `openlambda::fuzz::frames`.
#![no_main]
#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| openlambda::fuzz::frames(bytes));
