//! Public keys of identity providers: JSON Web Key Sets (RFC 7517), and the check of signatures with them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Algorithm, BadToken};

/// Sizes of RSA moduli that are allowed, in bits. RFC 7518 §3.3 demands the lower bound.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The public keys of an identity provider that can verify tokens. The set has at least one key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeySet(Vec<Key>);

/// A public key, with the algorithm that it is for.
#[derive(PartialEq, Eq)]
struct Key {
    /// The key's name, by which the header of a token selects it.
    id: Option<String>,
    material: Material,
}

/// The bytes of a public key.
#[derive(PartialEq, Eq)]
enum Material {
    /// Modulus and exponent, big-endian and without leading zeros. For RS256.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// An uncompressed point of the curve P-256. For ES256.
    P256(Vec<u8>),
    /// For EdDSA.
    Ed25519(Vec<u8>),
}

/// A key of a set as parsed from JSON. RFC 7517 §4, RFC 7518 §6, RFC 8037 §2
#[derive(Deserialize)]
struct RawKey {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// Private part of a key.
    d: Option<Value>,
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<Value>,
}

impl KeySet {
    /// Parses a JSON Web Key Set. Keys for other purposes or algorithms than the server's are left out.
    ///
    /// # Errors
    /// Returns an error text with the remedy if the text is no key set, if one of its keys is damaged, weak or private,
    /// or if no key can verify tokens.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let set: RawSet = serde_json::from_slice(json).map_err(|error| {
            format!("it is no JSON Web Key Set, an object with the list \"keys\" (RFC 7517 §5): {error}")
        })?;
        let mut keys = Vec::new();
        for (at, value) in set.keys.into_iter().enumerate() {
            let label = match value.get("kid").and_then(Value::as_str) {
                Some(id) => format!("the key {id:?}"),
                None => format!("key number {}", at + 1),
            };
            let raw: RawKey =
                serde_json::from_value(value).map_err(|error| format!("{label} is damaged: {error}"))?;
            keys.extend(raw.usable().map_err(|problem| format!("{label} {problem}"))?);
        }
        if keys.is_empty() {
            return Err("none of its keys can verify tokens; add a public key for RS256 (kty RSA), ES256 (crv P-256) or \
                        EdDSA (crv Ed25519)"
                .into());
        }
        Ok(Self(keys))
    }

    /// Returns the number of keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Verifies the signature of `message` with the key called `id`. Without an `id`, the set must have exactly one key
    /// for the algorithm.
    pub(super) fn verify(
        &self,
        algorithm: Algorithm,
        id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadToken> {
        let fits =
            |key: &&Key| key.material.algorithm() == algorithm && (id.is_none() || key.id.as_deref() == id);
        let keys: Vec<&Key> = self.0.iter().filter(fits).collect();
        if keys.is_empty() || id.is_none() && keys.len() > 1 {
            return Err(BadToken::Key);
        }
        let is_signed = keys.iter().any(|key| key.material.has_signed(message, signature));
        if is_signed { Ok(()) } else { Err(BadToken::Signature) }
    }
}

impl RawKey {
    /// Returns the key if it can verify tokens. `None` for a key with another purpose or algorithm. The error is the
    /// rule that the key breaks, without the key's name.
    fn usable(self) -> Result<Option<Key>, String> {
        let verifies = |operations: &Vec<String>| operations.iter().any(|operation| operation == "verify");
        if self.usage.as_deref().is_some_and(|usage| usage != "sig")
            || self.key_ops.as_ref().is_some_and(|operations| !verifies(operations))
        {
            return Ok(None);
        }
        let material = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => self.rsa()?,
            ("EC", Some("P-256")) => {
                let (x, y) = (number(self.x.as_deref(), "x", 32)?, number(self.y.as_deref(), "y", 32)?);
                Material::P256([&[4][..], &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) => Material::Ed25519(number(self.x.as_deref(), "x", 32)?),
            _ => return Ok(None),
        };
        if self.alg.as_deref().is_some_and(|name| Algorithm::of(name) != Some(material.algorithm())) {
            return Ok(None);
        }
        if self.d.is_some() {
            return Err("is a private key (d); publish only public keys".into());
        }
        Ok(Some(Key { id: self.kid, material }))
    }

    fn rsa(&self) -> Result<Material, String> {
        let trimmed = |bytes: Vec<u8>| {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            bytes[zeros..].to_vec()
        };
        let modulus = trimmed(decoded(self.n.as_deref(), "n")?);
        let exponent = trimmed(decoded(self.e.as_deref(), "e")?);
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            let (low, high) = (RSA_BITS.start(), RSA_BITS.end());
            return Err(format!("has {bits} bits; use an RSA key of {low} to {high} bits"));
        }
        if !(1..=4).contains(&exponent.len()) {
            return Err(format!("has an exponent (e) of {} bytes; use a key with e 65537", exponent.len()));
        }
        Ok(Material::Rsa { modulus, exponent })
    }
}

impl Material {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Returns whether the owner of the key has signed the message.
    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            Self::Rsa { modulus, exponent } => RsaPublicKeyComponents { n: modulus, e: exponent }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            Self::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
        };
        verified.is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, {:?})", self.id, self.material.algorithm())
    }
}

/// Decodes the member `name` of a key, whose value must have `len` bytes.
fn number(text: Option<&str>, name: &str, len: usize) -> Result<Vec<u8>, String> {
    let bytes = decoded(text, name)?;
    match bytes.len() {
        found if found == len => Ok(bytes),
        found => Err(format!("is damaged: {name} has {found} bytes instead of {len}")),
    }
}

fn decoded(text: Option<&str>, name: &str) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("is damaged: it has no {name}"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|error| format!("is damaged: {name} is not base64url: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Public key of RFC 7515, appendix A.2.1, without its members `alg` and `kid`.
    const RSA: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT\
                       -SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB\
                       dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9i\
                       aGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";

    fn parse(keys: &Value) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    /// Verifies the examples of RFC 7515 A.2 and A.3, and of RFC 8037 A.4.
    #[test]
    fn the_examples_of_the_rfcs_are_verified() {
        let claims =
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let rsa = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdb\
                   F9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN938\
                   3LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWk\
                   WywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let es = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let ed = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        for (key, algorithm, header, payload, signature) in [
            (
                json!({"kty": "RSA", "n": RSA, "e": "AQAB"}),
                Algorithm::Rs256,
                "eyJhbGciOiJSUzI1NiJ9",
                claims,
                rsa,
            ),
            (
                json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                       "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
                Algorithm::Es256,
                "eyJhbGciOiJFUzI1NiJ9",
                claims,
                es,
            ),
            (
                json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
                Algorithm::EdDsa,
                "eyJhbGciOiJFZERTQSJ9",
                "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
                ed,
            ),
        ] {
            let set = parse(&json!([key])).expect("usable");
            let message = format!("{header}.{payload}");
            let mut signature = URL_SAFE_NO_PAD.decode(signature).expect("base64");
            assert_eq!(set.verify(algorithm, None, message.as_bytes(), &signature), Ok(()), "{header}");
            assert_eq!(set.verify(algorithm, Some("x"), message.as_bytes(), &signature), Err(BadToken::Key));
            signature[9] ^= 1;
            let verified = set.verify(algorithm, None, message.as_bytes(), &signature);
            assert_eq!(verified, Err(BadToken::Signature), "{header}");
        }
    }

    #[test]
    fn keys_for_other_purposes_are_left_out() {
        let good = json!({"kty": "RSA", "n": RSA, "e": "AQAB", "kid": "good", "alg": "RS256", "use": "sig"});
        let mut set = vec![good.clone()];
        for (member, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["encrypt"])),
            ("alg", json!("RSA-OAEP")),
            ("alg", json!("HS256")),
            ("kty", json!("oct")),
            ("kty", json!("EC")),
        ] {
            let mut other = good.clone();
            other[member] = value;
            assert!(parse(&json!([other])).is_err_and(|text| text.contains("none of its keys")), "{member}");
            set.push(other);
        }
        assert_eq!(parse(&json!(set)).expect("one is good").0.len(), 1);
    }

    #[test]
    fn weak_damaged_and_private_keys_are_named() {
        let rsa = |n: &str, e: &str| json!({"kty": "RSA", "n": n, "e": e, "kid": "old"});
        let point = json!({"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"});
        for (key, part) in [
            (rsa(&URL_SAFE_NO_PAD.encode([0xff; 255]), "AQAB"), "the key \"old\" has 2040 bits"),
            (rsa(&URL_SAFE_NO_PAD.encode([0xff; 1025]), "AQAB"), "the key \"old\" has 8200 bits"),
            (rsa("", "AQAB"), "has 0 bits"),
            (rsa(RSA, ""), "exponent (e) of 0 bytes"),
            (rsa("a+b", "AQAB"), "n is not base64url"),
            (json!({"kty": "RSA", "e": "AQAB"}), "key number 1 is damaged: it has no n"),
            (json!({"kty": 7}), "key number 1 is damaged"),
            (json!({"kty": "RSA", "n": RSA, "e": "AQAB", "d": "AQAB"}), "is a private key (d)"),
            (point, "x has 3 bytes instead of 32"),
        ] {
            let error = parse(&json!([key])).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
        for text in ["", "[]", "{}", r#"{"keys":7}"#] {
            assert!(KeySet::parse(text.as_bytes()).is_err_and(|error| error.contains("RFC 7517")), "{text}");
        }
    }
}
