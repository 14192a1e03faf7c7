//! Signatures: HMAC-SHA256 with an application's secret, in hexadecimal digits.

use ring::hmac::{HMAC_SHA256, Key};

/// Returns whether `signature` is the signature of `message`. Takes equally long for all signatures of the right length.
pub(super) fn verify(secret: &str, message: &str, signature: &str) -> bool {
    let key = Key::new(HMAC_SHA256, secret.as_bytes());
    let bytes = bytes_of_hex::<32>(signature);
    bytes.is_some_and(|bytes| ring::hmac::verify(&key, message.as_bytes(), &bytes).is_ok())
}

/// Returns the `N` bytes that twice as many hexadecimal digits stand for. `None` for another text.
pub(super) fn bytes_of_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_of_pushers_documents_is_verified() {
        let (secret, message) = ("7ad3773142a6692b25b8", "1234.1234:private-foobar");
        let signature = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4";
        assert!(verify(secret, message, signature));
        assert!(verify(secret, message, &signature.to_uppercase()));
        assert!(!verify("other", message, signature));
        assert!(!verify(secret, "1234.1234:private-foobaz", signature));
        let (short, long) = (&signature[1..], format!("{signature}0"));
        let (other, no_hex) = (signature.replace('5', "6"), signature.replace('5', "g"));
        for wrong in ["", short, &long, &other, &no_hex] {
            assert!(!verify(secret, message, wrong), "{wrong}");
        }
    }
}
