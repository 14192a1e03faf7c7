//! Frame code of the simulated clients. It shares no code with the server, so that both cannot share a bug.

use super::deflate::{Extension, RSV1};
use super::random::Random;

/// A decoded frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Close(Option<u16>, String),
    Ping(Vec<u8>),
    Pong,
}

/// Removes one whole frame from the front of `input` and decodes it; inflates it if compression was agreed. `None`
/// until the frame is whole. Returns an error if the frame breaks a rule.
pub(super) fn decode(input: &mut Vec<u8>, agreed: Option<&mut Extension>) -> Result<Option<Frame>, String> {
    let [first, second, ..] = input[..] else { return Ok(None) };
    if first & 0x30 != 0 || first & 0x80 == 0 || second & 0x80 != 0 {
        return Err(format!("a torn or broken frame: {first:#x} {second:#x}"));
    }
    let (head, len) = match second {
        126 if input.len() < 4 => return Ok(None),
        126 => (4, usize::from(u16::from_be_bytes([input[2], input[3]]))),
        127 => return Err("a frame longer than any message".into()),
        len => (2, len.into()),
    };
    if input.len() < head + len {
        return Ok(None);
    }
    let mut payload: Vec<u8> = input.drain(..head + len).skip(head).collect();
    let is_compressed = first & RSV1 != 0;
    if is_compressed {
        payload = agreed.ok_or("a compressed frame, which was not agreed")?.inflate(&payload)?;
    }
    let frame = match first & 0x0f {
        1 => Frame::Text(payload),
        2 => Frame::Binary(payload),
        opcode if is_compressed => return Err(format!("a compressed frame of opcode {opcode}")),
        8 if payload.is_empty() => Frame::Close(None, String::new()),
        8 if (2..126).contains(&len) => {
            let reason = String::from_utf8(payload[2..].to_vec()).map_err(|_| "a reason that is no text")?;
            Frame::Close(Some(u16::from_be_bytes([payload[0], payload[1]])), reason)
        }
        9 if len < 126 => Frame::Ping(payload),
        10 if len < 126 => Frame::Pong,
        opcode => return Err(format!("a frame of opcode {opcode} and {len} bytes")),
    };
    Ok(Some(frame))
}

/// Encodes a masked frame, as a client sends it.
pub(super) fn encode(random: &mut Random, opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode | if last { 0x80 } else { 0 }];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
    }
    let key = (random.next() as u32).to_be_bytes();
    frame.extend(key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Encodes a message, sometimes in fragments with a ping between the fragments. The `opcode` may have [`RSV1`] set.
pub(super) fn encode_message(random: &mut Random, opcode: u8, payload: &[u8]) -> Vec<u8> {
    if payload.len() < 2 || !random.once_in(4) {
        return encode(random, opcode, true, payload);
    }
    let (one, two) = payload.split_at(random.below(payload.len()));
    let mut bytes = encode(random, opcode, false, one);
    if random.once_in(2) {
        bytes.extend(encode(random, 9, true, b"between"));
    }
    bytes.extend(encode(random, 0, true, two));
    bytes
}
