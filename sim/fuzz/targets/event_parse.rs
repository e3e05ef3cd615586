//! EVENT objects: our parser against serde_json, with the relay's limits and with tight ones.

use crate::oracle::event::check_event;
use crate::oracle::small_limits;
use proto::Limits;

pub fn run(data: &[u8]) {
    check_event(data, &Limits::default()).ok();
    check_event(data, &small_limits()).ok();
}
