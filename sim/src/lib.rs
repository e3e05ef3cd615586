//! The simulator: nodes made of the product itself, in one thread, in virtual time, with faults.
//!
//! **What it does not know:** the engine, sockets, real disks, real time.
#![forbid(unsafe_code)]
