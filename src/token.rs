//! Verifies the access tokens of clients: JWT (RFC 7519) with HS256 (RFC 7518 §3.2).
//!
//! The crate `jsonwebtoken` leaves cryptography to a provider. Its own providers depend on RSA and elliptic curves, so
//! this module has a provider for HMAC with SHA-256 only.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result, new_error};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, signature};
use serde::Deserialize;
use sha2::Sha256;

use crate::names::canonical;

/// Tolerated difference between the clocks of the token's issuer and of the server, in seconds.
const LEEWAY_SECONDS: u64 = 10;

/// The claims of a client's access token, after verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    user: Option<String>,
    /// The canonical names of the rooms that the client may join. `None` allows all rooms.
    rooms: Option<Vec<String>>,
}

impl Claims {
    /// Returns the client's name from the claim `sub`, or `None` if the token has no such claim.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Returns whether the client may join `room`: the claim `rooms` contains this name or is missing.
    ///
    /// Room names are compared in canonical form: `é` as one character equals `e` with a combining accent.
    pub fn may_join(&self, room: &str) -> bool {
        let room = canonical(room);
        self.rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|allowed| *allowed == room))
    }
}

/// A verifier of access tokens. Its `Debug` output does not show the secret.
pub(crate) struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

/// The reason why an access token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// The token is not a JWT, uses another algorithm than HS256, or has a claim that is missing or of the wrong type.
    Malformed,
    /// The token was signed with another secret, or was changed after signing.
    Signature,
    /// The token has expired: the time in its claim `exp` is past.
    Expired,
    /// The token is not valid yet: the time in its claim `nbf` is in the future.
    TooEarly,
    /// The token has the claim `aud`, so the token is meant for another server. RFC 7519 §4.1.3
    Audience,
}

/// The claims of an access token as parsed from JSON.
#[derive(Deserialize)]
struct RawClaims {
    /// Expiry of the token in seconds since 1970, with an optional fraction: a NumericDate of RFC 7519 §2.
    exp: f64,
    sub: Option<String>,
    rooms: Option<Vec<String>>,
}

impl Verifier {
    /// Creates a verifier of tokens signed with `secret`.
    pub(crate) fn new(secret: &[u8]) -> Self {
        // `install_default` fails if a crypto provider is installed already: this one, or a provider of the embedding
        // program.
        let _ = PROVIDER.install_default();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        Self { key: DecodingKey::from_secret(secret), validation }
    }

    /// Verifies `token`. Returns its claims and the time until the token expires, clock tolerance included.
    pub(crate) fn verify(&self, token: &[u8]) -> std::result::Result<(Claims, Duration), BadToken> {
        let raw: RawClaims =
            decode(token, &self.key, &self.validation).map_err(|error| BadToken::of(error.kind()))?.claims;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let end = Duration::try_from_secs_f64(raw.exp + LEEWAY_SECONDS as f64).unwrap_or(Duration::MAX);
        let rooms = raw.rooms.map(|rooms| rooms.iter().map(|room| canonical(room).into_owned()).collect());
        Ok((Claims { user: raw.sub, rooms }, end.saturating_sub(now)))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl BadToken {
    fn of(error: &ErrorKind) -> Self {
        match error {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::ExpiredSignature => Self::Expired,
            ErrorKind::ImmatureSignature => Self::TooEarly,
            ErrorKind::InvalidAudience => Self::Audience,
            _ => Self::Malformed,
        }
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(new_error(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: Hs256::verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// The verifier of HS256 signatures: HMAC with SHA-256, keyed with the secret.
struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
        if *algorithm != Algorithm::HS256 {
            return Err(new_error(ErrorKind::UnsupportedAlgorithm));
        }
        let begun = Hmac::new_from_slice(key.try_get_as_bytes()?);
        Ok(Box::new(Self(begun.map_err(|_| new_error(ErrorKind::InvalidKeyFormat))?)))
    }
}

impl signature::Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], given: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        // `verify_slice` compares the signatures in constant time.
        self.0.clone().chain_update(message).verify_slice(given).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

    /// Returns a signed token with this header and these claims, built as in RFC 7515 §3.1.
    fn token(header: &str, claims: &str, secret: &[u8]) -> String {
        let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length").chain_update(&text).finalize();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.into_bytes()))
    }

    fn verify(header: &str, claims: &str) -> std::result::Result<Claims, BadToken> {
        let verified = Verifier::new(SECRET).verify(token(header, claims, SECRET).as_bytes());
        verified.map(|(claims, _)| claims)
    }

    const HS256: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

    /// Verifies the example token of RFC 7515, appendix A.1, with its key.
    #[test]
    fn the_example_of_the_rfc_is_understood_and_expired() {
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
                     eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
                     dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let mut verifier = Verifier::new(&URL_SAFE_NO_PAD.decode(key).expect("base64"));
        assert_eq!(verifier.verify(token.as_bytes()), Err(BadToken::Expired));
        verifier.validation.validate_exp = false;
        let (claims, left) = verifier.verify(token.as_bytes()).expect("it is good otherwise");
        assert_eq!((claims, left), (Claims { user: None, rooms: None }, Duration::ZERO));
        assert_eq!(Verifier::new(SECRET).verify(token.as_bytes()), Err(BadToken::Signature));
    }

    #[test]
    fn claims_name_the_user_and_the_rooms() {
        let claims = verify(HS256, r#"{"exp":99999999999.5,"sub":"ada","rooms":["garden","lawn"]}"#);
        let claims = claims.expect("good");
        assert_eq!(claims.user(), Some("ada"));
        assert!(claims.may_join("garden") && claims.may_join("lawn") && !claims.may_join("Garden"));
        let claims = verify(HS256, r#"{"exp":99999999999,"rooms":["cafe\u0301","été"]}"#).expect("good");
        assert!(claims.may_join("café") && claims.may_join("cafe\u{301}") && !claims.may_join("cafe"));
        assert!(claims.may_join("été") && claims.may_join("e\u{301}te\u{301}"));
        let claims = verify(HS256, r#"{"exp":99999999999}"#).expect("good");
        assert!(claims.user().is_none() && claims.may_join("anywhere"));
        let claims = verify(HS256, r#"{"exp":1e18,"rooms":[],"nbf":0,"iss":"x"}"#).expect("good");
        assert!(!claims.may_join("lobby"));
    }

    #[test]
    fn each_mistake_has_its_name() {
        let good = r#"{"exp":99999999999}"#;
        for (header, claims, expected) in [
            (HS256, r#"{"exp":1}"#, BadToken::Expired),
            (HS256, r#"{"exp":99999999999,"nbf":99999999998}"#, BadToken::TooEarly),
            (HS256, r#"{"exp":99999999999,"aud":"else"}"#, BadToken::Audience),
            (HS256, "{}", BadToken::Malformed),
            (HS256, r#"{"exp":"soon"}"#, BadToken::Malformed),
            (HS256, r#"{"exp":-1}"#, BadToken::Malformed),
            (HS256, r#"{"exp":99999999999,"nbf":"x"}"#, BadToken::Malformed),
            (HS256, r#"{"exp":99999999999,"sub":7}"#, BadToken::Malformed),
            (HS256, r#"{"exp":99999999999,"rooms":"all"}"#, BadToken::Malformed),
            (HS256, "no claims", BadToken::Malformed),
            (r#"{"alg":"none"}"#, good, BadToken::Malformed),
            (r#"{"alg":"HS512"}"#, good, BadToken::Malformed),
            (r#"{"alg":"RS256"}"#, good, BadToken::Malformed),
            ("no header", good, BadToken::Malformed),
        ] {
            assert_eq!(verify(header, claims), Err(expected), "{header} {claims}");
        }
        let verifier = Verifier::new(SECRET);
        let right = token(HS256, good, SECRET);
        let (unsigned, _) = right.rsplit_once('.').expect("three parts");
        for (text, expected) in [
            (token(HS256, good, b"another secret"), BadToken::Signature),
            (format!("{unsigned}."), BadToken::Signature),
            (format!("{right}.x"), BadToken::Malformed),
            (format!("{right}="), BadToken::Malformed),
            (unsigned.into(), BadToken::Malformed),
            (String::new(), BadToken::Malformed),
            ("..".into(), BadToken::Malformed),
            ("ä.ö.ü".into(), BadToken::Malformed),
        ] {
            assert_eq!(verifier.verify(text.as_bytes()), Err(expected), "{text}");
        }
    }

    #[test]
    fn nothing_shows_the_secret() {
        assert_eq!(format!("{:?}", Verifier::new(SECRET)), "Verifier");
    }
}
