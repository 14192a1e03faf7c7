//! Calls of the API: the parts of their requests, and their answers.

use std::fmt;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::app::{Answer, Context, HttpRequest, Responder, Response, Status};
use crate::backends::{Backends, Outcome};
use crate::hub::is_user;
use crate::names;

use super::reply::{Problem, Reply};

/// A call whose key and route are known.
pub(super) struct Ask<'a> {
    pub(super) request: &'a HttpRequest<'a>,
    /// The path's segments in place of the template's capital ones, percent-encoded.
    pub(super) segments: Vec<&'a str>,
    pub(super) parameters: Parameters,
    pub(super) call: &'a Call,
}

impl Ask<'_> {
    /// Defers the call. Returns the value for the shard, and the call that answers later from any thread.
    pub(super) fn defer(&self, context: &Context<'_>) -> (Answer, DeferredCall) {
        let (answer, responder) = self.request.defer(context);
        (answer, DeferredCall { call: self.call.clone(), responder })
    }

    /// Returns the identifier of the user in the path: the first capital segment of a route.
    pub(super) fn user(&self) -> Result<String, Problem> {
        let encoded = self.segments.first().copied().unwrap_or_default();
        let user = percent_decode_str(encoded).decode_utf8().ok().filter(|user| is_user(user));
        user.map(Into::into).ok_or_else(|| {
            let message = "The user's identifier is not 1 to 255 characters of UTF-8.";
            let remedy = "Encode the identifier as UTF-8, then with percent signs.";
            Problem::bad("user", message, remedy)
        })
    }

    /// Returns the canonical name of the room in the path: the last capital segment of a route.
    pub(super) fn room(&self) -> Result<String, Problem> {
        let encoded = self.segments.last().copied().unwrap_or_default();
        let name = percent_decode_str(encoded).decode_utf8().map_err(|_| {
            Problem::bad(
                "room",
                "The room's name is not UTF-8.",
                "Encode the name as UTF-8, then with percent signs.",
            )
        })?;
        room(&name)
    }
}

/// Returns the canonical form of a room's name.
pub(super) fn room(name: &str) -> Result<String, Problem> {
    names::room_name(name).map(Into::into).map_err(|problem| {
        let message = format!("The room's name is not allowed: {problem}.");
        Problem::bad("room", message, "Use 1 to 64 bytes: visible words with one space between them.")
    })
}

/// The parts of a call that its answer needs: for the log and the metrics.
#[derive(Clone, Debug)]
pub(super) struct Call {
    backends: Arc<Backends>,
    method: Box<str>,
    route: &'static str,
    /// Name of the key; `None` without a valid key.
    key: Option<Box<str>>,
}

impl Call {
    pub(super) fn new(backends: Arc<Backends>, method: &str, route: &'static str, key: Option<&str>) -> Self {
        // A method of the API has at most 7 letters; another one only appears in the log.
        let method = method.chars().take(16).collect::<String>().into();
        Self { backends, method, route, key: key.map(Into::into) }
    }

    /// Returns the name of the key.
    pub(super) fn key(&self) -> &str {
        self.key.as_deref().unwrap_or_default()
    }

    /// Counts and logs the call's outcome, and returns the response.
    pub(super) fn record(&self, outcome: Result<Reply, Problem>) -> Response {
        let (status, code) = match &outcome {
            Ok(_) => (Status::Ok, ""),
            Err(problem) => (problem.status, problem.code),
        };
        let (method, key) = (&*self.method, self.key.as_deref());
        self.backends.record(&Outcome { method, route: self.route, key, status: status.code(), code });
        match outcome {
            Ok(Reply(json)) => Response::json(Status::Ok, json),
            Err(problem) => problem.response(),
        }
    }
}

/// A call that is answered later, from any thread. A dropped one answers with 500.
pub(super) struct DeferredCall {
    call: Call,
    responder: Responder,
}

impl DeferredCall {
    pub(super) fn finish(self, outcome: Result<Reply, Problem>) {
        let response = self.call.record(outcome);
        self.responder.answer(response);
    }
}

impl fmt::Debug for DeferredCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeferredCall").field("call", &self.call).finish_non_exhaustive()
    }
}

/// The parameters of a query, decoded. A handler takes those that it knows.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Problem> {
        // Forms and PHP's http_build_query write a space as `+`.
        let decode = |text: &str| {
            let spaced = text.replace('+', " ");
            percent_decode_str(&spaced).decode_utf8().map(|text| text.into_owned())
        };
        let mut parameters: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Ok(name), Ok(value)) = (decode(name), decode(value)) else {
                let remedy = "Encode parameters as UTF-8, then with percent signs.";
                return Err(Problem::bad("parameter", "A parameter of the query is not UTF-8.", remedy));
            };
            if parameters.iter().any(|(known, _)| *known == name) {
                let message = format!("The parameter {} is there twice.", shown(&name));
                return Err(Problem::bad("parameter", message, "Send it once."));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Returns an error if a parameter is left that no handler has taken. `known` lists the route's parameters.
    pub(super) fn end(&self, known: &str) -> Result<(), Problem> {
        let Some((name, _)) = self.0.first() else { return Ok(()) };
        let message = format!("The route has no parameter {}.", shown(name));
        let remedy = if known.is_empty() {
            "Leave it out.".to_owned()
        } else {
            format!("Its parameters are: {known}.")
        };
        Err(Problem::bad("parameter", message, remedy))
    }
}

/// Returns the start of a text from a request, for an error.
pub(super) fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

/// Returns the key of a request: the only credentials with the scheme Bearer. RFC 6750 §2.1
pub(super) fn bearer<'a>(request: &HttpRequest<'a>) -> Result<&'a [u8], Problem> {
    let mut keys = request.bearer();
    match (keys.next(), keys.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(Problem::no_key()),
    }
}

/// Returns the segments of `path` in place of the capital ones of `template`. `None` if the path is another one.
pub(super) fn segments<'a>(template: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut expected, mut given) = (template.split('/'), path.split('/'));
    let mut found = Vec::new();
    loop {
        match (expected.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(expected), Some(given)) if expected.starts_with(|char: char| char.is_ascii_uppercase()) => {
                found.push(given);
            }
            (Some(expected), Some(given)) if expected == given => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capital_segments_match_any_text_and_others_only_themselves() {
        let template = "/api/rooms/ROOM/messages";
        assert_eq!(segments(template, "/api/rooms/a%2Fb/messages"), Some(vec!["a%2Fb"]));
        assert_eq!(segments(template, "/api/rooms//messages"), Some(vec![""]));
        for path in
            ["/api/rooms/a", "/api/rooms/a/messages/", "/api/rooms/a/members", "/api/Rooms/a/messages"]
        {
            assert_eq!(segments(template, path), None, "{path}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_each_is_taken_once() {
        let mut parameters = Parameters::parse(Some("as=J%C3%BCrgen+B&limit=5&&x")).expect("valid");
        assert_eq!(parameters.take("as").as_deref(), Some("Jürgen B"));
        assert_eq!((parameters.take("as"), parameters.take("limit").as_deref()), (None, Some("5")));
        assert!(parameters.end("as").is_err());
        assert_eq!(parameters.take("x").as_deref(), Some(""));
        assert!(parameters.end("").is_ok());
        assert!(Parameters::parse(Some("a=1&a=2")).is_err() && Parameters::parse(Some("a=%ff")).is_err());
    }
}
