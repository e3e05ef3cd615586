//! A line with a filter and a line with an event: our match against the wording of NIP-01.

use crate::oracle::filter::check_match;

pub fn run(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    if let (Some(filter), Some(event)) = (lines.next(), lines.next()) {
        check_match(filter, event);
    }
}
