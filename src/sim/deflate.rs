//! The simulated clients' permessage-deflate. A client's engines live as long as the connection, unlike the server's.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::fault::Fault;
use super::random::Random;

/// The bit in a frame's first byte that marks a compressed message.
pub(super) const RSV1: u8 = 0x40;
/// The end of every compressed message. It is removed before sending (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The smallest window, in bits, that the compression engine supports.
const SMALLEST: u8 = 9;

/// A client's offer of compression parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    server_forgets: bool,
    client_forgets: bool,
    server_bits: Option<u8>,
    /// Whether the client offers `client_max_window_bits`, and the value of that parameter as a hint in bits.
    client_bits: Option<Option<u8>>,
}

impl Offer {
    pub(super) fn any(random: &mut Random) -> Self {
        Self {
            server_forgets: random.once_in(3),
            client_forgets: random.once_in(3),
            server_bits: random.pick(&[None, None, None, Some(8), Some(9), Some(12), Some(15)]),
            client_bits: random.pick(&[None, None, Some(None), Some(None), Some(Some(9)), Some(Some(15))]),
        }
    }

    /// Returns the header line with the offer. The line begins with another offer that no server can accept.
    pub(super) fn header(self) -> String {
        let mut line = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=7, \
                        permessage-deflate"
            .to_owned();
        if self.server_forgets {
            line += "; server_no_context_takeover";
        }
        if self.client_forgets {
            line += "; client_no_context_takeover";
        }
        if let Some(bits) = self.server_bits {
            line += &format!("; server_max_window_bits={bits}");
        }
        match self.client_bits {
            Some(Some(bits)) => line += &format!("; client_max_window_bits={bits}"),
            Some(None) => line += "; client_max_window_bits",
            None => {}
        }
        line + "\r\n"
    }

    /// Reads the server's answer to the offer from the response. `None` if the server declined. Returns an error if the
    /// answer is not valid.
    pub(super) fn agreed(self, head: &str, fault: Option<Fault>) -> Result<Option<Extension>, String> {
        let Some(line) = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: ")) else {
            return Ok(None);
        };
        let mut parts = line.split("; ");
        if parts.next() != Some("permessage-deflate") {
            return Err(format!("{line} was not offered"));
        }
        let (mut server_forgets, mut client_forgets) = (false, self.client_forgets);
        let (mut server_bits, mut client_bits) = (None, None);
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match (name, value.parse::<u8>().ok()) {
                ("server_no_context_takeover", None) => server_forgets = true,
                ("client_no_context_takeover", None) => client_forgets = true,
                ("server_max_window_bits", Some(bits)) => server_bits = Some(bits),
                ("client_max_window_bits", Some(bits)) => client_bits = Some(bits),
                _ => return Err(format!("{part} in {line}")),
            }
        }
        // RFC 7692 §7.1.1.1 and §7.1.2: the server must accept some parameters as offered, and may not add others
        // unasked.
        let most = self.client_bits.map(|hint| hint.unwrap_or(15));
        let is_allowed = server_forgets >= self.server_forgets
            && self.server_bits.is_none_or(|most| server_bits.is_some_and(|bits| bits <= most))
            && client_bits.is_none_or(|bits| most.is_some_and(|most| (SMALLEST..=most).contains(&bits)));
        if !is_allowed {
            return Err(format!("{line} is no valid answer to {self:?}"));
        }
        // The faults `KeptContext` and `ForgottenContext`: the server refers to earlier messages against the agreement,
        // or forgets the client's messages.
        server_forgets |= fault == Some(Fault::KeptContext);
        client_forgets &= fault != Some(Fault::ForgottenContext);
        Ok(Some(Extension {
            inflater: Decompress::new_with_window_bits(false, server_bits.unwrap_or(15).max(SMALLEST)),
            server_forgets,
            deflater: None,
            client_bits: client_bits.unwrap_or(15),
            client_forgets,
        }))
    }
}

/// Compression state of a client's connection, for both directions.
pub(super) struct Extension {
    inflater: Decompress,
    /// Whether the server forgets earlier messages: none of its messages refers to an earlier message.
    server_forgets: bool,
    /// The engine for the client's messages, created for the first compressed message.
    deflater: Option<Compress>,
    client_bits: u8,
    client_forgets: bool,
}

impl Extension {
    /// Inflates a message from the server. Returns an error if the payload is not valid.
    pub(super) fn inflate(&mut self, payload: &[u8]) -> Result<Vec<u8>, String> {
        if self.server_forgets {
            self.inflater.reset(false);
        }
        let mut out = Vec::with_capacity(payload.len() * 4 + 64);
        for input in [payload, &TAIL] {
            let end = self.inflater.total_in() + input.len() as u64;
            loop {
                out.reserve(64);
                let rest = &input[input.len() - (end - self.inflater.total_in()) as usize..];
                let status = self.inflater.decompress_vec(rest, &mut out, FlushDecompress::None);
                let status = status.map_err(|error| format!("a message that does not inflate: {error}"))?;
                if status == Status::StreamEnd {
                    return Err("a final block, which the server never sends".into());
                }
                if self.inflater.total_in() == end && out.len() < out.capacity() {
                    break;
                }
            }
        }
        Ok(out)
    }

    /// Compresses a message. With `is_final` its block is marked as the last block (BFINAL), and the next message
    /// starts a new stream (RFC 7692 §7.2.3.4).
    pub(super) fn deflate(&mut self, message: &[u8], is_final: bool) -> Vec<u8> {
        let make = || Compress::new_with_window_bits(Compression::default(), false, self.client_bits);
        let engine = self.deflater.get_or_insert_with(make);
        if self.client_forgets {
            engine.reset();
        }
        if !is_final {
            let mut out = deflate(engine, message, FlushCompress::Sync);
            assert_eq!(out.split_off(out.len() - TAIL.len()), TAIL, "a flushed block ends with the tail");
            return out;
        }
        let mut out = deflate(engine, message, FlushCompress::Finish);
        engine.reset();
        out.push(0);
        out
    }
}

/// Returns a compression bomb: `len` zeros, compressed to few bytes.
pub(super) fn bomb(len: usize) -> Vec<u8> {
    deflate(&mut Compress::new(Compression::best(), false), &vec![0; len], FlushCompress::Sync)
}

fn deflate(engine: &mut Compress, message: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() * 2 + 64);
    engine.compress_vec(message, &mut out, flush).expect("the engine is used correctly");
    assert!(out.len() < out.capacity(), "the output is complete");
    out
}
