//! Client messages: our parser against serde_json.

use crate::oracle::message::check_message;
use crate::oracle::small_limits;
use proto::Limits;

pub fn run(data: &[u8]) {
    check_message(data, &Limits::default()).ok();
    check_message(data, &small_limits()).ok();
}
