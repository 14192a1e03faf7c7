//! JSON Web Tokens for tests, encoded without the crate that the server uses to check tokens.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

/// Token secret shared by the tests and the servers that they start.
pub(crate) const SECRET: &str = "a secret for tests, of more than 32 bytes";

/// Returns a token with this header and these claims, signed with `secret`. RFC 7515 §3.1
pub(crate) fn signed(header: &Value, claims: &Value, secret: &str) -> String {
    let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.chain_update(&text).finalize().into_bytes()))
}

/// Returns a token with these claims, validly signed with `SECRET`.
pub(crate) fn token(claims: &Value) -> String {
    signed(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

/// Returns a valid token for `user` that expires in an hour.
pub(crate) fn token_for(user: &str) -> String {
    token(&json!({"exp": now() + 3600, "sub": user}))
}

/// Returns the current time in seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970").as_secs()
}
