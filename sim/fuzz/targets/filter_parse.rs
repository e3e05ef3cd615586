//! Filters: our parser against serde_json.

use crate::oracle::filter::check_filter;
use crate::oracle::small_limits;
use proto::Limits;

pub fn run(data: &[u8]) {
    check_filter(data, &Limits::default()).ok();
    check_filter(data, &small_limits()).ok();
}
