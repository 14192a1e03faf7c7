//! The format of a run's messages. A message contains its sender, number and due time, so that every byte can be
//! checked.
//!
//! ```text
//! tag 2 | sender 4 | sequence 5 | time 7 | check 2 | filler up to the size
//! ```
//! The numbers are lengths in base64 digits. The time counts units of 64 ns. Each run has a random tag, which
//! distinguishes its messages from messages of an earlier run in a room's history. The filler depends on sender and
//! sequence.

use serde::{Deserialize, Serialize};

/// Length of the shortest message, in bytes.
pub(crate) const MIN_SIZE: usize = HEADER_LEN;

const HEADER_LEN: usize = CHECK_AT + 2;
const SENDER_AT: usize = 2;
const SEQUENCE_AT: usize = 6;
const TIME_AT: usize = 11;
const CHECK_AT: usize = 18;
/// Unit of the times in messages, in nanoseconds. Times are rounded up to whole units.
const TIME_UNIT_NS: u64 = 64;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The value of each byte as a base64 digit. 255 marks a byte that is not a digit.
const VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut value = 0;
    while value < 64 {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};
/// Number of places in the random pattern where a message's filler may start. A prime number.
const RANDOM_STARTS: u64 = 4093;
/// Number of places in the JSON pattern where a message's filler may start. A prime number.
const JSON_STARTS: u64 = 1_048_573;
/// Distance between the filler starts of consecutive messages in the random pattern, in bytes.
const RANDOM_STEP: u64 = 1;
/// Distance between the filler starts of consecutive messages in the JSON pattern, in bytes. The starts lie far apart
/// (golden ratio), so that a compressor's window does not contain a whole earlier message.
const JSON_STEP: u64 = 648_053;
const WORDS: [&str; 32] = [
    "about",
    "again",
    "because",
    "before",
    "better",
    "could",
    "every",
    "first",
    "going",
    "great",
    "hello",
    "later",
    "little",
    "maybe",
    "message",
    "never",
    "nothing",
    "people",
    "please",
    "really",
    "right",
    "server",
    "should",
    "something",
    "still",
    "thanks",
    "there",
    "think",
    "today",
    "tomorrow",
    "where",
    "would",
];

/// The content that fills messages up to their size.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Filler {
    /// Letters and digits, which hardly compress.
    #[default]
    Random,
    /// Chat messages as JSON, which compress well.
    Json,
}

/// The header of a message: sender, number and due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The sender's number. The scenario defines how senders are numbered.
    pub(crate) sender: u32,
    /// The message's number among its sender's messages: from 0, below 2^30.
    pub(crate) sequence: u32,
    /// The time when the message was due, in nanoseconds since the start of the run, rounded up to a multiple of 64.
    pub(crate) time_ns: u64,
}

/// The result of checking a received payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The payload is an unaltered message of this run.
    Intact(Stamp),
    /// The payload is an altered message of this run.
    Corrupt,
    /// The payload is not from this run: a greeting, a notice, or a message of another run.
    Foreign,
}

/// The writer and checker of the messages of one run. All messages have the same size.
pub(crate) struct Messages {
    tag: u32,
    tag_digits: [u8; SENDER_AT],
    size: usize,
    pattern: Vec<u8>,
    starts: u64,
    step: u64,
}

impl Messages {
    /// Creates a writer and checker of messages of `size` bytes, which must be at least [`MIN_SIZE`].
    pub(crate) fn new(tag: u32, size: usize, filler: Filler) -> Self {
        assert!(size >= MIN_SIZE, "the command line refuses shorter messages");
        let mut rng = fastrand::Rng::with_seed(u64::from(tag));
        let (starts, step) = match filler {
            Filler::Random => (RANDOM_STARTS, RANDOM_STEP),
            Filler::Json => (JSON_STARTS, JSON_STEP),
        };
        let pattern_len = size + starts as usize;
        let pattern = match filler {
            Filler::Random => (0..pattern_len).map(|_| rng.alphanumeric() as u8).collect(),
            Filler::Json => json(&mut rng, pattern_len),
        };
        let mut tag_digits = [0; SENDER_AT];
        write_number(&mut tag_digits, u64::from(tag));
        Self { tag, tag_digits, size, pattern, starts, step }
    }

    /// Replaces the content of `out` with the message for `stamp`.
    pub(crate) fn write(&self, stamp: Stamp, out: &mut Vec<u8>) {
        out.clear();
        out.resize(HEADER_LEN, 0);
        out[..SENDER_AT].copy_from_slice(&self.tag_digits);
        write_number(&mut out[SENDER_AT..SEQUENCE_AT], u64::from(stamp.sender));
        write_number(&mut out[SEQUENCE_AT..TIME_AT], u64::from(stamp.sequence));
        let time = stamp.time_ns.div_ceil(TIME_UNIT_NS);
        write_number(&mut out[TIME_AT..CHECK_AT], time);
        write_number(&mut out[CHECK_AT..], self.check(stamp, time));
        out.extend_from_slice(self.filler(stamp));
    }

    /// Checks every byte of a received `payload`.
    pub(crate) fn read(&self, payload: &[u8]) -> Reading {
        if !payload.starts_with(&self.tag_digits) {
            return Reading::Foreign;
        }
        if payload.len() != self.size {
            return Reading::Corrupt;
        }
        let (header, filler) = payload.split_at(HEADER_LEN);
        match self.read_stamp(header) {
            Some(stamp) if filler == self.filler(stamp) => Reading::Intact(stamp),
            _ => Reading::Corrupt,
        }
    }

    /// Finds a message of this run inside `payload`, such as a JSON object that the server has put around the message. The
    /// message may be escaped as in a JSON string. An altered filler is found as corrupt, an altered header is not found.
    pub(crate) fn find(&self, payload: &[u8]) -> Reading {
        let mut found = Reading::Foreign;
        for at in 0..payload.len().saturating_sub(HEADER_LEN - 1) {
            let (header, rest) = payload[at..].split_at(HEADER_LEN);
            if !header.starts_with(&self.tag_digits) {
                continue;
            }
            let Some(stamp) = self.read_stamp(header) else { continue };
            let filler = self.filler(stamp);
            if rest.starts_with(filler) || begins_escaped(rest, filler) {
                return Reading::Intact(stamp);
            }
            found = Reading::Corrupt;
        }
        found
    }

    fn read_stamp(&self, header: &[u8]) -> Option<Stamp> {
        let (sender, sender_faults) = read_number(&header[SENDER_AT..SEQUENCE_AT]);
        let (sequence, sequence_faults) = read_number(&header[SEQUENCE_AT..TIME_AT]);
        let (time, time_faults) = read_number(&header[TIME_AT..CHECK_AT]);
        let (sum, sum_faults) = read_number(&header[CHECK_AT..HEADER_LEN]);
        let stamp = Stamp { sender: sender as u32, sequence: sequence as u32, time_ns: time * TIME_UNIT_NS };
        let is_clean = (sender_faults | sequence_faults | time_faults | sum_faults) & 0x80 == 0;
        (is_clean && sum == self.check(stamp, time)).then_some(stamp)
    }

    /// Returns a checksum of 12 bits over the stamp and the run's tag.
    fn check(&self, stamp: Stamp, time: u64) -> u64 {
        let mixed =
            (u64::from(stamp.sender) << 32 | u64::from(stamp.sequence)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ time ^ u64::from(self.tag) << 32).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 52
    }

    fn filler(&self, stamp: Stamp) -> &[u8] {
        let mixed = u64::from(stamp.sender) * 31 + u64::from(stamp.sequence);
        let start = (mixed * self.step % self.starts) as usize;
        &self.pattern[start..start + self.size - HEADER_LEN]
    }
}

/// Returns `len` bytes of chat messages as JSON, one per line.
fn json(rng: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let mut text = String::with_capacity(len + 512);
    while text.len() < len {
        let (id, user, time) = (rng.u32(..), rng.u16(..1000), rng.u32(..1_000_000));
        text.push_str(&format!(
            r#"{{"id":{id},"room":"bench","user":"user{user}","at":1700{time:06},"text":""#
        ));
        for _ in 0..rng.usize(3..15) {
            text.push_str(WORDS[rng.usize(..WORDS.len())]);
            text.push(' ');
        }
        text.push_str("\"}\n");
    }
    text.truncate(len);
    text.into_bytes()
}

/// Returns whether `text`, which is the inside of a JSON string, begins with `bytes`.
fn begins_escaped(mut text: &[u8], bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| {
        let next = unescape(text);
        text = next.map_or(&[], |(_, rest)| rest);
        next.is_some_and(|(unescaped, _)| unescaped == byte)
    })
}

/// Returns the first character of the inside of a JSON string, and the rest (RFC 8259 §7). `None` for a character that is
/// not ASCII, a wrong escape, or an empty string.
fn unescape(text: &[u8]) -> Option<(u8, &[u8])> {
    let symbol = match *text {
        [b'\\', b'u', a, b, c, d, ..] => {
            let digits = [a, b, c, d];
            let number = u32::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
            return Some((u8::try_from(number).ok()?, &text[6..]));
        }
        [b'\\', b'n', ..] => b'\n',
        [b'\\', b'r', ..] => b'\r',
        [b'\\', b't', ..] => b'\t',
        [b'\\', symbol @ (b'"' | b'\\' | b'/'), ..] => symbol,
        [b'\\', ..] | [] => return None,
        [symbol, ..] => return Some((symbol, &text[1..])),
    };
    Some((symbol, &text[2..]))
}

/// Writes the lowest bits of `number` into `places` as base64 digits, six bits per digit.
fn write_number(places: &mut [u8], mut number: u64) {
    for place in places.iter_mut().rev() {
        *place = DIGITS[(number & 63) as usize];
        number >>= 6;
    }
}

/// Returns the number that [`write_number`] wrote. Bit 7 of the second value is set if a byte is not a base64 digit.
fn read_number(places: &[u8]) -> (u64, u8) {
    places.iter().fold((0, 0), |(number, faults), &place| {
        let value = VALUES[usize::from(place)];
        (number << 6 | u64::from(value & 63), faults | value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { sender: 999_999, sequence: (1 << 30) - 1, time_ns: (1 << 48) - 64 };

    #[test]
    fn a_message_comes_back_as_it_was_written() {
        for (size, filler) in
            [MIN_SIZE, 64, 5000].into_iter().flat_map(|size| [(size, Filler::Random), (size, Filler::Json)])
        {
            let messages = Messages::new(77, size, filler);
            let mut out = b"before".to_vec();
            for stamp in [STAMP, Stamp { sender: 0, sequence: 0, time_ns: 0 }] {
                messages.write(stamp, &mut out);
                assert_eq!(out.len(), size);
                assert!(out.is_ascii());
                assert_eq!(messages.read(&out), Reading::Intact(stamp));
            }
        }
    }

    #[test]
    fn times_are_rounded_up() {
        let messages = Messages::new(77, MIN_SIZE, Filler::Random);
        let mut out = Vec::new();
        messages.write(Stamp { time_ns: 65, ..STAMP }, &mut out);
        assert_eq!(messages.read(&out), Reading::Intact(Stamp { time_ns: 128, ..STAMP }));
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        for filler in [Filler::Random, Filler::Json] {
            let messages = Messages::new(77, 64, filler);
            let mut out = Vec::new();
            messages.write(STAMP, &mut out);
            for at in 0..out.len() {
                let mut altered = out.clone();
                altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
                let expected = if at < 2 { Reading::Foreign } else { Reading::Corrupt };
                assert_eq!(messages.read(&altered), expected, "byte {at}");
            }
            assert_eq!(messages.read(&out[..63]), Reading::Corrupt);
            assert_eq!(messages.read(b"* welcome"), Reading::Foreign);
            assert_eq!(Messages::new(78, 64, filler).read(&out), Reading::Foreign);
        }
    }

    #[test]
    fn a_message_is_found_inside_what_a_server_wraps_around_it() {
        for filler in [Filler::Random, Filler::Json] {
            let messages = Messages::new(77, 300, filler);
            let mut out = Vec::new();
            messages.write(STAMP, &mut out);
            let text = String::from_utf8(out.clone()).expect("messages are ASCII");
            let escaped = serde_json::to_string(&text).expect("a text has a JSON form");
            let unusual = escaped.replace("\\\"", "\\u0022").replace("\\n", "\\u000a");
            for wrapped in [
                text.clone(),
                format!("* {text}"),
                format!("{}{text}", &text[..5]),
                format!(r#"{{"room":"bench","data":{escaped}}}"#),
                format!(r#"{{"data":{unusual}}}"#),
            ] {
                assert_eq!(messages.find(wrapped.as_bytes()), Reading::Intact(STAMP), "{wrapped}");
                let cut = &wrapped.as_bytes()[..wrapped.len() - 5];
                assert_eq!(messages.find(cut), Reading::Corrupt, "{wrapped}");
            }
            let altered = text.replacen(&text[200..203], "\u{7f}..", 1);
            assert_eq!(messages.find(altered.as_bytes()), Reading::Corrupt);
            for foreign in ["", "* Ada: hello", &text[..19], &text[1..]] {
                assert_eq!(messages.find(foreign.as_bytes()), Reading::Foreign, "{foreign}");
            }
        }
    }

    #[test]
    fn no_json_repeats_within_a_compressors_window() {
        for size in [64, 300, 2000] {
            let messages = Messages::new(77, size, Filler::Json);
            let stamp = |sequence| Stamp { sender: 3, sequence, time_ns: 0 };
            let start = |sequence| messages.filler(stamp(sequence)).as_ptr().addr();
            let window = (32 << 10) / size as u32 + 1;
            for sequence in 1..=window {
                assert!(start(0).abs_diff(start(sequence)) >= size, "{sequence} of {size} bytes");
            }
        }
    }
}
