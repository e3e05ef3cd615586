//! A line with a filter and a line with an event: our match against the wording of NIP-01.
#![no_main]

use fuzz::oracle::filter::check_match;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    if let (Some(filter), Some(event)) = (lines.next(), lines.next()) {
        check_match(filter, event);
    }
});
