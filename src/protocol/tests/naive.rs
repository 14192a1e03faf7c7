//! Slow and simple versions of the WebSocket protocol's routines, written from the RFC alone.

use super::{CloseCode, Kind, Seen};

/// Removes the mask from `data` byte by byte. `offset` is the position of `data` in its payload. RFC 6455 §5.3
pub(crate) fn unmask(data: &mut [u8], key: [u8; 4], offset: usize) {
    for (at, byte) in data.iter_mut().enumerate() {
        *byte ^= key[(at + offset) % 4];
    }
}

/// A frame of a client, valid or not.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) fin: bool,
    pub(super) rsv: u8,
    pub(super) opcode: u8,
    pub(super) key: Option<[u8; 4]>,
    /// Length in bytes of the frame's extended length field: 0, 2 or 8. `None` for the shortest form.
    pub(super) len_bytes: Option<usize>,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        let payload = payload.as_ref().to_vec();
        Self { fin: true, rsv: 0, opcode, key: Some([0x37, 0xfa, 0x21, 0x3d]), len_bytes: None, payload }
    }

    /// Creates a frame that is not the last of its message.
    pub(super) fn fragment(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self { fin: false, ..Self::new(opcode, payload) }
    }

    /// Encodes the frame as a client sends it. RFC 6455 §5.2
    pub(super) fn encode(&self) -> Vec<u8> {
        let len = self.payload.len();
        let len_bytes = self.len_bytes.unwrap_or(match len {
            0..=125 => 0,
            126..=65535 => 2,
            _ => 8,
        });
        let mut out = vec![u8::from(self.fin) * 128 + self.rsv * 16 + self.opcode];
        let mask_bit = u8::from(self.key.is_some()) * 128;
        out.push(match len_bytes {
            0 => mask_bit + len as u8,
            2 => mask_bit + 126,
            _ => mask_bit + 127,
        });
        out.extend(&(len as u64).to_be_bytes()[8 - len_bytes..]);
        let mut payload = self.payload.clone();
        if let Some(key) = self.key {
            out.extend(key);
            unmask(&mut payload, key, 0);
        }
        out.extend(payload);
        out
    }
}

/// Decodes all frames of a client's complete stream to events. An incomplete frame at the end counts only if it is
/// already invalid.
pub(super) fn decode(stream: &[u8], max_message: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    if let Err(code) = decode_into(stream, max_message, &mut seen) {
        seen.push(Seen::Failed(code));
    }
    seen
}

fn decode_into(stream: &[u8], max_message: usize, seen: &mut Vec<Seen>) -> Result<(), CloseCode> {
    let mut at = 0;
    let mut message: Option<(Kind, Vec<u8>)> = None;
    loop {
        let rest = &stream[at..];
        let Some((fin, opcode, len, header_len)) = header(rest, &message, max_message)? else {
            return Ok(());
        };
        let key: [u8; 4] = rest[header_len - 4..header_len].try_into().expect("four bytes");
        let mut payload = rest[header_len..rest.len().min(header_len + len)].to_vec();
        unmask(&mut payload, key, 0);
        let is_whole = payload.len() == len;
        at += header_len + payload.len();
        match opcode {
            8 => {
                let close = close(&payload, is_whole)?;
                if is_whole {
                    seen.push(Seen::Close(close));
                    return Ok(());
                }
            }
            9 if is_whole => seen.push(Seen::Ping(payload)),
            10 if is_whole => seen.push(Seen::Pong(payload)),
            9 | 10 => {}
            _ => {
                let kind = if opcode == 1 { Kind::Text } else { Kind::Binary };
                let (kind, bytes) = message.get_or_insert((kind, Vec::new()));
                bytes.extend(payload);
                let is_end = is_whole && fin;
                if *kind == Kind::Text && !is_text(bytes, is_end) {
                    return Err(CloseCode::INVALID);
                }
                if is_end {
                    seen.extend(message.take().map(|(kind, bytes)| Seen::Message(kind, bytes)));
                }
            }
        }
        if !is_whole {
            return Ok(());
        }
    }
}

type Header = (bool, u8, usize, usize);

fn header(b: &[u8], message: &Option<(Kind, Vec<u8>)>, max: usize) -> Result<Option<Header>, CloseCode> {
    if b.is_empty() {
        return Ok(None);
    }
    let (fin, opcode) = (b[0] >= 0x80, b[0] % 16);
    let wrong_first = b[0] & 0x70 != 0
        || (3..8).contains(&opcode)
        || opcode > 10
        || (opcode >= 8 && !fin)
        || (opcode == 0 && message.is_none())
        || ((opcode == 1 || opcode == 2) && message.is_some());
    if wrong_first {
        return Err(CloseCode::PROTOCOL);
    }
    if b.len() < 2 {
        return Ok(None);
    }
    let short_len = b[1] % 128;
    if b[1] < 0x80 || (opcode >= 8 && short_len > 125) || (opcode == 8 && short_len == 1) {
        return Err(CloseCode::PROTOCOL);
    }
    let len_bytes = [0, 2, 8][usize::from(short_len.saturating_sub(125))];
    if len_bytes == 8 && b.len() > 2 && b[2] >= 0x80 {
        return Err(CloseCode::PROTOCOL);
    }
    if b.len() < 2 + len_bytes {
        return Ok(None);
    }
    let long_len = b[2..2 + len_bytes].iter().fold(0_u64, |len, &byte| len * 256 + u64::from(byte));
    let len = if len_bytes == 0 { u64::from(short_len) } else { long_len };
    if (len_bytes == 2 && len < 126) || (len_bytes == 8 && len < 65536) {
        return Err(CloseCode::PROTOCOL);
    }
    let so_far = message.as_ref().map_or(0, |(_, bytes)| bytes.len()) as u64;
    if opcode < 8 && so_far + len > max as u64 {
        return Err(CloseCode::TOO_BIG);
    }
    let header_len = 2 + len_bytes + 4;
    Ok((b.len() >= header_len).then_some((fin, opcode, len as usize, header_len)))
}

fn close(payload: &[u8], is_whole: bool) -> Result<Option<(u16, String)>, CloseCode> {
    if payload.len() < 2 {
        return Ok(None);
    }
    let code = u16::from(payload[0]) * 256 + u16::from(payload[1]);
    let may_be_sent = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014]
        .contains(&code)
        || (3000..5000).contains(&code);
    if !may_be_sent {
        return Err(CloseCode::PROTOCOL);
    }
    if !is_text(&payload[2..], is_whole) {
        return Err(CloseCode::INVALID);
    }
    Ok(Some((code, String::from_utf8_lossy(&payload[2..]).into_owned())))
}

/// Returns whether `bytes` are UTF-8. If `is_whole` is false, returns whether `bytes` can become UTF-8.
fn is_text(bytes: &[u8], is_whole: bool) -> bool {
    // Wherever a byte of a UTF-8 character is missing, one of these three bytes is valid.
    let missing = [0x80, 0x90, 0xa0];
    std::str::from_utf8(bytes).is_ok()
        || !is_whole
            && (0..27).any(|choice| {
                (1..=3).any(|count| {
                    let tail = [missing[choice % 3], missing[choice / 3 % 3], missing[choice / 9]];
                    std::str::from_utf8(&[bytes, &tail[..count]].concat()).is_ok()
                })
            })
}
