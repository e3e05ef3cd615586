//! Host tuning: what is, what should be, and the command that gets there.
#![forbid(unsafe_code)]
