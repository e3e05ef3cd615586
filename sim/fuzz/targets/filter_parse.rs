//! Filters: our parser against serde_json.
#![no_main]

use fuzz::oracle::filter::check_filter;
use fuzz::oracle::small_limits;
use proto::Limits;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    check_filter(data, &Limits::default()).ok();
    check_filter(data, &small_limits()).ok();
});
