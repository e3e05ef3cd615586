//! RFC 6455: the accept key, frames, masking, UTF-8 across fragments, close codes; and RFC 7692,
//! permessage-deflate without context takeover.

pub mod close;
pub mod decoder;
pub mod deflate;
pub mod extension;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod utf8;

pub use close::CloseCode;
pub use decoder::{Decoder, DecoderLimits, Incoming, InputBudget, Violation, Workspace};
pub use deflate::{Deflater, Inflater};
pub use extension::{Agreed, WindowBits};
pub use frame::{Form, FrameError, FrameHeader, Opcode};
