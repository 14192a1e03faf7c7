//! Tests of negotiation, and of compression and decompression against a plain use of the compression library. RFC 7692

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::protocol::frame::{CloseCode, Failure, Opcode, encode_header, first};
use crate::protocol::tests::config;

/// A sender of compressed messages with one engine for the whole connection, as the RFC describes senders.
struct Sender {
    engine: Compress,
    takeover: bool,
}

impl Sender {
    fn new(window_bits: u8, takeover: bool) -> Self {
        Self { engine: Compress::new_with_window_bits(Compression::best(), false, window_bits), takeover }
    }

    /// Compresses a message as RFC 7692 §7.2.1 describes.
    fn compress(&mut self, message: &[u8]) -> Vec<u8> {
        if !self.takeover {
            self.engine.reset();
        }
        let mut out = Vec::with_capacity(message.len() + message.len() / 8 + 100);
        self.engine.compress_vec(message, &mut out, FlushCompress::Sync).expect("compresses");
        if message.is_empty() {
            // RFC 7692 §7.2.3.6: an empty message; the engine has nothing to flush.
            return vec![0x00];
        }
        assert!(out.ends_with(&TAIL), "all fits");
        out.truncate(out.len() - TAIL.len());
        out
    }
}

/// A receiver of compressed messages with one engine for the whole connection.
struct Receiver(Decompress);

impl Receiver {
    fn read(&mut self, compressed: &[u8]) -> Vec<u8> {
        let frame = first(compressed).expect("a frame");
        assert_eq!(frame.whole.len(), compressed.len());
        if !frame.rsv1 {
            return frame.payload.to_vec();
        }
        let mut out = Vec::with_capacity(1 << 20);
        let input = [frame.payload, &TAIL].concat();
        self.0.decompress_vec(&input, &mut out, FlushDecompress::Sync).expect("DEFLATE");
        out
    }
}

fn text(payload: &[u8]) -> Vec<u8> {
    [encode_header(Opcode::Text, true, false, payload.len()).as_bytes(), payload].concat()
}

fn agreed(offers: &[&str], policy: OfferPolicy) -> Option<String> {
    negotiate(offers.iter().map(|offer| offer.as_bytes()), policy).map(|agreement| agreement.to_string())
}

const SHARED: OfferPolicy = OfferPolicy { server_takeover: false, context_memory: 1 << 20 };
const DEDICATED: OfferPolicy = OfferPolicy { server_takeover: true, context_memory: 1 << 20 };

// RFC 7692 §7.1: the answer to each offer.
#[test]
fn an_offer_is_answered_with_the_parameters_that_both_sides_allow() {
    for (offers, shared, dedicated) in [
        (&["permessage-deflate"][..], "; server_no_context_takeover", ""),
        (
            &["permessage-deflate; client_max_window_bits"],
            "; server_no_context_takeover; client_max_window_bits=12",
            "; client_max_window_bits=12",
        ),
        (
            &["permessage-deflate; client_max_window_bits=10; server_max_window_bits=9"],
            "; server_no_context_takeover; server_max_window_bits=9; client_max_window_bits=10",
            "; server_max_window_bits=9; client_max_window_bits=10",
        ),
        (
            &["permessage-deflate ;client_no_context_takeover ; server_max_window_bits = \"15\""],
            "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
            "; client_no_context_takeover; server_max_window_bits=15",
        ),
        (
            &[
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
            ],
            "; server_no_context_takeover; client_no_context_takeover",
            "; server_no_context_takeover; client_no_context_takeover",
        ),
    ] {
        assert_eq!(
            agreed(offers, SHARED).as_deref(),
            Some(&*format!("permessage-deflate{shared}")),
            "{offers:?}"
        );
        assert_eq!(
            agreed(offers, DEDICATED).as_deref(),
            Some(&*format!("permessage-deflate{dedicated}")),
            "{offers:?}"
        );
    }
}

// RFC 7692 §7.1: an offer with an unknown, wrong or repeated parameter is declined, and the next offer is considered.
#[test]
fn invalid_offers_are_declined_one_by_one() {
    let wrong = [
        "x-webkit-deflate-frame",
        "permessage-deflated",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=08",
        "permessage-deflate; server_max_window_bits=\"10",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=9; client_max_window_bits",
        "permessage-deflate; x=\"a,permessage-deflate\"",
        "permessage-deflate;",
        "",
    ];
    for offer in wrong {
        assert_eq!(agreed(&[offer], SHARED), None, "{offer}");
        let several = format!("{offer}, permessage-deflate; client_no_context_takeover");
        // An unclosed quotation mark hides the offers behind it in the line.
        if offer.matches('"').count() != 1 {
            assert!(agreed(&[&several], SHARED).is_some(), "{several}");
        }
        assert!(agreed(&[offer, "permessage-deflate"], SHARED).is_some(), "{offer}");
    }
    let many = ["a, ".repeat(1_000).as_str(), "permessage-deflate"].concat();
    assert_eq!(agreed(&[&many], SHARED), None, "who offers too much gets nothing");
}

#[test]
fn a_connection_over_the_memory_limit_gets_no_context_takeover() {
    let terms = |context_memory| OfferPolicy { server_takeover: true, context_memory };
    let cases = [
        (36_864, "permessage-deflate"),
        (36_863, "permessage-deflate; server_no_context_takeover"),
        (32_767, "permessage-deflate; client_no_context_takeover"),
        (4_095, "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
    ];
    for (memory, answer) in cases {
        assert_eq!(agreed(&["permessage-deflate"], terms(memory)).as_deref(), Some(answer), "{memory}");
        let agreement = negotiate([&b"permessage-deflate"[..]].into_iter(), terms(memory)).expect("agreed");
        assert!(agreement.context_memory() <= memory);
    }
}

// RFC 7692 §7.2.3.1, §7.2.3.2 and §7.2.3.4: the example messages are decompressed.
#[test]
fn the_examples_of_the_rfc() {
    let mut inflater = Inflater::default();
    let mut window = Window::new(15);
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(inflater.inflate(&hello, Some(&mut window), 5), Ok(&b"Hello"[..]));
    // The second message refers to the first message in the window.
    assert_eq!(inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], Some(&mut window), 5), Ok(&b"Hello"[..]));
    assert_eq!(inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], None, 5), Err(Failure::DEFLATE));
    let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    assert_eq!(inflater.inflate(&stored, None, 5), Ok(&b"Hello"[..]));
    let is_final = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    assert_eq!(inflater.inflate(&is_final, None, 5), Ok(&b"Hello"[..]));
    let two_blocks = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    assert_eq!(inflater.inflate(&two_blocks, None, 5), Ok(&b"Hello"[..]));
    assert_eq!(inflater.inflate(&[0x00], None, 5), Ok(&b""[..]), "§7.2.3.6: an empty message");
}

#[test]
fn a_decompression_bomb_costs_no_more_memory_than_the_longest_message() {
    let bomb = Sender::new(15, false).compress(&vec![0; 100 << 20]);
    assert!(bomb.len() < 110_000);
    let mut inflater = Inflater::default();
    for max in [0, 1, 1_000, 1 << 20] {
        assert_eq!(inflater.inflate(&bomb, None, max), Err(Failure::TOO_BIG), "{max}");
        assert!(inflater.capacity() <= max.max(256 << 10) + 1, "{} for {max}", inflater.capacity());
    }
    assert_eq!(Failure::TOO_BIG.code, CloseCode::TOO_BIG);
}

#[test]
fn a_message_of_the_maximum_length_passes_and_one_byte_more_fails() {
    let message = vec![7; 100_000];
    let compressed = Sender::new(15, false).compress(&message);
    let mut inflater = Inflater::default();
    assert_eq!(inflater.inflate(&compressed, None, 100_000).map(<[u8]>::len), Ok(100_000));
    assert_eq!(inflater.inflate(&compressed, None, 99_999), Err(Failure::TOO_BIG));
}

#[test]
fn too_many_final_blocks_fail() {
    let mut inflater = Inflater::default();
    let blocks = |count| [0x03, 0x00].repeat(count);
    assert_eq!(inflater.inflate(&blocks(8), None, 10), Ok(&b""[..]));
    assert_eq!(inflater.inflate(&blocks(9), None, 10), Err(Failure::DEFLATE));
}

#[test]
fn a_short_or_incompressible_message_is_sent_plain() {
    let mut deflater = Deflater::new(10);
    let noise: Vec<u8> = (0..200_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for payload in [&b"aaaaaaaaa"[..], b"", &noise] {
        assert_eq!(deflater.compress(&text(payload)), text(payload));
    }
    let long = text(&[b'a'; 10_000]);
    let compressed = deflater.compress(&long).to_vec();
    assert!(compressed.len() < 100 && compressed[0] == 0xc1, "{compressed:02x?}");
    assert_eq!(deflater.compress(&compressed), compressed, "compressed once is enough");
    let ping = [&[0x89, 100][..], &[b'a'; 100]].concat();
    assert_eq!(deflater.compress(&ping), ping);
}

#[test]
fn a_window_of_256_bytes_is_more_than_the_engine_can_keep_to() {
    let (mut deflater, frame) = (Deflater::new(10), text(&[b'a'; 1_000]));
    assert_eq!(deflater.compress_within(&frame, &mut Window::new(8), true), frame);
}

/// Generates messages like those of a chat: repeated words, and sometimes random bytes.
fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let words = prop::sample::select(vec!["hello ", "world ", "uproar ", "{\"user\":17,", "\"text\":", "ä "]);
    let chat = vec(words, 0..200).prop_map(|words| words.concat().into_bytes());
    let noise = vec(any::<u8>(), 0..3_000);
    vec(prop_oneof![4 => chat, 1 => noise], 1..12)
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn what_a_client_compresses_is_inflated(messages in messages(), bits in 9..=15_u8, takeover: bool) {
        let mut sender = Sender::new(bits, takeover);
        let (mut inflater, mut window) = (Inflater::default(), takeover.then(|| Window::new(bits)));
        for message in &messages {
            let compressed = sender.compress(message);
            prop_assert!(compressed.len() <= Inflater::most_compressed(message.len()));
            let inflated = inflater.inflate(&compressed, window.as_mut(), message.len());
            prop_assert_eq!(inflated, Ok(&message[..]));
        }
        prop_assert!(window.is_none_or(|window| window.memory() <= 1 << bits));
    }

    #[test]
    fn what_is_compressed_for_all_can_be_read_alone(messages in messages()) {
        let mut deflater = Deflater::new(20);
        for message in &messages {
            let compressed = deflater.compress(&text(message)).to_vec();
            prop_assert!(compressed.len() <= text(message).len());
            prop_assert_eq!(&Receiver(Decompress::new(false)).read(&compressed), message);
        }
    }

    #[test]
    fn what_is_compressed_for_one_is_read_by_one(messages in messages(), bits in 9..=15_u8, takeover: bool) {
        let (mut deflater, mut window) = (Deflater::new(20), Window::new(bits));
        let mut receiver = Receiver(Decompress::new_with_window_bits(false, bits));
        for message in &messages {
            let compressed = deflater.compress_within(&text(message), &mut window, takeover).to_vec();
            if !takeover {
                receiver = Receiver(Decompress::new_with_window_bits(false, bits));
            }
            prop_assert_eq!(&receiver.read(&compressed), message);
        }
        prop_assert!(window.memory() <= 1 << bits);
        prop_assert!(takeover || window.memory() == 0);
    }

    #[test]
    fn garbage_is_refused_or_short(bytes in vec(any::<u8>(), 0..400), max in 0..5_000_usize) {
        let mut inflater = Inflater::default();
        let mut window = Window::new(12);
        for _ in 0..2 {
            match inflater.inflate(&bytes, Some(&mut window), max) {
                Ok(content) => prop_assert!(content.len() <= max),
                Err(failure) => prop_assert!(failure == Failure::DEFLATE || failure == Failure::TOO_BIG),
            }
        }
    }
}

/// Checks messages that contain the bytes of `TAIL`. Found by fuzzing: the output buffer of a message that compression
/// does not shorten ended right behind these bytes.
#[test]
fn a_message_may_contain_the_bytes_of_the_tail() {
    let noise: Vec<u8> =
        (1..=60_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for before in 1..50 {
        for behind in 0..10 {
            let message = [&noise[..before], &TAIL, &noise[50..50 + behind]].concat();
            let frame = text(&message);
            let compressed = Deflater::new(1).compress(&frame).to_vec();
            assert_eq!(Receiver(Decompress::new(false)).read(&compressed), message, "{before}, {behind}");
        }
    }
}
