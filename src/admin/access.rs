//! The check of the admin token: in a request's Authorization field, in the form of the live page, and in the cookie
//! that the form sets.
//!
//! The cookie is a MAC of the token under a key of this process, so it does not reveal the token. It ends with another
//! token and with the process.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode;
use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use ring::rand::SystemRandom;

use crate::protocol::Request;

use super::guesses::Guesses;

/// Maximum length of the form's body in bytes: the longest token with each character percent-encoded, and its name.
pub(super) const MAX_FORM_LEN: usize = 2048;

/// Checks whether requests have the admin token. Takes the same time for any wrong token of the same length.
pub(super) struct Access {
    key: Key,
    cookie_name: String,
    guesses: RefCell<Guesses>,
}

/// The reason why a request may not read the admin endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// The request has no token.
    Missing,
    /// The token is not the right one.
    Wrong,
    /// The request has several tokens.
    Several,
    /// The client's address has sent too many wrong tokens, and must wait for this time.
    Waiting(Duration),
}

impl Access {
    /// Creates a check with a new random key, for the admin listener at `address`. The port is part of the cookie's
    /// name, since a browser sends a cookie to all ports of a host.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub(super) fn new(address: SocketAddr) -> io::Result<Self> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| io::Error::other("getrandom(2) gives no random bytes"))?;
        let cookie_name = format!("uproar-admin-{}", address.port());
        Ok(Self { key, cookie_name, guesses: RefCell::default() })
    }

    /// Returns whether the request of a client at the address `peer` has `token`. An Authorization field with the scheme
    /// Bearer decides alone; without one, the cookie decides.
    pub(super) fn check(&self, request: &Request<'_>, token: &[u8], peer: IpAddr) -> Result<(), Denied> {
        let mut credentials = request.bearer();
        match (credentials.next(), credentials.next()) {
            (Some(given), None) => self.try_token(given, token, peer),
            (Some(_), Some(_)) => Err(Denied::Several),
            (None, _) => match request.cookie(&self.cookie_name) {
                Some(cookie) if self.is_cookie(cookie, token) => Ok(()),
                // A browser keeps its cookie when the token changes, so an old cookie is no attempt to guess.
                _ => Err(Denied::Missing),
            },
        }
    }

    /// Returns the value of the field `Set-Cookie` for a client at the address `peer` that has sent `token` in the form's
    /// `body`, or an error if it has sent anything else.
    pub(super) fn log_in(&self, body: &[u8], token: &[u8], peer: IpAddr) -> Result<String, Denied> {
        self.try_token(&form_token(body).ok_or(Denied::Wrong)?, token, peer)?;
        let value = URL_SAFE_NO_PAD.encode(sign(&self.key, token));
        Ok(format!("{}={value}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name))
    }

    /// Returns whether `given` is `token`, unless the client's address has to wait. An address that waits learns nothing, even
    /// with the right token.
    fn try_token(&self, given: &[u8], token: &[u8], peer: IpAddr) -> Result<(), Denied> {
        let (mut guesses, now) = (self.guesses.borrow_mut(), Instant::now());
        if let Some(left) = guesses.wait(peer, now) {
            return Err(Denied::Waiting(left));
        }
        if !self.is_token(given, token) {
            guesses.failed(peer, now);
            return Err(Denied::Wrong);
        }
        guesses.succeeded(peer);
        Ok(())
    }

    /// Returns whether `given` is `token`. The comparison is between MACs, so that its time tells nothing about the
    /// token.
    fn is_token(&self, given: &[u8], token: &[u8]) -> bool {
        verify(&self.key, given, sign(&self.key, token).as_ref()).is_ok()
    }

    fn is_cookie(&self, cookie: &str, token: &[u8]) -> bool {
        URL_SAFE_NO_PAD.decode(cookie).is_ok_and(|mac| verify(&self.key, token, &mac).is_ok())
    }
}

/// Returns the field `token` of a form in the encoding `application/x-www-form-urlencoded`, without white space around
/// it. A token has no spaces, so `+` needs no decoding.
fn form_token(body: &[u8]) -> Option<Vec<u8>> {
    let value = body.split(|byte| *byte == b'&').find_map(|field| field.strip_prefix(b"token="))?;
    let value: Vec<u8> = percent_decode(value).collect();
    Some(value.trim_ascii().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &[u8] = b"0123456789abc+/=&%";
    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn access(port: u16) -> Access {
        Access::new(([127, 0, 0, 1], port).into()).expect("random bytes")
    }

    fn check(access: &Access, fields: &str) -> Result<(), Denied> {
        let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let request = Request::from_head(head.as_bytes()).expect("valid");
        access.check(&request, TOKEN, PEER)
    }

    #[test]
    fn only_the_whole_token_is_right() {
        let access = access(9100);
        let token = str::from_utf8(TOKEN).expect("ASCII");
        for (fields, result) in [
            (format!("Authorization: Bearer {token}\r\n"), Ok(())),
            (format!("authorization: bearer  {token} \r\n"), Ok(())),
            (format!("Authorization: Basic YTpi\r\nAuthorization: Bearer {token}\r\n"), Ok(())),
            (String::new(), Err(Denied::Missing)),
            (format!("Authorization: Basic {token}\r\n"), Err(Denied::Missing)),
            ("Authorization: Bearer \r\n".into(), Err(Denied::Missing)),
            (format!("Authorization: Bearer {token}x\r\n"), Err(Denied::Wrong)),
            (format!("Authorization: Bearer {}\r\n", &token[1..]), Err(Denied::Wrong)),
            (format!("Authorization: Bearer {token}\r\n").repeat(2), Err(Denied::Several)),
        ] {
            assert_eq!(check(&access, &fields), result, "{fields}");
        }
    }

    #[test]
    fn the_form_takes_any_encoding_of_the_token() {
        let access = access(9100);
        let encoded: String = TOKEN.iter().map(|byte| format!("%{byte:02x}")).collect();
        assert!("token=".len() + 3 * 512 <= MAX_FORM_LEN);
        for body in [
            format!("token={encoded}"),
            format!("a=b&token=%20{encoded}%0d%0a&c"),
            "token=0123456789abc%2B%2F%3D%26%25".into(),
        ] {
            assert!(access.log_in(body.as_bytes(), TOKEN, PEER).is_ok(), "{body}");
        }
        for body in ["", "token=", "token=+", "nottoken=x", "token=0123456789abc+/=&%"] {
            assert_eq!(access.log_in(body.as_bytes(), TOKEN, PEER), Err(Denied::Wrong), "{body}");
        }
    }

    #[test]
    fn a_cookie_is_valid_for_its_token_and_process_only() {
        let (access, other) = (access(9100), access(9100));
        let set = |access: &Access, token: &[u8]| {
            let form: String = token.iter().map(|byte| format!("%{byte:02x}")).collect();
            let field =
                access.log_in(format!("token={form}").as_bytes(), token, PEER).expect("the right token");
            let (cookie, attributes) = field.split_once("; ").expect("attributes");
            assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict");
            cookie.to_owned()
        };
        let cookie = set(&access, TOKEN);
        assert!(cookie.starts_with("uproar-admin-9100=") && !cookie.contains("0123456789"), "{cookie}");
        for (cookie, result) in [
            (format!("a=b; {cookie}; c=d"), Ok(())),
            (set(&other, TOKEN), Err(Denied::Missing)),
            (set(&access, b"another-token-012345"), Err(Denied::Missing)),
            (format!("{cookie}A"), Err(Denied::Missing)),
            (cookie.replace("9100", "9101"), Err(Denied::Missing)),
            ("uproar-admin-9100=".into(), Err(Denied::Missing)),
        ] {
            assert_eq!(check(&access, &format!("Cookie: {cookie}\r\n")), result, "{cookie}");
        }
        let both = format!("Cookie: {cookie}\r\nAuthorization: Bearer wrong\r\n");
        assert_eq!(check(&access, &both), Err(Denied::Wrong));
    }
}
