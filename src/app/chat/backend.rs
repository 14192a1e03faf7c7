//! Messages of backends, which come through the HTTP API.

use std::borrow::Cow;

use crate::app::strip::clean;
use crate::app::{Incoming, Refusal, Status};
use crate::names::user_name;

/// Returns the name of a message's author, if it has one, and the text without HTML tags.
///
/// # Errors
/// Returns a refusal of binary and empty messages, and of authors that no user could be called.
pub(super) fn parts<'a>(
    author: Option<&'a str>,
    message: &Incoming<'a>,
) -> Result<(Option<Cow<'a, str>>, Cow<'a, str>), Refusal> {
    let Some(text) = message.text() else {
        let reason = "This chat takes text only; send the message as text/plain.";
        return Err(Refusal::new(Status::UnsupportedMediaType, reason));
    };
    let text = clean(text);
    if text.is_empty() {
        let reason = "Nothing was left of the message without its HTML tags; send some text.";
        return Err(Refusal::new(Status::BadRequest, reason));
    }
    let name = author.map(user_name).transpose().map_err(|problem| {
        let reason = format!("The parameter \"as\" is no user's name: {problem}.");
        Refusal::with_text(Status::BadRequest, reason)
    })?;
    Ok((name, text))
}
