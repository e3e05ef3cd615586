//! Whatever parses is rendered, packed, hashed and read again without a change; and bytes that claim
//! to be a packed event are refused or read without a panic.

use crate::oracle::event::{check_packed, check_round_trip};

pub fn run(data: &[u8]) {
    check_round_trip(data);
    check_packed(data);
}
