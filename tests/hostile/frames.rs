//! Attacks with invalid frames and with compressed messages.

use flate2::{Compress, Compression, FlushCompress};
use uproar::config::BackendName;

use crate::harness::{chat, run_attack};
use crate::support::TestServer;
use crate::support::raw::{CLOSE, RawClient, TEXT, frame, upgrade_request_with};

on_both_backends!(
    frames_with_huge_lengths,
    unmasked_frames,
    reserved_bits_and_opcodes,
    invalid_utf8_fragmented_anywhere,
    compression_bombs,
);

/// First byte of the first fragment of a text message.
const FIRST: u8 = 0x01;
/// First byte of a middle fragment of a message.
const MIDDLE: u8 = 0x00;
/// First byte of the last fragment of a message.
const LAST: u8 = 0x80;

/// Sends each attack `rounds` times, each time on a new connection. Asserts that the server closes with `code`.
fn expect_close_code(server: &TestServer, rounds: usize, attacks: &[Vec<u8>], code: u16) {
    for _ in 0..rounds {
        let mut open: Vec<_> =
            attacks.iter().map(|_| RawClient::open(server.address(), "/room/cell")).collect();
        for (raw, attack) in open.iter_mut().zip(attacks) {
            raw.send(attack);
        }
        for (raw, attack) in open.iter_mut().zip(attacks) {
            assert_eq!(receive_close_code(raw), Some(code), "{attack:02x?}");
        }
    }
}

/// Receives frames up to the close frame. Returns the close code. Skips messages and pings before the close frame.
fn receive_close_code(raw: &mut RawClient) -> Option<u16> {
    let (_, payload) = std::iter::repeat_with(|| raw.receive_frame()).find(|(first, _)| *first == CLOSE)?;
    payload.first_chunk().map(|code| u16::from_be_bytes(*code))
}

fn frames_with_huge_lengths(backend: BackendName) {
    run_attack("frames of 2^62 bytes", &chat(backend), |server| {
        let header = |len: u64| [&[TEXT, 0xff][..], &len.to_be_bytes(), &[1, 2, 3, 4]].concat();
        // Lengths above the message limit are too long. RFC 6455 §5.2 forbids lengths with their highest bit set.
        let too_long = [header(1 << 62), header((1 << 63) - 1), header((1 << 20) + 1)];
        expect_close_code(server, 60, &too_long, 1009);
        expect_close_code(server, 60, &[header(1 << 63), header(u64::MAX)], 1002);
    });
}

fn unmasked_frames(backend: BackendName) {
    run_attack("unmasked frames", &chat(backend), |server| {
        let unmasked: Vec<_> = [0x81, 0x82, 0x01, 0x88, 0x89, 0x8a]
            .map(|first| vec![first, 3, b'a', b'b', b'c'])
            .into_iter()
            .chain([vec![0x81, 126, 1, 0], vec![0x81, 0]])
            .collect();
        expect_close_code(server, 40, &unmasked, 1002);
    });
}

fn reserved_bits_and_opcodes(backend: BackendName) {
    run_attack("reserved bits", &chat(backend), |server| {
        let bits = [0x40, 0x20, 0x10, 0x70].into_iter().flat_map(|bits| [TEXT | bits, 0x89 | bits]);
        let opcodes = [0x83, 0x84, 0x85, 0x86, 0x87, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f];
        let attacks: Vec<_> = bits.chain(opcodes).map(|first| frame(first, b"x")).collect();
        expect_close_code(server, 20, &attacks, 1002);
    });
}

fn invalid_utf8_fragmented_anywhere(backend: BackendName) {
    run_attack("invalid UTF-8 at every cut", &chat(backend), |server| {
        let invalid: [&[u8]; 9] = [
            b"ok \xff",
            b"ok \xc0\xaf",
            b"\xe0\x80\xaf ok",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\x80",
            b"ok \xf0\x9f\x91",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        ];
        let mut attacks = Vec::new();
        for bytes in invalid {
            attacks.push(frame(TEXT, bytes));
            for cut in 0..=bytes.len() {
                let (head, tail) = bytes.split_at(cut);
                attacks.push([frame(FIRST, head), frame(LAST, tail)].concat());
                attacks.push([frame(FIRST, head), frame(MIDDLE, b""), frame(LAST, tail)].concat());
            }
        }
        // Messages that end within a UTF-8 character.
        let whole = "日本 👋";
        for cut in (1..whole.len()).filter(|cut| !whole.is_char_boundary(*cut)) {
            attacks.push(frame(TEXT, &whole.as_bytes()[..cut]));
        }
        expect_close_code(server, 3, &attacks, 1007);
    });
}

/// Compression bombs: messages of 64 KiB that decompress to 64 MiB of zeros.
fn compression_bombs(backend: BackendName) {
    let mut bomb = Vec::with_capacity(1 << 20);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(&vec![0; 64 << 20], &mut bomb, FlushCompress::Sync).expect("compresses");
    let bomb = frame(TEXT | 0x40, &bomb[..bomb.len() - 4]);
    let request = upgrade_request_with("/room/cell", &["Sec-WebSocket-Extensions: permessage-deflate"]);
    run_attack("compression bombs", &chat(backend), |server| {
        for _ in 0..60 {
            let mut raw = RawClient::connect(server.address());
            raw.send(request.as_bytes());
            raw.expect_upgrade();
            raw.try_send(&bomb);
            assert_eq!(receive_close_code(&mut raw), Some(1009));
        }
    });
}
