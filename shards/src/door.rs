//! The operator's policy door: what a program of the operator's is asked, and what it says.
//!
//! Shards ask about events, homes about reads; whoever runs this crate carries questions to the
//! program and answers back, each question answered exactly once, however late. Nothing here knows
//! what the program is or how it is spoken to.

use crate::message::Origin;
use proto::{Event, Filter, PublicKey};
use std::net::IpAddr;
use std::sync::Arc;

/// Names a question of one shard, or of one home.
pub type Token = u64;

/// What homes ask about, and how many questions they have under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asks {
    /// Events of clients are asked about.
    pub writes: bool,
    /// Events that the operator imports are asked about.
    pub imports: bool,
    /// REQ, COUNT and NEG-OPEN are asked about.
    pub reads: bool,
    /// Reads asked about at once by one home; further ones wait for an answer.
    pub reads_max: usize,
}

impl Asks {
    /// No policy program is there.
    pub const NOTHING: Self = Self { writes: false, imports: false, reads: false, reads_max: 0 };
}

/// Where an event or a read comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The client's address; `None` for the operator.
    pub address: Option<IpAddr>,
    /// Keys that the client authenticated.
    pub keys: Arc<[PublicKey]>,
    /// Which rules apply.
    pub origin: Origin,
}

/// A shard asks: may this event, whose signature was checked, be stored (or passed on)?
#[derive(Clone, Debug)]
pub struct Question {
    /// Comes back in the [`Answer`].
    pub token: Token,
    /// The event.
    pub event: Event,
    /// Who sent it.
    pub source: Arc<Source>,
}

/// What a client wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// REQ.
    Req,
    /// COUNT.
    Count,
    /// NEG-OPEN.
    NegOpen,
}

/// A home asks: may this client read this?
#[derive(Clone, Debug)]
pub struct ReadQuestion {
    /// Comes back in the [`Answer`].
    pub token: Token,
    /// What is wanted.
    pub kind: ReadKind,
    /// The client's name for it.
    pub sub: Box<str>,
    /// Which events.
    pub filters: Arc<[Filter]>,
    /// Who asks.
    pub source: Arc<Source>,
}

/// What the program says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Accept,
    /// No, and this is what the client is told.
    Reject(Arc<str>),
    /// No, and the client is told yes: an event is not stored, a read finds nothing.
    ShadowReject,
    /// The program did not say anything in time and the operator wants that to mean no.
    Unavailable,
}

/// The answer to a [`Question`] or a [`ReadQuestion`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the question.
    pub token: Token,
    /// What the program says.
    pub verdict: Verdict,
}
