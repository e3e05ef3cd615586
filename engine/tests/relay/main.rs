//! What clients see over the wire, with every runtime and with 1, 2 and 8 shards: the answers may
//! not depend on either.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;

mod auth;
mod delete;
mod events;
mod http;
mod life;
mod limits;
mod malformed;
mod private;
mod queries;
