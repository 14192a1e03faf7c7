//! Subscriptions of this shard's clients.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::channel::{self, Channel, Type};
use super::encode::{Data, encode_event};
use super::home::{Ask, Join, Told};
use super::inbound::{Id, data_of};
use super::presence::NewMember;
use super::problem::{self, Rejection};
use super::{ClientId, Context, Message, Pusher, PusherApp, signature};

/// Maximum length of a user's identifier in bytes.
pub(super) const MAX_USER_ID: usize = 200;
/// Maximum length of a refused channel name that the error repeats, in bytes.
const MAX_REPEATED: usize = 1_000;

/// A client's subscriptions that need state.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    /// Rooms whose home has not answered yet, with the number of the join.
    pending: Rooms<u64>,
    /// Rooms of presence channels, with the client's user identifier there. The home has the client as a member, or will
    /// have refused it.
    seats: Rooms<Box<str>>,
}

/// Values by room, for the few rooms of a client. A map would have a node of several hundred bytes for one room.
#[derive(Debug)]
struct Rooms<T>(Vec<(Box<str>, T)>);

impl<T> Default for Rooms<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Rooms<T> {
    fn get(&self, room: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| **known == *room).map(|(_, value)| value)
    }

    /// Adds the value of a room that has none.
    fn insert(&mut self, room: &str, value: T) {
        if self.0.is_empty() {
            self.0.reserve_exact(1);
        }
        self.0.push((room.into(), value));
    }

    fn remove(&mut self, room: &str) -> Option<(Box<str>, T)> {
        let at = self.0.iter().position(|(known, _)| **known == *room)?;
        Some(self.0.swap_remove(at))
    }
}

/// Data of `pusher:subscribe`.
#[derive(Debug, Deserialize)]
struct Subscribe {
    channel: String,
    auth: Option<String>,
    channel_data: Option<String>,
}

/// Data of `pusher:unsubscribe`.
#[derive(Debug, Deserialize)]
struct Unsubscribe {
    channel: String,
}

/// The user that `channel_data` names.
#[derive(Debug, Deserialize)]
struct ChannelData {
    user_id: Id,
    user_info: Option<Box<RawValue>>,
}

impl Subscriptions {
    /// Returns whether the client is in a presence channel.
    pub(super) fn is_present(&self) -> bool {
        !self.seats.0.is_empty()
    }

    /// Returns the client's user identifier in the room of a presence channel.
    pub(super) fn user_id(&self, room: &str) -> Option<&str> {
        self.seats.get(room).map(|user_id| &**user_id)
    }

    /// Leaves all presence channels of a client that is gone.
    pub(super) fn end(&mut self, context: &mut Context<'_>, client: ClientId) {
        for (room, user_id) in self.seats.0.drain(..) {
            context.ask(context.home_of(&room), Ask::Leave { room, client: client.number, user_id });
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.0.is_empty() && self.seats.0.is_empty()
    }
}

impl Pusher {
    /// Handles `pusher:subscribe`.
    pub(super) fn subscribe(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        app: &PusherApp,
        data: Option<&RawValue>,
    ) {
        let request: Subscribe = match data_of("pusher:subscribe", data) {
            Ok(request) => request,
            Err(text) => return problem::send(context, client, None, &text),
        };
        let admitted = self.admit(client, app, &request);
        let joined = admitted.and_then(|(channel, member)| self.join(context, client, app, channel, member));
        if let Err(rejection) = joined {
            let name = match request.channel.len() > MAX_REPEATED {
                true => &*channel::shown(&request.channel),
                false => &request.channel,
            };
            context.send_to_client(client, Message::text(&rejection.event(name)));
        }
    }

    /// Handles `pusher:unsubscribe`. Does nothing for a channel that the client has not subscribed to.
    pub(super) fn unsubscribe(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        app: &PusherApp,
        data: Option<&RawValue>,
    ) {
        let name = match data_of("pusher:unsubscribe", data) {
            Ok(Unsubscribe { channel }) => channel,
            Err(text) => return problem::send(context, client, None, &text),
        };
        let Some(channel) = Channel::parse(&name) else { return };
        let room = channel.room(&app.id);
        if app.counts_subscriptions() && context.unsent(client, &room).is_some() {
            note_change(context, &room);
        }
        context.leave(client, &room);
        let Some(state) = self.clients.get_mut(&client.number) else { return };
        state.subscriptions.pending.remove(&room);
        if let Some((room, user_id)) = state.subscriptions.seats.remove(&room) {
            context.ask(context.home_of(&room), Ask::Leave { room, client: client.number, user_id });
        }
        self.drop_unused(client);
    }

    /// Checks whether a client may subscribe. Returns the channel, and the user that joins a presence channel.
    fn admit<'a>(
        &self,
        client: ClientId,
        app: &PusherApp,
        request: &'a Subscribe,
    ) -> Result<(Channel<'a>, Option<NewMember>), Rejection> {
        let Some(channel) = Channel::parse(&request.channel) else {
            let name = channel::shown(&request.channel);
            let text = format!(
                "No channel can have the name {name:?}; use 1 to 200 letters, digits and _-=@,.; for channels."
            );
            return Err(Rejection::limit(4009, text));
        };
        let signed_in = self.clients.get(&client.number).and_then(|state| state.signed_in.as_ref());
        if channel.of_type == Type::User && signed_in.map(|user| &*user.id) != channel.user() {
            return Err(Rejection::auth("Only clients that are signed in as this user may subscribe."));
        }
        if !channel.needs_signature() {
            return Ok((channel, None));
        }
        let socket_id = self.socket_id(client);
        let mut signed = format!("{socket_id}:{}", channel.name);
        if let Some(data) = &request.channel_data {
            signed = format!("{signed}:{data}");
        }
        if !is_signed(app, &signed, request.auth.as_deref()) {
            let text =
                "The signature of the subscription is not valid; check the application's key and secret.";
            return Err(Rejection::auth(text));
        }
        let member = match (channel.is_presence(), &request.channel_data, signed_in) {
            (false, ..) => None,
            (true, Some(data), _) => Some(member_of(data, app)?),
            (true, None, Some(user)) => Some(user.as_member()),
            (true, None, None) => {
                let text =
                    "A presence channel needs channel_data with a user_id, or a client that is signed in.";
                return Err(Rejection::auth(text));
            }
        };
        Ok((channel, member))
    }

    /// Makes a client a subscriber of a channel, and tells it at once or when the channel's home answers.
    fn join(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        app: &PusherApp,
        channel: Channel<'_>,
        member: Option<NewMember>,
    ) -> Result<(), Rejection> {
        let room = channel.room(&app.id);
        let known = self.clients.get(&client.number).map(|state| &state.subscriptions);
        if known.is_some_and(|known| known.pending.get(&room).is_some()) {
            // The answer to the first request is on its way.
            return Ok(());
        }
        if context.unsent(client, &room).is_some() {
            self.repeat(context, client, &channel);
            return Ok(());
        }
        if !context.join_held(client, &room) {
            let text = "The connection is in as many channels as --max-rooms-per-connection allows.";
            return Err(Rejection::limit(4100, text));
        }
        if app.counts_subscriptions() {
            note_change(context, &room);
        }
        if member.is_none() && !channel.is_cache && context.start(client, &room) {
            context.send_to_client(client, Message::text(&succeeded(channel.name)));
            return Ok(());
        }
        let number = self.next_join;
        self.next_join += 1;
        let subscriptions = &mut self.clients.entry(client.number).or_default().subscriptions;
        subscriptions.pending.insert(&room, number);
        let mut bytes = room.len();
        if let Some(member) = &member {
            bytes += member.user_id.len() + member.info.len();
            subscriptions.seats.insert(&room, member.user_id.clone());
        }
        let member = member.map(|member| (member, app.max_presence_members));
        let home = context.home_of(&room);
        let join = Join { room: room.into(), client, number, is_cache: channel.is_cache, member };
        context.ask_sized(home, Ask::Join(Box::new(join)), bytes + size_of::<Join>());
        Ok(())
    }

    /// Answers a client that subscribes to a channel of which it is a subscriber.
    fn repeat(&self, context: &mut Context<'_>, client: ClientId, channel: &Channel<'_>) {
        if channel.is_presence() {
            // A second list could not be true at the client's place in the channel.
            let text = format!("The connection is subscribed to {} already.", channel.name);
            return problem::send(context, client, None, &text);
        }
        context.send_to_client(client, Message::text(&succeeded(channel.name)));
    }

    /// Handles the answer of a room's home.
    pub(super) fn take_told(&mut self, context: &mut Context<'_>, told: Told) {
        match told {
            Told::Joined { room, joins, succeeded, then } => {
                let clients = joins.iter().filter(|(client, number)| self.settle(*client, &room, *number));
                let clients: Vec<ClientId> = clients.map(|(client, _)| *client).collect();
                tell_joined(context, &room, &clients, succeeded, then);
            }
            Told::Refused { room, client, number, rejection } => {
                if !self.settle(client, &room, number) {
                    return;
                }
                context.leave(client, &room);
                if let Some(state) = self.clients.get_mut(&client.number) {
                    state.subscriptions.seats.remove(&room);
                }
                self.drop_unused(client);
                let event = rejection.event(super::home::channel(&room));
                context.send_to_client(client, Message::text(&event));
            }
        }
    }

    /// Ends the wait of a client for the answer to a join. Returns false if the client is gone, or has unsubscribed since.
    fn settle(&mut self, client: ClientId, room: &str, number: u64) -> bool {
        let Some(state) = self.clients.get_mut(&client.number) else { return false };
        if state.subscriptions.pending.get(room) != Some(&number) {
            return false;
        }
        state.subscriptions.pending.remove(room);
        self.drop_unused(client);
        true
    }

    /// Drops the state of a client that needs none any more.
    fn drop_unused(&mut self, client: ClientId) {
        let is_unused = |state: &super::Client| {
            state.subscriptions.is_empty() && state.signed_in.is_none() && state.allowance.is_none()
        };
        if self.clients.get(&client.number).is_some_and(|state| is_unused(state)) {
            self.clients.remove(&client.number);
        }
    }
}

/// Tells the home of a room that its number of subscribers changes. Channels of users and presence channels are not
/// counted.
pub(super) fn note_change(context: &mut Context<'_>, room: &str) {
    let name = super::home::channel(room);
    if !name.starts_with("presence-") && !name.starts_with('#') {
        context.ask(context.home_of(room), Ask::Changed { room: room.into() });
    }
}

/// Tells clients that they are subscribed, and starts their subscriptions.
fn tell_joined(
    context: &mut Context<'_>,
    room: &str,
    clients: &[ClientId],
    list: Option<Arc<str>>,
    then: Option<Arc<str>>,
) {
    let first = match &list {
        Some(list) => list,
        None => &*succeeded(super::home::channel(room)),
    };
    context.send_to_clients(clients, Message::text(first));
    if let Some(event) = then {
        context.send_to_clients(clients, Message::text(&event));
    }
    for client in clients {
        context.start(*client, room);
    }
}

/// Returns the event that tells a client that it is a subscriber of an ordinary channel.
fn succeeded(channel: &str) -> String {
    encode_event("pusher_internal:subscription_succeeded", Some(channel), Data::Text("{}"), None)
}

/// Returns whether `auth` is the application's key with its signature of `signed`: `KEY:SIGNATURE`.
pub(super) fn is_signed(app: &PusherApp, signed: &str, auth: Option<&str>) -> bool {
    let signature = auth.and_then(|auth| auth.strip_prefix(&*app.key)?.strip_prefix(':'));
    signature.is_some_and(|signature| signature::verify(&app.secret, signed, signature))
}

/// Parses the `channel_data` of a presence channel.
pub(super) fn member_of(data: &str, app: &PusherApp) -> Result<NewMember, Rejection> {
    if data.len() > app.max_member_bytes as usize {
        let text = format!("The channel_data is longer than {} bytes.", app.max_member_bytes);
        return Err(Rejection::limit(4301, text));
    }
    let parsed: ChannelData = serde_json::from_str(data)
        .map_err(|error| Rejection::auth(format!("The channel_data is not valid: {error}.")))?;
    let user_id = parsed.user_id.0;
    if user_id.is_empty() || user_id.len() > MAX_USER_ID {
        return Err(Rejection::limit(4301, "The user_id does not have 1 to 200 bytes."));
    }
    let info = parsed.user_info.map_or_else(|| "{}".into(), |info| info.get().into());
    Ok(NewMember { user_id: user_id.into(), info })
}

/// Parses the data of any event as that of a subscription.
#[cfg(any(test, feature = "internals"))]
pub(super) fn check_data(data: Option<&RawValue>) {
    let _ = data_of::<Subscribe>("e", data);
    let _ = data_of::<Unsubscribe>("e", data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_names_a_user() {
        let app = PusherApp { max_member_bytes: 300, ..PusherApp::new("1", "k", "s") };
        let parse =
            |data: &str| member_of(data, &app).map(|one| (one.user_id.to_string(), one.info.to_string()));
        let expected = |id: &str, info: &str| Ok((id.to_owned(), info.to_owned()));
        assert_eq!(parse(r#"{"user_id":"a","user_info":{"x":[1, 2]}}"#), expected("a", r#"{"x":[1, 2]}"#));
        assert_eq!(parse(r#"{"user_id":12}"#), expected("12", "{}"));
        assert_eq!(parse(r#"{"user_id":"ä","user_info":"text","more":1}"#), expected("ä", "\"text\""));
        assert_eq!(parse(r#"{"user_id":"a","user_info":null}"#), expected("a", "{}"));
        let long = format!("{{\"user_id\":\"{}\"}}", "a".repeat(201));
        let longer = format!("{{\"user_id\":\"a\",\"user_info\":\"{}\"}}", "a".repeat(300));
        for wrong in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"user_id":null}"#,
            r#"{"user_id":""}"#,
            r#"{"user_id":{}}"#,
            &long,
            &longer,
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_signature_belongs_to_its_key_and_text() {
        let app = PusherApp::new("1", "278d425bdf160c739803", "7ad3773142a6692b25b8");
        let digits = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4";
        let (text, auth) = ("1234.1234:private-foobar", format!("{}:{digits}", app.key));
        assert!(is_signed(&app, text, Some(&auth)));
        assert!(!is_signed(&app, "1234.1235:private-foobar", Some(&auth)));
        let others =
            [String::new(), digits.into(), format!("other:{digits}"), format!("{}{digits}", app.key)];
        assert!(!others.iter().any(|auth| is_signed(&app, text, Some(auth))));
        assert!(!is_signed(&app, text, None));
    }

    #[test]
    fn the_event_of_an_ordinary_channel_has_the_bytes_of_the_protocol() {
        assert_eq!(
            succeeded("test-channel"),
            r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"test-channel"}"#
        );
    }
}
