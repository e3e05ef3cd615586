//! RFC 6455: the accept key, frames, masking, UTF-8 across fragments, close codes.
//!
//! Extensions are not negotiated, so a set RSV bit is a violation.

pub mod close;
pub mod decoder;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod utf8;

pub use close::CloseCode;
pub use decoder::{Decoder, DecoderLimits, Incoming, InputBudget, Violation};
pub use frame::{FrameError, FrameHeader, Opcode};
