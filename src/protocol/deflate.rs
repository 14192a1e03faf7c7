//! permessage-deflate: negotiation, compression and decompression of messages. RFC 7692
//!
//! The engines ([`Inflater`], [`Deflater`]) belong to a shard and keep no data between messages. A connection with
//! context takeover keeps its [`Window`], the last bytes of its messages. An engine that gets the window as a
//! dictionary continues as if it had compressed those messages itself. So a connection costs at most the memory of its
//! window, not the 40 KB or 300 KB of an engine.

mod deflater;
mod inflater;
mod offer;
#[cfg(test)]
mod tests;
mod window;

pub use deflater::Deflater;
pub use inflater::Inflater;
pub use offer::{Agreement, OfferPolicy, negotiate};
pub use window::Window;

/// The last four bytes of every compressed message. The sender removes these bytes and the receiver appends them. RFC
/// 7692 §7.2.1
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// The default and largest size of a compression window, as a power of two (32 KiB). RFC 7692 §7.1.2
pub const MAX_WINDOW_BITS: u8 = 15;
