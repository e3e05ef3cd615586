//! Two sets drawn from the input: a reconciliation ends with exactly their differences.
#![no_main]

use fuzz::oracle::negentropy::check_two_ends;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    check_two_ends(data);
});
