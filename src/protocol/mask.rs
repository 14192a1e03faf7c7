//! Removes the mask from client payloads. RFC 6455 §5.3

/// Minimum payload length in bytes for AVX2 and AVX-512. For shorter payloads, the check of the CPU's features costs
/// more time than the wider registers save.
#[cfg(target_arch = "x86_64")]
const WIDE_LEN: usize = 128;

/// Applies the masking key `key` to `data` in place. `data` begins at the first byte of a payload.
///
/// Masking and unmasking are the same operation.
#[cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "what is compiled for a processor's wider registers may run on no other")
)]
pub fn unmask(data: &mut [u8], key: [u8; 4]) {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= WIDE_LEN {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has the features that the function is compiled for.
            return unsafe { unmask_avx512(data, key) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has the features that the function is compiled for.
            return unsafe { unmask_avx2(data, key) };
        }
    }
    unmask_words(data, key);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn unmask_avx512(data: &mut [u8], key: [u8; 4]) {
    unmask_words(data, key);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn unmask_avx2(data: &mut [u8], key: [u8; 4]) {
    unmask_words(data, key);
}

/// Applies the masking key `key` to `data` in chunks of a fixed size. So the compiler makes vector instructions as wide
/// as the CPU features of the caller allow.
#[inline(always)]
fn unmask_words(data: &mut [u8], key: [u8; 4]) {
    let key = u32::from_ne_bytes(key);
    let wide = u64::from(key) << 32 | u64::from(key);
    let (chunks, tail) = data.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    let (chunks, tail) = tail.as_chunks_mut::<4>();
    for chunk in chunks {
        *chunk = (u32::from_ne_bytes(*chunk) ^ key).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.to_ne_bytes()) {
        *byte ^= key;
    }
}

/// Applies the masking key `key` to `data` in place. `data` is the part of a payload that begins at byte `offset`.
pub fn unmask_at(data: &mut [u8], mut key: [u8; 4], offset: usize) {
    key.rotate_left(offset % 4);
    unmask(data, key);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{config, naive};
    use proptest::collection::vec;
    use proptest::prelude::*;

    // RFC 6455 §5.7: a masked "Hello".
    #[test]
    fn the_example_of_the_rfc() {
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        unmask(&mut payload, [0x37, 0xfa, 0x21, 0x3d]);
        assert_eq!(&payload, b"Hello");
    }

    proptest! {
        #![proptest_config(config(256))]

        #[test]
        fn agrees_with_the_naive_twin(
            bytes in vec(any::<u8>(), 0..600),
            key: [u8; 4],
            start in 0..32_usize,
            offset in 0..9_usize,
        ) {
            let start = start.min(bytes.len());
            let mut expected = bytes.clone();
            naive::unmask(&mut expected[start..], key, offset);
            let mut actual = bytes;
            unmask_at(&mut actual[start..], key, offset);
            prop_assert_eq!(actual, expected);
        }

        #[test]
        fn a_payload_in_two_parts_equals_the_whole(bytes in vec(any::<u8>(), 0..100), key: [u8; 4], cut in 0..100_usize) {
            let mut whole = bytes.clone();
            unmask(&mut whole, key);
            let mut parts = bytes;
            let cut = cut.min(parts.len());
            unmask(&mut parts[..cut], key);
            unmask_at(&mut parts[cut..], key, cut);
            prop_assert_eq!(parts, whole);
        }
    }
}
