//! EVENT objects: our parser against serde_json, with the relay's limits and with tight ones.
#![no_main]

use fuzz::oracle::event::check_event;
use fuzz::oracle::small_limits;
use proto::Limits;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    check_event(data, &Limits::default()).ok();
    check_event(data, &small_limits()).ok();
});
