//! The HTTP requests that publish messages: their URL, headers and body.

use std::io::Write as _;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::publishers::Publishers;
use crate::pusher::{PusherApp, Session, sign};
use crate::target::Target;
use crate::url::Protocol;

/// Placeholder of a body template: the message as it is.
const PAYLOAD: &str = "{payload}";
/// Placeholder of a body template: the message with the escapes of a JSON string, without quotes.
const JSON_PAYLOAD: &str = "{payload-json}";
/// Headers that every request has already.
const OWN_HEADERS: [&str; 4] = ["Host", "Content-Length", "Transfer-Encoding", "Connection"];

/// The options of `loadgen publish` about requests and subscribers.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct PublishOptions {
    /// WebSocket connections to --url that must get every message. With 0, only the requests are measured.
    #[arg(long, default_value_t = 0, value_parser = parse_subscribers)]
    pub(crate) subscribers: usize,
    /// The URL that a request is sent to; uproar's API for the room of --url if not given, and with
    /// --protocol pusher the events of the application.
    #[arg(long, value_name = "URL")]
    pub(crate) publish_url: Option<String>,
    /// A header of each request, such as `Content-Type: application/json`. May be given several times. Without a
    /// Content-Type, loadgen sends text/plain, and with --protocol pusher application/json.
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_header)]
    // A header may contain a password, and the figures of a run are published.
    #[serde(skip)]
    pub(crate) publish_header: Vec<String>,
    /// The body of each request. `{payload}` stands for the message, and `{payload-json}` for the message with the
    /// escapes of a JSON string. With --protocol pusher, the default is an event for --pusher-channel.
    #[arg(long, value_name = "TEMPLATE", default_value = PAYLOAD, value_parser = parse_template)]
    pub(crate) publish_body: String,
    /// Key of uproar's API, short for --publish-header 'Authorization: Bearer KEY'.
    #[arg(long, value_name = "KEY")]
    #[serde(skip)]
    pub(crate) api_key: Option<String>,
    /// Open a new connection for each request. For a server that ends the connection after each response.
    #[arg(long)]
    pub(crate) publish_reconnect: bool,
}

/// The requests of a run, and the connections that send them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Post {
    pub(crate) target: Target,
    pub(crate) publishers: Publishers,
    /// Whether the server ends the connection after each response, so that each request has a new one.
    pub(crate) reconnects: bool,
    /// The path of each request.
    resource: String,
    /// The application that signs each request with a query. `None` if requests are not signed.
    signer: Option<PusherApp>,
    /// The head of each request behind its resource, up to the value of its Content-Length.
    head: String,
    body: Vec<Part>,
}

/// A part of a request's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Part {
    /// A text that every request has unchanged.
    Fixed(String),
    /// The message as it is.
    Payload,
    /// The message with the escapes of a JSON string.
    JsonPayload,
}

impl Post {
    /// Creates the requests that `options` describe. `url` is the URL of the subscribers, and `pusher` is the session of a
    /// Pusher server.
    pub(crate) fn new(
        options: &PublishOptions,
        url: &str,
        publishers: Publishers,
        pusher: Option<&Session>,
    ) -> Result<Self, String> {
        let publish_url = match (&options.publish_url, pusher) {
            (Some(url), _) => url.clone(),
            (None, Some(session)) => events_url(url, session),
            (None, None) => api_url(url)?,
        };
        let target = Target::parse(&publish_url, Protocol::Http)?;
        let mut headers = options.publish_header.clone();
        if let Some(key) = &options.api_key {
            let header = parse_header(&format!("Authorization: Bearer {key}"));
            headers.push(header.map_err(|_| "--api-key has characters that no key has".to_owned())?);
        }
        let names: Vec<String> = headers.iter().map(|header| name(header).to_ascii_lowercase()).collect();
        if !names.iter().any(|name| name == "content-type") {
            let default = if pusher.is_some() { "application/json" } else { "text/plain" };
            headers.push(format!("Content-Type: {default}"));
        }
        if names.iter().filter(|name| *name == "authorization").count() > 1 {
            return Err("give --api-key or a header Authorization, not both".to_owned());
        }
        let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let Target { resource, host, .. } = &target;
        let resource = resource.clone();
        if pusher.is_some() && resource.contains('?') {
            return Err(format!("{publish_url}: signed requests have a query already; remove this one"));
        }
        let head = format!(" HTTP/1.1\r\nHost: {host}\r\n{lines}Content-Length: ");
        let body = match pusher {
            Some(Session { channel, .. }) if options.publish_body == PAYLOAD => {
                parts(&format!(r#"{{"name":"msg","channel":"{channel}","data":"{JSON_PAYLOAD}"}}"#))
            }
            _ => parts(&options.publish_body),
        };
        let signer = pusher.map(|session| session.app.clone());
        Ok(Self { resource, signer, head, body, target, publishers, reconnects: options.publish_reconnect })
    }

    /// Appends the request that publishes `payload` to `out`.
    pub(crate) fn write(&self, payload: &[u8], out: &mut Vec<u8>) {
        let mut json = Vec::new();
        if self.body.contains(&Part::JsonPayload) {
            escape(payload, &mut json);
        }
        let parts = self.body.iter().map(|part| match part {
            Part::Fixed(text) => text.as_bytes(),
            Part::Payload => payload,
            Part::JsonPayload => &json,
        });
        let len: usize = parts.clone().map(<[u8]>::len).sum();
        out.extend_from_slice(b"POST ");
        out.extend_from_slice(self.resource.as_bytes());
        if let Some(app) = &self.signer {
            out.push(b'?');
            out.extend_from_slice(sign::query(app, &self.resource, parts.clone()).as_bytes());
        }
        out.extend_from_slice(self.head.as_bytes());
        // Writing to a vector cannot fail.
        let _ = write!(out, "{len}\r\n\r\n");
        for part in parts {
            out.extend_from_slice(part);
        }
    }
}

/// Returns the URL of uproar's API that publishes to the room of the WebSocket URL `url`.
fn api_url(url: &str) -> Result<String, String> {
    let unknown =
        || format!("{url}: a room of uproar has the path /room/NAME; give --publish-url for another server");
    let (start, room) = url.split_once("/room/").ok_or_else(unknown)?;
    let start = start.strip_prefix("ws").ok_or_else(unknown)?;
    let room = room.split(['?', '/']).next().filter(|room| !room.is_empty()).ok_or_else(unknown)?;
    Ok(format!("http{start}/api/rooms/{room}/messages"))
}

/// Returns the URL at which a Pusher server takes events. `url` is the WebSocket URL, whose path is in front of all paths.
fn events_url(url: &str, session: &Session) -> String {
    let start = url.strip_prefix("ws").unwrap_or(url).trim_end_matches('/');
    format!("http{start}/apps/{}/events", session.app.id)
}

fn parse_subscribers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number < 1 << 24 => Ok(number),
        _ => Err("give a number between 0 and 16777215".to_owned()),
    }
}

fn parse_header(text: &str) -> Result<String, String> {
    let (name, value) =
        text.split_once(':').ok_or("write a header as `NAME: VALUE`, for example `X-Key: secret`")?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
        return Err(format!("`{name}` is not the name of a header; use letters, digits and `-`"));
    }
    if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        return Err(format!("loadgen sets the header {name} itself; leave it out"));
    }
    if value.contains(|symbol: char| symbol.is_control()) {
        return Err(format!("the value of the header {name} has control characters; remove them"));
    }
    Ok(format!("{name}: {}", value.trim()))
}

fn parse_template(text: &str) -> Result<String, String> {
    if parts(text).iter().all(|part| matches!(part, Part::Fixed(_))) {
        return Err(format!("the body has no message; write {PAYLOAD} or {JSON_PAYLOAD} where it belongs"));
    }
    Ok(text.to_owned())
}

fn name(header: &str) -> &str {
    header.split(':').next().unwrap_or("")
}

/// Splits a body template at its placeholders.
fn parts(mut template: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    loop {
        let placeholders = [(PAYLOAD, Part::Payload), (JSON_PAYLOAD, Part::JsonPayload)];
        let found =
            placeholders.into_iter().filter_map(|(text, part)| Some((template.find(text)?, text, part)));
        let first = found.min_by_key(|&(at, ..)| at);
        let fixed = first.as_ref().map_or(template, |&(at, ..)| &template[..at]);
        if !fixed.is_empty() {
            parts.push(Part::Fixed(fixed.to_owned()));
        }
        let Some((at, text, part)) = first else { return parts };
        parts.push(part);
        template = &template[at + text.len()..];
    }
}

/// Appends an ASCII text with the escapes of a JSON string to `out` (RFC 8259 §7).
pub(crate) fn escape(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            // Messages contain no other control characters.
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "ws://127.0.0.1:8000/room/a%20b?token=1";

    fn options(headers: &[&str], body: &str, api_key: Option<&str>) -> PublishOptions {
        let headers = headers.iter().map(|header| parse_header(header).expect("a header"));
        PublishOptions {
            subscribers: 0,
            publish_url: None,
            publish_header: headers.collect(),
            publish_body: parse_template(body).expect("a template"),
            api_key: api_key.map(str::to_owned),
            publish_reconnect: false,
        }
    }

    fn request(options: &PublishOptions, payload: &str) -> Result<String, String> {
        let mut out = Vec::new();
        Post::new(options, URL, Publishers { count: 1, connections: 1 }, None)?
            .write(payload.as_bytes(), &mut out);
        Ok(String::from_utf8(out).expect("it is text"))
    }

    #[test]
    fn by_default_a_request_goes_to_the_api_of_uproar() {
        assert_eq!(
            request(&options(&[], "{payload}", Some("secret")), "hello").as_deref(),
            Ok("POST /api/rooms/a%20b/messages HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\
                Authorization: Bearer secret\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
        );
    }

    #[test]
    fn a_body_template_gets_the_message_with_and_without_escapes() {
        let headers = ["content-type: application/json", "X-Key:  a:b "];
        let body = r#"{"a":"{payload-json}","b":{}}{payload}"#;
        let text = request(&options(&headers, body, None), "x\"\\\n").expect("it is complete");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert_eq!(body, "{\"a\":\"x\\\"\\\\\\n\",\"b\":{}}x\"\\\n");
        assert!(head.ends_with(&format!("X-Key: a:b\r\nContent-Length: {}", body.len())), "{head}");
        assert!(!head.contains("text/plain"), "{head}");
    }

    #[test]
    fn wrong_options_are_named() {
        assert!(parse_template("{payload").is_err());
        for (header, reason) in [
            ("X-Key", "`NAME: VALUE`"),
            ("X Key: a", "`X Key` is not the name"),
            ("content-length: 3", "sets the header content-length itself"),
            ("X-Key: a\r\nb", "control characters"),
        ] {
            assert!(parse_header(header).is_err_and(|error| error.contains(reason)), "{header}");
        }
        let both = options(&["Authorization: Basic eA=="], "{payload}", Some("secret"));
        assert!(request(&both, "").is_err_and(|error| error.contains("not both")));
        assert!(
            request(&options(&[], "{payload}", Some("a\nb")), "")
                .is_err_and(|error| error.contains("--api-key"))
        );
        assert!(api_url("ws://h/chat").is_err_and(|error| error.contains("--publish-url")));
        assert_eq!(api_url("wss://h/room/x").as_deref(), Ok("https://h/api/rooms/x/messages"));
    }
}
