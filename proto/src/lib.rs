//! The Nostr protocol as pure functions over bytes: events, filters, messages, identifiers, NIP
//! rules, verification, placement of keys.
//!
//! **What it does not know:** clocks, sockets, files, threads, stores, connections, money. Time and
//! secrets are arguments. Everything here runs unchanged in the simulator, in the fuzzer and under
//! Miri (but for libsecp256k1, which sits behind [`verify::Verifier`]).
//!
//! Entry types: [`parse::parse_client_message`] turns a WebSocket text into a
//! [`message::ClientMessage`]; [`Event`] is the packed form that everything above passes around.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod event;
pub mod filter;
#[doc(hidden)]
pub mod fuzzing;
pub mod hash;
pub mod id;
pub mod json;
pub mod limits;
pub mod message;
pub mod nip;
pub mod parse;
pub mod reason;
mod scan;
pub mod tag;
pub mod time;
pub mod verify;

pub use event::{Event, EventParts, EventRef};
pub use filter::{Filter, TagFilter};
pub use hash::{Placement, Secret, SeededMap, SeededSet, SeededState};
pub use id::{EventId, PublicKey, Signature};
pub use limits::Limits;
pub use message::{ClientMessage, MessageError, SubscriptionId};
pub use reason::{Prefix, Reason};
pub use time::Now;
