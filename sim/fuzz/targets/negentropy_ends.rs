//! Two sets drawn from the input: a reconciliation ends with exactly their differences.

use crate::oracle::negentropy::check_two_ends;

pub fn run(data: &[u8]) {
    check_two_ends(data);
}
