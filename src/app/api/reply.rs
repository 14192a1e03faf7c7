//! Answers of the API: JSON texts, and errors with their code, message and remedy.

use std::borrow::Cow;

use serde_json::{Value, json};

use crate::app::{Refusal, Response, Status};
use crate::backends::Scope;
use crate::publisher::PublishError;

/// The answer to a call that succeeded: a JSON text.
#[derive(Clone, Debug)]
pub(super) struct Reply(pub(super) Box<str>);

impl Reply {
    pub(super) fn new(json: &Value) -> Self {
        Self(json.to_string().into())
    }
}

/// The error of a call.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: Status,
    /// Error code for programs, for example `no_route`.
    pub(super) code: &'static str,
    /// Sentence for people.
    message: Cow<'static, str>,
    /// Remedy: the sentence that tells the caller what to do.
    remedy: Cow<'static, str>,
    /// A header field that the status demands.
    header: Option<(&'static str, Cow<'static, str>)>,
}

impl Problem {
    pub(super) fn new(
        status: Status,
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code, message: message.into(), remedy: remedy.into(), header: None }
    }

    /// Creates the error of a wrong request: 400.
    pub(super) fn bad(
        code: &'static str,
        message: impl Into<Cow<'static, str>>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(Status::BadRequest, code, message, remedy)
    }

    fn with_header(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        Self { header: Some((name, value.into())), ..self }
    }

    fn unauthorized(code: &'static str, message: &'static str, remedy: &'static str) -> Self {
        // RFC 9110 §15.5.2, RFC 6750 §3
        Self::new(Status::Unauthorized, code, message, remedy).with_header("WWW-Authenticate", "Bearer")
    }

    pub(super) fn no_key() -> Self {
        let remedy = "Send one header Authorization: Bearer KEY with a key from the file of --api-keys.";
        Self::unauthorized("no_key", "The request has no API key, or several.", remedy)
    }

    pub(super) fn unknown_key() -> Self {
        let remedy =
            "Use a key from the file of --api-keys; after a change of the file reload the server (SIGHUP).";
        Self::unauthorized("unknown_key", "The server does not know this API key.", remedy)
    }

    pub(super) fn scope(name: &str, scope: Scope) -> Self {
        let scope = scope.name();
        let message = format!("The key {name} does not have the scope {scope}.");
        let remedy =
            format!("Add the scope {scope} to the key in the file of --api-keys, or use another key.");
        Self::new(Status::Forbidden, "scope", message, remedy)
    }

    pub(super) fn no_route() -> Self {
        let remedy = "Check the path; docs/api.md lists all routes.";
        Self::new(Status::NotFound, "no_route", "The API has no such route.", remedy)
    }

    pub(super) fn method(allowed: &str) -> Self {
        // RFC 9110 §15.5.6
        let problem = Self::new(
            Status::MethodNotAllowed,
            "method",
            "The route does not have this method.",
            format!("Use {allowed}."),
        );
        problem.with_header("Allow", allowed.to_owned())
    }

    /// Creates the error of a full queue: 429 with the time to wait.
    pub(super) fn busy(message: &'static str) -> Self {
        let problem = Self::new(Status::TooManyRequests, "busy", message, "Try again in a second.");
        problem.with_header("Retry-After", "1")
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("The message is longer than {limit} bytes.");
        Self::new(
            Status::ContentTooLarge,
            "too_large",
            message,
            "Send a shorter one, or raise --max-message.",
        )
    }

    pub(super) fn stopped() -> Self {
        let remedy = "Try again with the next server.";
        Self::new(Status::ServiceUnavailable, "stopped", "The server is shutting down.", remedy)
    }

    /// Returns whether a repeated call may succeed.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self.status, Status::TooManyRequests | Status::ServiceUnavailable)
    }

    /// Returns the error as the value of the member `error`.
    pub(super) fn json(&self) -> Value {
        json!({ "code": self.code, "message": self.message, "remedy": self.remedy })
    }

    pub(super) fn response(self) -> Response {
        let body = json!({ "error": self.json() }).to_string();
        let response = Response::json(self.status, body);
        match self.header {
            Some((name, value)) => response.with_header(name, value),
            None => response,
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Full => Self::busy("Too many messages wait in the server."),
            PublishError::TooLarge => Self::too_large(4 << 20),
            PublishError::Stopped => Self::stopped(),
        }
    }
}

impl From<Refusal> for Problem {
    /// Converts a refusal of the application. The sentence after a semicolon is the remedy.
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.status {
            Status::UnsupportedMediaType => "media_type",
            Status::Forbidden => "refused",
            Status::ContentTooLarge => "too_large",
            _ => "bad_message",
        };
        let (message, remedy) =
            refusal.reason.split_once("; ").unwrap_or((&refusal.reason, "Send another message."));
        let message = if message.ends_with('.') { message.into() } else { format!("{message}.") };
        let mut chars = remedy.chars();
        let remedy: String = chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
        Self::new(refusal.status, code, message, remedy)
    }
}
