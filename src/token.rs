//! Verifies the access tokens of clients: JWT (RFC 7519) in the compact form of JWS (RFC 7515), with HS256, RS256, ES256
//! and EdDSA (RFC 7518 §3, RFC 8037 §3.1).

mod claims;
mod keys;
mod remote;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac::{HMAC_SHA256, Key, verify};
use serde::Deserialize;

pub use claims::Claims;
use claims::RawClaims;
pub(crate) use keys::KeySet;
pub(crate) use remote::{RemoteKeys, Wake};

/// Tolerated difference between the clocks of the token's issuer and of the server, in seconds.
const LEEWAY_SECONDS: u64 = 10;

/// A verifier of access tokens. Its `Debug` output does not show the secret.
#[derive(Default)]
pub(crate) struct Verifier {
    secret: Option<Key>,
    keys: Option<Keys>,
    /// The issuer that tokens must name. `None` takes tokens of every issuer.
    issuer: Option<String>,
    /// The audiences of which tokens must name one. Empty: tokens must name none.
    audiences: Vec<String>,
}

/// The public keys of an identity provider.
#[derive(Clone, Debug)]
pub(crate) enum Keys {
    /// Keys from a file.
    Fixed(Arc<KeySet>),
    /// Keys that are fetched from a URL.
    Remote(Arc<RemoteKeys>),
}

/// The reason why an access token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadToken {
    /// The token is not a JWT, or has a claim that is missing or of the wrong type.
    Malformed,
    /// The token's algorithm is none of those for which the server has a secret or keys.
    Algorithm,
    /// The server has no key with the name in the token's header (`kid`), or cannot choose one without a name.
    Key,
    /// The server does not have the key yet, and is fetching the keys of the identity provider.
    Fetching,
    /// The token was signed with another secret or key, or was changed after signing.
    Signature,
    /// The token has expired: the time in its claim `exp` is past.
    Expired,
    /// The token is not valid yet: the time in its claim `nbf` is in the future.
    TooEarly,
    /// The token has the claim `aud`, but the server has no audience. RFC 7519 §4.1.3
    Audience,
    /// The claim `aud` names none of the server's audiences, or is missing.
    OtherAudience,
    /// The claim `iss` is not the server's issuer, or is missing.
    Issuer,
    /// The claim `sub` cannot be an identity.
    Identity,
}

/// A signature algorithm that the server supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Hs256,
    Rs256,
    Es256,
    EdDsa,
}

/// The header of a token. RFC 7515 §4.1
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that a recipient must understand. The server understands none. RFC 7515 §4.1.11
    crit: Option<serde_json::Value>,
}

impl Verifier {
    /// Creates a verifier of tokens that are signed with `secret`, with one of `keys`, or with either.
    pub(crate) fn new(secret: Option<&[u8]>, keys: Option<Keys>) -> Self {
        let secret = secret.map(|secret| Key::new(HMAC_SHA256, secret));
        Self { secret, keys, ..Self::default() }
    }

    /// Requires this issuer, if one is given, and one of these audiences, unless the list is empty.
    pub(crate) fn requiring(self, issuer: Option<String>, audiences: Vec<String>) -> Self {
        Self { issuer, audiences, ..self }
    }

    /// Verifies `token`. Returns its claims and the time until the token expires, clock tolerance included.
    pub(crate) fn verify(&self, token: &[u8]) -> Result<(Claims, Duration), BadToken> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.verify_at(token, now)
    }

    /// Verifies `token` at the time `now`, counted from 1970 on.
    fn verify_at(&self, token: &[u8], now: Duration) -> Result<(Claims, Duration), BadToken> {
        let raw = self.authentic(token)?;
        let (leeway, now_s) = (LEEWAY_SECONDS as f64, now.as_secs_f64());
        if raw.exp < 0.0 || raw.nbf.is_some_and(|start| start < 0.0) {
            return Err(BadToken::Malformed);
        }
        if raw.exp + leeway < now_s {
            return Err(BadToken::Expired);
        }
        if raw.nbf.is_some_and(|start| start > now_s + leeway) {
            return Err(BadToken::TooEarly);
        }
        if self.issuer.is_some() && raw.iss != self.issuer {
            return Err(BadToken::Issuer);
        }
        match &raw.aud {
            Some(_) if self.audiences.is_empty() => return Err(BadToken::Audience),
            Some(audiences) if !audiences.include_one_of(&self.audiences) => {
                return Err(BadToken::OtherAudience);
            }
            None if !self.audiences.is_empty() => return Err(BadToken::OtherAudience),
            _ => {}
        }
        let end = Duration::try_from_secs_f64(raw.exp + leeway).unwrap_or(Duration::MAX);
        Ok((raw.granted()?, end.saturating_sub(now)))
    }

    /// Verifies the signature of `token`, and returns its claims. RFC 7515 §5.2
    fn authentic(&self, token: &[u8]) -> Result<RawClaims, BadToken> {
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BadToken::Malformed);
        };
        let message = &token[..header.len() + 1 + claims.len()];
        let [header, claims, signature] =
            [header, claims, signature].map(|part| URL_SAFE_NO_PAD.decode(part));
        let (Ok(header), Ok(claims), Ok(signature)) = (header, claims, signature) else {
            return Err(BadToken::Malformed);
        };
        let header: Header = serde_json::from_slice(&header).map_err(|_| BadToken::Malformed)?;
        if header.crit.is_some() {
            return Err(BadToken::Malformed);
        }
        // The algorithm decides between secret and keys. So a public key never serves as a secret. RFC 8725 §2.1
        match (Algorithm::of(&header.alg).ok_or(BadToken::Algorithm)?, &self.secret, &self.keys) {
            (Algorithm::Hs256, Some(secret), _) => {
                // Compares in constant time.
                verify(secret, message, &signature).map_err(|_| BadToken::Signature)?;
            }
            (algorithm @ (Algorithm::Rs256 | Algorithm::Es256 | Algorithm::EdDsa), _, Some(keys)) => {
                keys.verify(algorithm, header.kid.as_deref(), message, &signature)?;
            }
            _ => return Err(BadToken::Algorithm),
        }
        serde_json::from_slice(&claims).map_err(|_| BadToken::Malformed)
    }
}

impl Keys {
    /// Verifies the signature of `message` with the key called `id`: see [`KeySet::verify`]. Asks for a fetch if the key may
    /// be a new one of the provider.
    fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadToken> {
        let remote = match self {
            Self::Fixed(keys) => return keys.verify(algorithm, id, message, signature),
            Self::Remote(remote) => remote,
        };
        let Some(keys) = remote.keys() else { return Err(BadToken::Fetching) };
        let verified = keys.verify(algorithm, id, message, signature);
        // A token without a kid cannot tell that its key is new.
        let is_unknown = match verified {
            Err(BadToken::Key) => true,
            Err(BadToken::Signature) => id.is_none(),
            _ => false,
        };
        if is_unknown && remote.want(Instant::now()) { Err(BadToken::Fetching) } else { verified }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { issuer, audiences, .. } = self;
        f.debug_struct("Verifier")
            .field("issuer", issuer)
            .field("audiences", audiences)
            .finish_non_exhaustive()
    }
}

impl BadToken {
    /// Returns a text with the reason and the remedy. The text does not repeat the token.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Malformed => {
                "The token is not a valid JWT: it must have a signature and the claim exp, a number. If present, nbf must \
                 be a number, sub and name strings, and rooms and publish lists of strings."
            }
            Self::Algorithm => {
                "The token's algorithm (alg) does not fit this server: HS256 needs --auth-hmac-secret-file, and RS256, \
                 ES256 and EdDSA need --auth-jwks."
            }
            Self::Key => {
                "The server has no key for this token: no public key has its alg and kid, or the token names no kid and \
                 several keys have its alg."
            }
            Self::Fetching => {
                "The server is fetching the keys of the identity provider, since it has none that fits this token; try again \
                 in a second."
            }
            Self::Signature => {
                "The token's signature does not match; sign it with the secret or a key of this server."
            }
            Self::Expired => "The token has expired (exp); get a new one.",
            Self::TooEarly => "The token is not valid yet (nbf); wait, or correct the clocks.",
            Self::Audience => {
                "The token is for another audience: it has the claim aud; create one without it, or set --auth-audience."
            }
            Self::OtherAudience => {
                "The token is for another audience: its claim aud names none of the server's --auth-audience."
            }
            Self::Issuer => {
                "The token is from another issuer: its claim iss differs from the server's --auth-issuer."
            }
            Self::Identity => {
                "The token's sub cannot be an identity; use 1 to 255 characters without control characters."
            }
        }
    }
}

impl Algorithm {
    /// Returns the algorithm with this name in a token's header or in a key.
    fn of(name: &str) -> Option<Self> {
        match name {
            "HS256" => Some(Self::Hs256),
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            // RFC 9864 gives EdDSA with this curve a name of its own.
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::hmac::sign;

    use super::*;

    const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

    /// Returns a signed token with this header and these claims, built as in RFC 7515 §3.1.
    fn token(header: &str, claims: &str, secret: &[u8]) -> String {
        let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let mac = sign(&Key::new(HMAC_SHA256, secret), text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac))
    }

    fn verified(header: &str, claims: &str) -> Result<Claims, BadToken> {
        let verified = Verifier::new(Some(SECRET), None).verify(token(header, claims, SECRET).as_bytes());
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
        let verifier = Verifier::new(Some(&URL_SAFE_NO_PAD.decode(key).expect("base64")), None);
        assert_eq!(verifier.verify(token.as_bytes()), Err(BadToken::Expired));
        let before = Duration::from_secs(1_300_819_380 - 5);
        let (claims, left) = verifier.verify_at(token.as_bytes(), before).expect("it is good otherwise");
        assert_eq!(left, Duration::from_secs(15));
        assert!(claims.user().is_none() && claims.name().is_none() && claims.may_join("x"));
        assert_eq!(Verifier::new(Some(SECRET), None).verify(token.as_bytes()), Err(BadToken::Signature));
    }

    #[test]
    fn claims_name_the_user_and_the_rooms() {
        let claims = verified(HS256, r#"{"exp":99999999999.5,"sub":"ada","rooms":["garden","lawn"]}"#);
        let claims = claims.expect("good");
        assert_eq!(claims.user(), Some("ada"));
        assert!(claims.may_join("garden") && claims.may_join("lawn") && !claims.may_join("Garden"));
        let claims = verified(HS256, r#"{"exp":99999999999,"rooms":["cafe\u0301","été"]}"#).expect("good");
        assert!(claims.may_join("café") && claims.may_join("cafe\u{301}") && !claims.may_join("cafe"));
        assert!(claims.may_join("été") && claims.may_join("e\u{301}te\u{301}"));
        let claims = verified(HS256, r#"{"exp":99999999999}"#).expect("good");
        assert!(claims.user().is_none() && claims.may_join("anywhere"));
        let claims = verified(HS256, r#"{"exp":1e18,"rooms":[],"nbf":0,"iss":"x"}"#).expect("good");
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
            (r#"{"alg":"none"}"#, good, BadToken::Algorithm),
            (r#"{"alg":"HS512"}"#, good, BadToken::Algorithm),
            (r#"{"alg":"RS256"}"#, good, BadToken::Algorithm),
            ("no header", good, BadToken::Malformed),
            (r#"{"alg":"HS256","crit":["x"],"x":1}"#, good, BadToken::Malformed),
            (HS256, r#"{"exp":99999999999,"sub":""}"#, BadToken::Identity),
            (HS256, r#"{"exp":99999999999,"sub":"a\nb"}"#, BadToken::Identity),
            (HS256, r#"{"exp":99999999999,"name":7}"#, BadToken::Malformed),
            (HS256, r#"{"exp":99999999999,"publish":"all"}"#, BadToken::Malformed),
        ] {
            assert_eq!(verified(header, claims), Err(expected), "{header} {claims}");
        }
        let verifier = Verifier::new(Some(SECRET), None);
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
    fn an_unknown_key_at_a_url_is_fetched_before_its_token_is_refused() {
        let claims = r#"{"exp":99999999999}"#;
        let set = || KeySet::parse(include_bytes!("../tests/files/jwks.json")).expect("usable");
        let forged = |header: &str| token(header, claims, SECRET);
        let with_kid = forged(r#"{"alg":"EdDSA","kid":"nobody's"}"#);
        let without = forged(r#"{"alg":"EdDSA"}"#);
        for (token, refused) in [(with_kid, BadToken::Key), (without, BadToken::Signature)] {
            let remote = Arc::new(RemoteKeys::default());
            let verifier = Verifier::new(None, Some(Keys::Remote(Arc::clone(&remote))));
            let verified = || verifier.verify(token.as_bytes());
            assert_eq!(verified(), Err(BadToken::Fetching), "there are no keys yet");
            remote.fetched(Some(set()));
            assert_eq!(verified(), Err(BadToken::Fetching), "the key may be new");
            assert_eq!(verified(), Err(BadToken::Fetching), "the fetch is under way");
            remote.fetched(Some(set()));
            assert_eq!(verified(), Err(refused));
        }
    }

    #[test]
    fn the_identity_is_sub_and_the_name_shown_fits() {
        let uuid = "123e4567-e89b-12d3-a456-426614174000";
        let long = "é".repeat(255);
        for (sub, name, shown) in [
            ("ada", "", Some("ada")),
            (uuid, "", Some(&uuid[..32])),
            (uuid, "Ada  Lovelace", Some("Ada_Lovelace")),
            (uuid, "<b>&,:", Some("b")),
            (uuid, "**Ada", Some("Ada")),
            (&long, "", Some(&long[..64])),
            (": ,", "\u{200b}", None),
        ] {
            let json = serde_json::json!({"exp": 99_999_999_999_u64, "sub": sub, "name": name}).to_string();
            let claims = verified(HS256, &json).expect("good");
            assert_eq!((claims.user(), claims.name()), (Some(sub), shown));
        }
        let too_long = serde_json::json!({"exp": 99_999_999_999_u64, "sub": "é".repeat(256)}).to_string();
        assert_eq!(verified(HS256, &too_long), Err(BadToken::Identity));
        let nameless = verified(HS256, r#"{"exp":99999999999,"name":"ada"}"#).expect("good");
        assert_eq!((nameless.user(), nameless.name()), (None, None));
    }

    #[test]
    fn a_star_at_the_end_stands_for_a_prefix() {
        let claims = verified(HS256, r#"{"exp":99999999999,"rooms":["team-*","a*b"],"publish":["*"]}"#);
        let claims = claims.expect("good");
        assert!(claims.may_join("team-") && claims.may_join("team-x") && !claims.may_join("team"));
        assert!(claims.may_join("a*b") && !claims.may_join("axb") && claims.may_publish("any"));
        let claims = verified(HS256, r#"{"exp":99999999999,"publish":["cafe\u0301*"]}"#).expect("good");
        assert!(claims.may_join("any") && claims.may_publish("café 2") && !claims.may_publish("any"));
        assert!(!verified(HS256, r#"{"exp":99999999999,"publish":[]}"#).expect("good").may_publish("any"));
    }

    #[test]
    fn issuer_and_audience_must_match() {
        let verifier = || Verifier::new(Some(SECRET), None);
        let both = verifier().requiring(Some("https://a".into()), vec!["x".into(), "y".into()]);
        let audience = verifier().requiring(None, vec!["x".into()]);
        for (verifier, claims, expected) in [
            (&both, r#""iss":"https://a","aud":"y""#, None),
            (&both, r#""iss":"https://a","aud":["z","x"]"#, None),
            (&both, r#""iss":"https://a""#, Some(BadToken::OtherAudience)),
            (&both, r#""iss":"https://a","aud":["z"]"#, Some(BadToken::OtherAudience)),
            (&both, r#""iss":"https://a/","aud":"x""#, Some(BadToken::Issuer)),
            (&both, r#""aud":"x""#, Some(BadToken::Issuer)),
            (&audience, r#""iss":"any","aud":"x""#, None),
            (&audience, r#""aud":7"#, Some(BadToken::Malformed)),
        ] {
            let text = token(HS256, &format!(r#"{{"exp":99999999999,{claims}}}"#), SECRET);
            assert_eq!(verifier.verify(text.as_bytes()).err(), expected, "{claims}");
        }
    }

    /// RFC 8725 §2.1: a token signed with a public key as if that were a secret is refused.
    #[test]
    fn a_public_key_is_no_secret() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let set = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"a","x":"{x}"}}]}}"#);
        let keys = Keys::Fixed(Arc::new(KeySet::parse(set.as_bytes()).expect("usable")));
        let key = URL_SAFE_NO_PAD.decode(x).expect("base64");
        for header in [HS256, r#"{"alg":"HS256","kid":"a"}"#] {
            for secret in [&key[..], x.as_bytes(), set.as_bytes()] {
                let forged = token(header, r#"{"exp":99999999999}"#, secret);
                let only_keys = Verifier::new(None, Some(keys.clone()));
                assert_eq!(only_keys.verify(forged.as_bytes()), Err(BadToken::Algorithm));
                let both = Verifier::new(Some(SECRET), Some(keys.clone()));
                assert_eq!(both.verify(forged.as_bytes()), Err(BadToken::Signature));
            }
        }
        let forged = token(r#"{"alg":"EdDSA","kid":"a"}"#, r#"{"exp":99999999999}"#, &key);
        let verified = Verifier::new(None, Some(keys)).verify(forged.as_bytes());
        assert_eq!(verified, Err(BadToken::Signature));
    }

    #[test]
    fn nothing_shows_the_secret() {
        let shown = format!("{:?}", Verifier::new(Some(SECRET), None));
        assert_eq!(shown, "Verifier { issuer: None, audiences: [], .. }");
    }
}
