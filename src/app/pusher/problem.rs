//! Errors that clients hear about: as an event, and by the code of the close.

use super::encode::{Data, encode_event, push_text};
use super::{ClientId, CloseCode, Context, Message};

/// Code of the error of a client event that is not passed on. Clients never get it as a close code, after which they
/// would not connect again.
pub(super) const CLIENT_EVENT: u16 = 4301;
/// Code of the error of a watchlist that is too long.
pub(super) const WATCHLIST: u16 = 4302;

/// A reason to close a client: the code of the protocol, and a text for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) code: u16,
    pub(super) text: &'static str,
}

/// The key belongs to no application.
pub(super) const NO_APP: Problem =
    Problem { code: 4001, text: "No application has this key; check the key and the host." };
/// The application is disabled.
pub(super) const DISABLED: Problem = Problem { code: 4003, text: "The application is disabled." };
/// The path is not one of the protocol.
pub(super) const NO_PATH: Problem = Problem { code: 4005, text: "Clients connect to /app/KEY." };
/// The parameter `protocol` is no number.
pub(super) const BAD_VERSION: Problem =
    Problem { code: 4006, text: "The parameter protocol is not a number; use 5, 6 or 7." };
/// The protocol's version is not supported.
pub(super) const OTHER_VERSION: Problem =
    Problem { code: 4007, text: "This version of the protocol is not supported; use 5, 6 or 7." };
/// The parameter `protocol` is missing.
pub(super) const NO_VERSION: Problem =
    Problem { code: 4008, text: "The parameter protocol is missing; connect to /app/KEY?protocol=7." };
/// The application does not allow the page's origin.
pub(super) const ORIGIN: Problem =
    Problem { code: 4009, text: "The application does not allow this origin." };
/// The signature of a sign-in is wrong, or its user is.
pub(super) const UNAUTHORIZED: Problem =
    Problem { code: 4009, text: "The sign-in is not valid; check the application's key and secret." };

impl Problem {
    /// Sends the error as an event, for libraries that do not look at close codes, and closes the client with its code.
    pub(super) fn close(self, context: &mut Context<'_>, client: ClientId) {
        send(context, client, Some(self.code), self.text);
        context.close(client, CloseCode(self.code), self.text);
    }
}

/// Sends a client an error as an event.
pub(super) fn send(context: &mut Context<'_>, client: ClientId, code: Option<u16>, text: &str) {
    context.send_to_client(client, Message::text(&error_event(code, text)));
}

/// Returns the event `pusher:error`. Its data is an object, because Pysher reads no string there. An error without a code
/// has no key `code`: pusher-js fails on `null`.
fn error_event(code: Option<u16>, text: &str) -> String {
    let mut data = String::from("{");
    if let Some(code) = code {
        data += &format!("\"code\":{code},");
    }
    data += "\"message\":";
    push_text(&mut data, text);
    data.push('}');
    encode_event("pusher:error", None, Data::Json(&data), None)
}

/// A refused subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    /// The kind of the error: `AuthError` or `LimitReached`.
    kind: &'static str,
    text: String,
    status: u16,
}

impl Rejection {
    /// The client lacks a valid signature.
    pub(super) fn auth(text: impl Into<String>) -> Self {
        Self { kind: "AuthError", text: text.into(), status: 401 }
    }

    /// The name, the user or the number of channels is over a limit. `status` is a code of the protocol.
    pub(super) fn limit(status: u16, text: impl Into<String>) -> Self {
        Self { kind: "LimitReached", text: text.into(), status }
    }

    /// Returns the event that tells the client.
    pub(super) fn event(&self, channel: &str) -> String {
        let mut data = format!("{{\"type\":\"{}\",\"error\":", self.kind);
        push_text(&mut data, &self.text);
        data += &format!(",\"status\":{}}}", self.status);
        encode_event("pusher:subscription_error", Some(channel), Data::Json(&data), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_objects_and_have_a_code_only_if_there_is_one() {
        assert_eq!(
            error_event(Some(4001), "a \"b\""),
            r#"{"event":"pusher:error","data":{"code":4001,"message":"a \"b\""}}"#
        );
        assert_eq!(error_event(None, "x"), r#"{"event":"pusher:error","data":{"message":"x"}}"#);
        assert_eq!(
            Rejection::auth("no").event("private-a"),
            r#"{"event":"pusher:subscription_error","data":{"type":"AuthError","error":"no","status":401},"channel":"private-a"}"#
        );
    }

    #[test]
    fn no_problem_makes_a_client_try_again_at_once() {
        for problem in
            [NO_APP, DISABLED, NO_PATH, BAD_VERSION, OTHER_VERSION, NO_VERSION, ORIGIN, UNAUTHORIZED]
        {
            assert!((4000..4100).contains(&problem.code), "{problem:?}");
            assert!(CloseCode(problem.code).is_sendable() && problem.text.len() <= 123, "{problem:?}");
        }
    }
}
