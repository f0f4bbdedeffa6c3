//! See `openlambda::fuzz::archive`. Nothing without the instrumentation: then it is no fuzzer.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| openlambda::fuzz::archive(bytes));

#[cfg(not(fuzzing))]
fn main() {}
