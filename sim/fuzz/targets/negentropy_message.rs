//! Negentropy messages of any bytes, given to both ends.
#![no_main]

use fuzz::oracle::negentropy::check_message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    check_message(data).ok();
});
