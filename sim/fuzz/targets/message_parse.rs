//! Client messages: our parser against serde_json.
#![no_main]

use fuzz::oracle::message::check_message;
use fuzz::oracle::small_limits;
use proto::Limits;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    check_message(data, &Limits::default()).ok();
    check_message(data, &small_limits()).ok();
});
