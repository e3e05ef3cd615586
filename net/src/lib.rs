//! The client connection as a sans-io state machine: bytes in, events and bytes out.
//!
//! **What it does not know:** sockets, clocks, files and threads; what an event costs or where it
//! is kept; which subscriptions are open; what a filter finds. Time is an argument
//! ([`proto::Now`]), entropy is an argument, and the bytes of both directions pass through buffers
//! that the caller owns or gets handed.
//!
//! Entry type: [`Conn`], one per accepted socket, 300 bytes at most while idle. What the
//! connections of one core share is [`ConnCore`]: the configuration, the verifier, the budgets,
//! the counters, two scratch buffers and the codecs of permessage-deflate. [`Admission`] decides
//! who may connect at all; an operator's own connections come through another door and pass it by
//! ([`Trust`]).
//!
//! The life of a connection: [`Conn::new`] after [`Admission::admit`]; [`Conn::next`] with
//! received bytes until it returns `None`; the `reply_*` and `deliver*` functions; bytes out of
//! [`Conn::take_chunk`]; [`Conn::tick`] at [`Conn::next_deadline_ms`]; and after each of these
//! [`Conn::teardown`] says whether the socket is to be closed, then [`Conn::release`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admission;
pub mod auth;
pub mod config;
pub mod conn;
pub mod counters;
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
pub mod info;
pub mod note;
pub mod outbox;
pub mod proxy;
pub mod rate;
pub mod skim;
pub mod ws;

pub use admission::{Admission, AdmissionConfig, Admitted};
pub use config::{CompressionConfig, ConnConfig, Rates, Timeouts};
pub use conn::{Conn, ConnCore, ConnEvent, Teardown, Trust};
pub use counters::{CloseCause, NetCounters, Refusal};
pub use http::Pages;
pub use info::RelayDocument;
pub use outbox::{OutboxLimits, Pushed};
pub use proxy::{Cidr, TrustedProxies};
pub use rate::{Bucket, Rate};
