//! The REST API for backends, below `/apps/ID`.

use super::{Answer, Context, HttpRequest, Pusher};

/// Answers a request whose path begins with `/apps/`.
pub(super) fn answer(_: &mut Pusher, _: &mut Context<'_>, _: &HttpRequest<'_>) -> Answer {
    Answer::NotMine
}
