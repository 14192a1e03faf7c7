//! Signed queries: the parameters of a REST request, with the signature of the whole request.

use std::borrow::Cow;
use std::time::Duration;

use md5::{Digest, Md5};
use percent_encoding::percent_decode_str;

use super::super::signature::{bytes_of_hex, verify};

/// Tolerated difference between the clock of a backend that signs a request and the server's clock.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(600);

/// The reason why a REST request is not authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum BadSignature {
    #[error("the query has a parameter twice, or one that is not UTF-8; send each once, percent-encoded")]
    Query,
    #[error("the query has no {0}; sign the request as the Pusher HTTP API describes it")]
    Missing(&'static str),
    #[error("auth_key is not the key of this application; check key and application id")]
    OtherKey,
    #[error("auth_version is not 1.0; use a library for the Pusher HTTP API")]
    Version,
    #[error("auth_timestamp is more than 600 seconds away from the server's clock; check both clocks")]
    Timestamp,
    #[error("body_md5 is not the MD5 of the body; sign the body exactly as it is sent")]
    Body,
    #[error("auth_signature is wrong; check the application's secret")]
    Signature,
}

/// A form of values: as they came, or decoded. `None` for a value that is not UTF-8.
type Form = for<'a> fn(&'a str) -> Option<Cow<'a, str>>;

/// The query of a signed REST request.
#[derive(Debug)]
pub(in super::super) struct SignedQuery<'a> {
    /// Names in lower case and values as they came, in the order of the names.
    pairs: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'a> SignedQuery<'a> {
    pub(in super::super) fn parse(query: Option<&'a str>) -> Result<Self, BadSignature> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let mut pairs: Vec<(Cow<'_, str>, &str)> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| Some((lower_case(decode(name)?), value)))
            .collect::<Option<_>>()
            .ok_or(BadSignature::Query)?;
        pairs.sort_unstable();
        if pairs.windows(2).any(|two| two[0].0 == two[1].0) {
            return Err(BadSignature::Query);
        }
        Ok(Self { pairs })
    }

    /// Returns the decoded value of a parameter, or `None` if the query does not have it.
    pub(super) fn value(&self, name: &str) -> Option<Cow<'a, str>> {
        decode(self.raw(name)?)
    }

    fn raw(&self, name: &str) -> Option<&'a str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    fn required(&self, name: &'static str) -> Result<&'a str, BadSignature> {
        self.raw(name).ok_or(BadSignature::Missing(name))
    }

    /// Checks that the request was signed for the application with `key` and `secret` at the time `now`, counted from
    /// 1970 on.
    pub(in super::super) fn check(
        &self,
        (key, secret): (&str, &str),
        (method, path): (&str, &str),
        body: &[u8],
        now: Duration,
    ) -> Result<(), BadSignature> {
        let signature = self.required("auth_signature")?;
        if self.required("auth_key")? != key {
            return Err(BadSignature::OtherKey);
        }
        if self.required("auth_version")? != "1.0" {
            return Err(BadSignature::Version);
        }
        let signed_at = self.required("auth_timestamp")?.parse().map_err(|_| BadSignature::Timestamp)?;
        if now.abs_diff(Duration::from_secs(signed_at)) > MAX_CLOCK_DIFFERENCE {
            return Err(BadSignature::Timestamp);
        }
        // Libraries sign path and values as they send them, or before they escape them.
        let forms: [Form; 2] = [|text| Some(text.into()), decode];
        let is_signed = |path: &str| {
            let texts = forms.iter().filter_map(|form| self.signed_text(method, path, *form));
            texts.into_iter().any(|text| verify(secret, &text, signature))
        };
        if !is_signed(path) && !decode(path).is_some_and(|path| is_signed(&path)) {
            return Err(BadSignature::Signature);
        }
        match self.raw("body_md5") {
            Some(digest) if bytes_of_hex(digest) != Some(Md5::digest(body).into()) => Err(BadSignature::Body),
            None if !body.is_empty() => Err(BadSignature::Missing("body_md5")),
            _ => Ok(()),
        }
    }

    /// Returns the text that a backend signs: method, path, and the query without the signature, sorted by name.
    fn signed_text(&self, method: &str, path: &str, form: Form) -> Option<String> {
        let pairs_len: usize = self.pairs.iter().map(|(name, raw)| name.len() + raw.len() + 2).sum();
        let mut text = String::with_capacity(method.len() + path.len() + 2 + pairs_len);
        for line in [method, path] {
            text.push_str(line);
            text.push('\n');
        }
        let signed = self.pairs.iter().filter(|(name, _)| name != "auth_signature");
        for (index, (name, raw)) in signed.enumerate() {
            if index > 0 {
                text.push('&');
            }
            text.push_str(name);
            text.push('=');
            text.push_str(&form(raw)?);
        }
        Some(text)
    }
}

/// Decodes a name or a value of a query. Some libraries write a space as `+`.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(text.into());
    }
    percent_decode_str(&text.replace('+', " ")).decode_utf8().ok().map(|text| text.into_owned().into())
}

fn lower_case(name: Cow<'_, str>) -> Cow<'_, str> {
    match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => name.to_ascii_lowercase().into(),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The key, the secret, the time and the signatures are those of Pusher's documentation.
    const KEY: &str = "278d425bdf160c739803";
    const SECRET: &str = "7ad3773142a6692b25b8";
    const NOW: Duration = Duration::from_secs(1_353_088_179);
    const BODY: &[u8] = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
    const QUERY: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
                         &body_md5=ec365a775a4cd0599faeb73354201b6f\
                         &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";

    fn check(query: &str, body: &[u8], now: Duration) -> Result<(), BadSignature> {
        let request = ("POST", "/apps/3/events");
        SignedQuery::parse(Some(query))?.check((KEY, SECRET), request, body, now)
    }

    fn signed(method: &str, path: &str, query: &str) -> String {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
        let tag = ring::hmac::sign(&key, format!("{method}\n{path}\n{query}").as_bytes());
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_request_of_the_documentation_is_authentic() {
        assert_eq!(check(QUERY, BODY, NOW), Ok(()));
    }

    #[test]
    fn each_part_of_a_request_is_signed() {
        let change = |from: &str, to: &str| check(&QUERY.replace(from, to), BODY, NOW);
        assert_eq!(change("auth_key=278d", "auth_key=278e"), Err(BadSignature::OtherKey));
        assert_eq!(change("auth_version=1.0", "auth_version=1.1"), Err(BadSignature::Version));
        assert_eq!(change("f457e6c", "f457e6d"), Err(BadSignature::Signature));
        assert_eq!(change("&auth_version", "&info=user_count&auth_version"), Err(BadSignature::Signature));
        assert_eq!(change("=1353088179", "=1353088180"), Err(BadSignature::Signature));
        assert_eq!(change("=1353088179", "=yesterday"), Err(BadSignature::Timestamp));
        assert_eq!(change("&auth_version=1.0", ""), Err(BadSignature::Missing("auth_version")));
        assert_eq!(change("&auth_version", "&auth_key=1&auth_version"), Err(BadSignature::Query));
        assert_eq!(check(QUERY, b"{}", NOW), Err(BadSignature::Body));
        assert_eq!(check("", BODY, NOW), Err(BadSignature::Missing("auth_signature")));
    }

    #[test]
    fn a_request_may_be_600_seconds_old_or_early() {
        for (seconds, result) in [(600, Ok(())), (601, Err(BadSignature::Timestamp))] {
            assert_eq!(check(QUERY, BODY, NOW + Duration::from_secs(seconds)), result, "{seconds}");
            assert_eq!(check(QUERY, BODY, NOW - Duration::from_secs(seconds)), result, "-{seconds}");
        }
    }

    #[test]
    fn a_body_must_be_signed_and_an_empty_one_may_be() {
        let query = format!("auth_key={KEY}&auth_timestamp=1353088179&auth_version=1.0");
        let bare = format!("{query}&auth_signature={}", signed("POST", "/apps/3/events", &query));
        assert_eq!(check(&bare, BODY, NOW), Err(BadSignature::Missing("body_md5")));
        assert_eq!(check(&bare, b"", NOW), Ok(()));
        // Python's library signs the digest of the empty body.
        let query = format!("{query}&body_md5=d41d8cd98f00b204e9800998ecf8427e");
        let empty = format!("{query}&auth_signature={}", signed("POST", "/apps/3/events", &query));
        assert_eq!(check(&empty, b"", NOW), Ok(()));
        assert_eq!(check(&empty, b"x", NOW), Err(BadSignature::Body));
    }

    #[test]
    fn values_are_signed_unescaped_and_sent_either_way() {
        let rest = format!("auth_key={KEY}&auth_timestamp=1353088179&auth_version=1.0");
        let text = format!("{rest}&filter_by_prefix=a b%+&info=user_count,cache");
        let signature = signed("GET", "/apps/3/channels", &text);
        for (prefix, info) in [
            ("a b%+", "user_count,cache"),
            ("a%20b%25%2b", "user_count%2Ccache"),
            ("a+b%25%2B", "user_count,cache"),
        ] {
            let query = format!("INFO={info}&{rest}&filter_by_prefix={prefix}&auth_signature={signature}");
            let query = SignedQuery::parse(Some(&query)).expect("valid");
            assert_eq!(query.check((KEY, SECRET), ("GET", "/apps/3/channels"), b"", NOW), Ok(()), "{prefix}");
            assert_eq!(query.value("info").as_deref(), Some("user_count,cache"));
        }
    }
}
