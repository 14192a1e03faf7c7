//! Signing in: a connection proves which user it has.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::encode::{Data, encode_event, push_text};
use super::inbound::data_of;
use super::presence::NewMember;
use super::problem::{self, UNAUTHORIZED, WATCHLIST};
use super::subscriptions::{MAX_USER_ID, is_signed};
use super::{ClientId, Context, Message, Pusher, PusherApp};

/// Maximum number of users that a client may watch.
const MAX_WATCHED: usize = 100;

/// The user of a connection.
#[derive(Debug)]
pub(super) struct SignedIn {
    pub(super) id: Box<str>,
    /// JSON text with what members of presence channels may know of the user.
    info: Box<str>,
}

impl SignedIn {
    /// Returns the user as a member of a presence channel.
    pub(super) fn as_member(&self) -> NewMember {
        NewMember { user_id: self.id.clone(), info: self.info.clone() }
    }
}

/// Data of `pusher:signin`.
#[derive(Debug, Deserialize)]
struct SignIn {
    auth: String,
    /// JSON text of a [`UserData`].
    user_data: String,
}

#[derive(Debug, Deserialize)]
struct UserData {
    id: String,
    user_info: Option<Box<RawValue>>,
    watchlist: Option<Vec<String>>,
}

impl Pusher {
    /// Handles `pusher:signin`. A sign-in that is not valid closes the client, as the protocol says.
    pub(super) fn sign_in(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        app: &PusherApp,
        data: Option<&RawValue>,
    ) {
        let signed = format!("{}::user::", self.socket_id(client));
        let Some((user_data, user)) = verify(app, &signed, data) else {
            return UNAUTHORIZED.close(context, client);
        };
        let state = self.clients.entry(client.number).or_default();
        if state.signed_in.as_ref().is_some_and(|known| *known.id != *user.id) {
            let text = "The connection is signed in as another user; open another connection.";
            return problem::send(context, client, None, text);
        }
        if context.set_user(client, &user_of(app, &user.id)).is_err() {
            return UNAUTHORIZED.close(context, client);
        }
        if user.watchlist.is_some_and(|list| list.len() > MAX_WATCHED) {
            let text = format!("The watchlist has more than {MAX_WATCHED} users.");
            problem::send(context, client, Some(WATCHLIST), &text);
        }
        let info = user.user_info.map_or_else(|| "{}".into(), |info| info.get().into());
        state.signed_in = Some(SignedIn { id: user.id.into(), info });
        context.send_to_client(client, Message::text(&succeeded(&user_data)));
    }
}

/// Returns the user data of a valid sign-in, as text and parsed. `signed` is what the signature covers in addition.
fn verify(app: &PusherApp, signed: &str, data: Option<&RawValue>) -> Option<(String, UserData)> {
    let SignIn { auth, user_data } = data_of("pusher:signin", data).ok()?;
    if !is_signed(app, &[signed, &user_data].concat(), Some(&auth)) {
        return None;
    }
    let user: UserData = serde_json::from_str(&user_data).ok()?;
    (1..=MAX_USER_ID).contains(&user.id.len()).then_some((user_data, user))
}

/// Returns the identifier by which the server knows a user of an application.
pub(super) fn user_of(app: &PusherApp, id: &str) -> String {
    [&app.id, "/", id].concat()
}

fn succeeded(user_data: &str) -> String {
    let mut data = String::from("{\"user_data\":");
    push_text(&mut data, user_data);
    data.push('}');
    encode_event("pusher:signin_success", None, Data::Text(&data), None)
}

/// Parses the data of any event as that of a sign-in.
#[cfg(any(test, feature = "internals"))]
pub(super) fn check_data(data: Option<&RawValue>) {
    if let Ok(SignIn { user_data, .. }) = data_of::<SignIn>("e", data) {
        let _ = serde_json::from_str::<UserData>(&user_data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_user_data_as_a_text_within_a_text() {
        assert_eq!(
            succeeded(r#"{"id":"1"}"#),
            r#"{"event":"pusher:signin_success","data":"{\"user_data\":\"{\\\"id\\\":\\\"1\\\"}\"}"}"#
        );
    }
}
