//! Signatures of Pusher: HMAC-SHA256 with the secret of an application.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::PusherApp;

/// Returns the authorization of a subscription, `KEY:SIGNATURE`. `data` is the text of a presence channel's member.
pub(crate) fn authorize(app: &PusherApp, socket_id: &str, channel: &str, data: Option<&str>) -> String {
    let text = match data {
        Some(data) => format!("{socket_id}:{channel}:{data}"),
        None => format!("{socket_id}:{channel}"),
    };
    format!("{}:{}", app.key, sign(app, &text))
}

/// Returns the query of a POST request for `path` that is signed now. `body` has the parts of the request's body.
pub(crate) fn query<'a>(app: &PusherApp, path: &str, body: impl Iterator<Item = &'a [u8]>) -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    query_at(app, path, body, since_epoch.as_secs())
}

fn query_at<'a>(app: &PusherApp, path: &str, body: impl Iterator<Item = &'a [u8]>, time: u64) -> String {
    let mut digest = Md5::new();
    body.for_each(|part| digest.update(part));
    let (key, digest) = (&app.key, hex(&digest.finalize()));
    let query = format!("auth_key={key}&auth_timestamp={time}&auth_version=1.0&body_md5={digest}");
    let signature = sign(app, &format!("POST\n{path}\n{query}"));
    format!("{query}&auth_signature={signature}")
}

fn sign(app: &PusherApp, text: &str) -> String {
    let hmac = Hmac::<Sha256>::new_from_slice(app.secret.as_bytes());
    let mut hmac = hmac.expect("an HMAC takes a key of any length");
    hmac.update(text.as_bytes());
    hex(&hmac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_pushers_documents() {
        let app: PusherApp = "3:278d425bdf160c739803:7ad3773142a6692b25b8".parse().expect("an application");
        assert_eq!(
            authorize(&app, "1234.1234", "private-foobar", None),
            "278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
        );
        let body = r#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#.as_bytes();
        let (start, end) = body.split_at(20);
        assert_eq!(
            query_at(&app, "/apps/3/events", [start, end].into_iter(), 1_353_088_179),
            "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&\
             body_md5=ec365a775a4cd0599faeb73354201b6f&\
             auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"
        );
    }
}
