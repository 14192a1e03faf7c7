//! permessage-deflate: what is agreed, and messages in and out of compressed form. RFC 7692
//!
//! The engines ([`Inflater`], [`Deflater`]) belong to a shard and remember nothing from message to message. What a
//! connection with context takeover must remember is the end of what it has said, its [`Window`]; an engine that is
//! given those bytes as a dictionary goes on as if it had never stopped. So a connection costs what it has said, up
//! to its window, and not the 40 KB or 300 KB of an engine of its own.

mod deflater;
mod inflater;
mod offer;
#[cfg(test)]
mod tests;
mod window;

pub use deflater::Deflater;
pub use inflater::Inflater;
pub use offer::{Agreement, Terms, negotiate};
pub use window::Window;

/// What a compressed message ends with, and what is therefore not sent. RFC 7692 §7.2.1
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The window that is used when nobody asks for a smaller one. RFC 7692 §7.1.2
pub const MAX_WINDOW_BITS: u8 = 15;
