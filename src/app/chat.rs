//! `chat`: a chat with names, rooms and private messages.
//!
//! A name belongs to one client on the whole server. The instance on the name's home shard knows which client has the
//! name; other instances ask that instance.
//!
//! On a server that requires tokens, names come from tokens only. Clients whose tokens have the same `sub` are one user
//! and share the name. Of two users with the same name, the second gets a suffix: see [`with_suffix`].
//! The user of a client, as [`Context::send_to_user`] knows it, is the `sub` of its token, or else its name.
//!
//! Room messages are lines of text, equal for all clients. Notices to one client are lines of text, too. A client that
//! connects with `?format=json` gets notices as JSON objects in binary messages instead ([`Notice`]). Such a client
//! also gets the ages of the messages in a room's history. With `?format=json&presence=1` it is kept informed about who
//! is in its rooms: see [`presence`].
//!
//! A client that returns with its session (`?session=ID`) is in its room again, with its name.

mod backend;
mod board;
mod directory;
mod notice;
mod presence;
mod returning;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use sha2::{Digest, Sha256};

use crate::names::{MAX_USER_NAME, room_name, user_key, user_name};

use super::strip::clean;
use super::{
    Answer, App, CHAT_PAGE, Claims, ClientId, CloseCode, Context, HttpRequest, Incoming, Kind, Members,
    Message, Note, Opening, Refusal, Renewal, Response, ResumedRoom, Status, rooms,
};

use directory::Directory;
use notice::{Limits, Notice};
use presence::{FromBoard, ListQuestion, Presence, ToBoard};
use returning::keep_name;

/// Number of past messages that a client sees when it joins a room.
const HISTORY: u32 = 50;
/// Default rate limit of a client in messages per second: more than anybody types.
const MESSAGES_PER_SECOND: u32 = 20;
/// Default rate limit of a client in bytes per second: enough for one long message at once.
const BYTES_PER_SECOND: u32 = 256 << 10;
/// Maximum number of names that `/who` lists. Further members are only counted.
const LISTED: u32 = 100;
/// Limit, in bytes, for messages kept from a client whose token's name is not granted yet. Granting a name takes a note
/// to another shard and an answer.
const EARLY_BYTES: usize = 64 << 10;

/// Length limits of the chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatOptions {
    /// Maximum length of a room message in bytes. The server enforces this limit; the chat only tells the limit to its
    /// clients.
    pub max_message: u32,
    /// Maximum length of a private message in bytes. Each shard to which the reader is connected gets a copy.
    pub max_private_message: u32,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { max_message: 1 << 20, max_private_message: 8 << 10 }
    }
}

/// The application `chat`, with names, rooms and private messages. `/help` lists the commands.
#[derive(Debug, Default)]
pub struct Chat {
    options: ChatOptions,
    /// Names of this shard's clients, by client number. Clients without a name are absent.
    names: HashMap<u64, String>,
    /// Numbers of this shard's clients that get notices as JSON.
    structured: HashSet<u64>,
    /// Numbers of this shard's clients that get the presence of their rooms.
    watching: HashSet<u64>,
    presence: Presence,
    /// Numbers of this shard's clients that wait for the answer to `/nick`. A client claims one name at a time. With
    /// two claims, releasing the old name for the first could release the name that the second was granted.
    claiming: HashSet<u64>,
    /// Claims in the tokens of this shard's clients, by client number.
    claims: HashMap<u64, Claims>,
    /// This shard's clients whose token's name is not granted yet, by client number. Newcomers are in no room yet.
    newcomers: HashMap<u64, Newcomer>,
    /// Names whose home is this shard, with the clients that hold each name.
    directory: Directory,
    /// Questions for lists of members, by their tokens.
    asking: HashMap<u64, Asker>,
    /// Token of the next question for a list of members.
    next_question: u64,
}

/// A newcomer: a client whose token's name is not granted yet and may be refused.
#[derive(Debug, Default)]
struct Newcomer {
    room: String,
    /// Early messages: text that the client sent before its name was granted, in order.
    early: Vec<String>,
    early_bytes: usize,
    /// Whether the client has left after sending early messages.
    is_gone: bool,
}

/// The receiver of a list of members.
#[derive(Debug)]
enum Asker {
    /// A client that sent `/who`.
    Client(ClientId),
    /// The board with this number.
    Board(u64),
}

/// Note with a question from one chat instance to another.
enum Ask {
    /// Claims the name for the client. `user` is the identity in the client's token, if it has one.
    /// A client that had the name as `from`, an earlier connection, gets it from that connection.
    Claim { name: String, client: ClientId, user: Option<String>, from: Option<ClientId> },
    /// Releases the client's name.
    Release { name: String, client: ClientId },
    /// Sends a private message from the client `from`, called `label`, to the user called `name`.
    Private { from: ClientId, label: String, name: String, text: String },
    /// Asks for the ages of the room's last messages, for a client that has joined the room.
    Ages { room: String, client: ClientId },
    /// Tells the board of a room something.
    Presence(ToBoard),
}

/// Note with an answer from one chat instance to another, or with a private message for the other shard's clients.
enum Tell {
    /// Answer to a claim: the client has the name now.
    Granted { name: String, client: ClientId },
    /// Answer to a claim: another user has the name.
    Taken { name: String, client: ClientId },
    /// Private message for `clients`, which are all one user.
    Private { clients: Vec<ClientId>, from: Arc<str>, text: Arc<str> },
    /// Confirmation that the client's private message to the user `name` is on its way.
    Sent { client: ClientId, name: String, text: Arc<str> },
    /// Answer to a private message: no user is called `name`.
    Nobody { client: ClientId, name: String },
    /// Ages, in seconds, of the last messages of the room that the client has joined.
    Ages { client: ClientId, room: String, ages: Vec<u32> },
    /// Note of the board of a room.
    Presence(FromBoard),
}

/// Returns the response with the chat page.
fn page() -> Response {
    static PAGE: LazyLock<Response> = LazyLock::new(|| Response::page(CHAT_PAGE));
    PAGE.clone()
}

impl App for Chat {
    fn history(&self) -> u32 {
        HISTORY
    }

    fn on_request(&mut self, _: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        rooms(request, Some(page))
    }

    fn rates(&self) -> (u32, u32) {
        (MESSAGES_PER_SECOND, BYTES_PER_SECOND)
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        let room = opening.room;
        let has = |wanted| opening.query.is_some_and(|query| query.split('&').any(|found| found == wanted));
        if has("format=json") {
            self.structured.insert(client.number);
            if has("presence=1") {
                self.watching.insert(client.number);
            }
        }
        let resumption = opening.resumption.as_ref();
        if let Some(claims) = opening.claims {
            self.claims.insert(client.number, claims.clone());
            if let (Some(user), Some(name)) = (claims.user(), claims.name()) {
                let former = resumption.and_then(|resumption| self.room_of(client, resumption));
                return self.claim_proven(context, client, (user, name), former.unwrap_or(room));
            }
        }
        match resumption {
            Some(resumption) => self.welcome_back(context, client, resumption, room),
            None => self.enter(context, client, room),
        }
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let Some(text) = message.text() else {
            return context.close(client, CloseCode::UNSUPPORTED, "this chat takes text messages only");
        };
        let Some(newcomer) = self.newcomers.get_mut(&client.number) else {
            return self.take_text(context, client, text);
        };
        if !newcomer.keep(text) {
            let text = "your message was dropped: the name in your token is not confirmed yet; try again in a moment";
            self.tell(context, client, &text.into());
        }
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        match self.newcomers.get_mut(&client.number) {
            // The early messages of a client that left are published if its name is granted.
            Some(newcomer) if !newcomer.early.is_empty() => newcomer.is_gone = true,
            _ => {
                if !self.presence.is_unused() {
                    for room in context.rooms(client) {
                        // The client still is a member.
                        let left = context.members(&room).len().saturating_sub(1);
                        self.went(context, client, &room, left);
                    }
                }
                self.forget(context, client);
            }
        }
    }

    fn on_added(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        self.came(context, client, room);
    }

    fn on_removed(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        let left = context.members(room).len();
        self.went(context, client, room, left);
    }

    fn on_timer(&mut self, context: &mut Context<'_>, token: u64) {
        let question = self.presence.fire(context, token);
        self.ask_list(context, question);
    }

    fn describe_member(&mut self, _: &str, client: ClientId) -> String {
        self.label(client)
    }

    fn on_members(&mut self, context: &mut Context<'_>, members: Members) {
        let Some(asker) = self.asking.remove(&members.token) else { return };
        let Members { room, count, members, .. } = members;
        let client = match asker {
            Asker::Client(client) => client,
            Asker::Board(board) => {
                let members = members.into_iter().map(|one| (one.client.number, one.description.into()));
                let question = self.presence.add_list(context, board, members);
                return self.ask_list(context, question);
            }
        };
        let mut names: Vec<String> = members.into_iter().map(|member| member.description).collect();
        names.sort_unstable();
        self.tell(context, client, &Notice::People { room: &room, names: &names, count });
    }

    fn on_api_message<'a>(
        &mut self,
        author: Option<&str>,
        message: Incoming<'a>,
    ) -> Result<Cow<'a, [u8]>, Refusal> {
        let line = match backend::parts(author, &message)? {
            (None, text) => format!("* {text}"),
            (Some(name), text) => format!("{name}: {text}"),
        };
        Ok(line.into_bytes().into())
    }

    fn on_api_user_message<'a>(
        &mut self,
        author: Option<&str>,
        message: Incoming<'a>,
    ) -> Result<Cow<'a, [u8]>, Refusal> {
        let (_, text) = backend::parts(author, &message)?;
        let limit = self.options.max_private_message as usize;
        if text.len() > limit {
            let reason = format!(
                "A private message has at most {limit} bytes; send a shorter one, or raise --max-private-message."
            );
            return Err(Refusal::with_text(Status::ContentTooLarge, reason));
        }
        Ok(text.into_owned().into_bytes().into())
    }

    fn on_api_delivery(
        &mut self,
        context: &mut Context<'_>,
        clients: &[ClientId],
        author: Option<&str>,
        message: Incoming<'_>,
    ) {
        let text = message.text().unwrap_or_default();
        match author.and_then(|author| user_name(author).ok()) {
            Some(name) => self.deliver(context, clients, &Notice::PrivateFrom { name: &name, text }),
            None => self.deliver(context, clients, &text.into()),
        }
    }

    fn on_lag(&mut self, context: &mut Context<'_>, client: ClientId, missed: u64) {
        self.tell(context, client, &Notice::Missed { count: missed });
        if self.watching.contains(&client.number) {
            // An update may be among the missed messages.
            for room in context.rooms(client) {
                self.presence.watch(context, client, &room);
            }
        }
    }

    fn on_resumed(&mut self, context: &mut Context<'_>, client: ClientId, resumed: ResumedRoom<'_>) {
        self.tell_resumed(context, client, resumed);
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        let Ok(ask) = note.downcast::<Ask>() else { return };
        match *ask {
            Ask::Claim { name, client, user, from } => {
                let is_granted = self.directory.grant(&name, client, user, from);
                let answer =
                    if is_granted { Tell::Granted { name, client } } else { Tell::Taken { name, client } };
                context.tell(client.shard, answer);
            }
            Ask::Release { name, client } => self.directory.give_back(&name, client),
            Ask::Private { from, label, name, text } => self.pass_on(context, from, &label, name, &text),
            Ask::Ages { room, client } => {
                let ages = context.history_ages(&room);
                context.tell(client.shard, Tell::Ages { client, room, ages });
            }
            Ask::Presence(note) => {
                let question = self.presence.take_ask(context, note);
                self.ask_list(context, question);
            }
        }
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        let Ok(tell) = note.downcast::<Tell>() else { return };
        match *tell {
            Tell::Private { clients, from, text } => {
                self.deliver(context, &clients, &Notice::PrivateFrom { name: &from, text: &text });
            }
            Tell::Sent { client, name, text } => {
                self.tell(context, client, &Notice::PrivateTo { name: &name, text: &text });
            }
            Tell::Nobody { client, name } => {
                let text = format!("nobody is called {name}; /who lists who is here");
                self.tell(context, client, &text.into());
            }
            Tell::Granted { client, .. } if self.claims.contains_key(&client.number) => {
                if let Some(newcomer) = self.newcomers.remove(&client.number) {
                    self.admit(context, client, newcomer);
                }
            }
            Tell::Granted { name, client } if self.newcomers.contains_key(&client.number) => {
                self.readmit(context, client, &name, true);
            }
            Tell::Granted { name, client } => self.rename(context, client, name),
            Tell::Taken { name, client }
                if self.newcomers.contains_key(&client.number)
                    && !self.claims.contains_key(&client.number) =>
            {
                self.readmit(context, client, &name, false);
            }
            Tell::Taken { name, client } if self.newcomers.contains_key(&client.number) => {
                self.claim_suffixed(context, client, &name);
            }
            // A newcomer that left without early messages is forgotten already.
            Tell::Taken { client, .. } if !context.is_here(client) => {}
            Tell::Taken { name, client } => {
                self.claiming.remove(&client.number);
                self.tell(context, client, &Notice::Taken { name: &name });
            }
            Tell::Ages { client, room, ages } => self.tell_ages(context, client, &room, &ages),
            Tell::Presence(note) => self.presence.take_tell(context, note),
        }
    }
}

impl Chat {
    /// Creates a chat instance with these limits.
    pub fn new(options: ChatOptions) -> Self {
        Self { options, ..Self::default() }
    }

    /// Returns the client's name, for example `alice`. A client without a name is `User #17 (2)`: client number 17 on
    /// worker 2.
    fn label(&self, client: ClientId) -> String {
        match self.names.get(&client.number) {
            Some(name) => name.clone(),
            None => format!("User #{} ({})", client.number, client.shard + 1),
        }
    }

    /// Sends a notice to one client of this shard, as JSON or text according to the client's format.
    fn tell(&self, context: &mut Context<'_>, client: ClientId, notice: &Notice<'_>) {
        let (kind, text) = notice.encode(self.structured.contains(&client.number));
        context.send_to_client(client, Message::new(kind, text.as_bytes()));
    }

    /// Admits a client after its token's name was granted: the client enters its room, and its early messages are
    /// handled.
    fn admit(&mut self, context: &mut Context<'_>, client: ClientId, newcomer: Newcomer) {
        let Newcomer { room, early, is_gone, .. } = newcomer;
        if !is_gone {
            self.enter(context, client, &room);
            for text in early {
                self.take_text(context, client, &text);
            }
            return;
        }
        let may_speak = self.claims.get(&client.number).is_none_or(|claims| claims.may_publish(&room));
        let label = self.label(client);
        for text in
            early.iter().filter(|_| may_speak).filter(|text| !text.starts_with('/')).map(|text| clean(text))
        {
            if !text.is_empty() {
                let parts = &[label.as_bytes(), b": ", text.as_bytes()];
                context.publish_to_room(&room, Message::from_parts(Kind::Text, parts));
            }
        }
        self.forget(context, client);
    }

    fn forget(&mut self, context: &mut Context<'_>, client: ClientId) {
        self.structured.remove(&client.number);
        self.watching.remove(&client.number);
        self.claiming.remove(&client.number);
        self.claims.remove(&client.number);
        self.newcomers.remove(&client.number);
        if let Some(name) = self.names.remove(&client.number) {
            release(context, name, client);
        }
    }

    /// Welcomes a client and makes it a member of its first room.
    fn enter(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        let name = &self.label(client);
        let ChatOptions { max_message: message, max_private_message: private_message } = self.options;
        let limits = Limits { message, private_message };
        let id = client.number;
        self.tell(context, client, &Notice::Welcome { room, name, id, limits });
        self.join_room(context, client, room);
    }

    /// Makes a client a member of a room. A client with `format=json` also gets the ages of the room's history.
    fn join_room(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        if context.join(client, room, HISTORY) {
            self.came(context, client, room);
        }
        if !self.structured.contains(&client.number) {
            return;
        }
        let home = context.home_of(room);
        if home == context.shard() {
            // With a note to itself, this shard could get new messages between reading the ages and sending the notice.
            // An answer from another shard arrives directly after the messages that its ages cover.
            let ages = context.history_ages(room);
            return self.tell_ages(context, client, room, &ages);
        }
        context.ask(home, Ask::Ages { room: room.into(), client });
    }

    /// Reports a new member of a room to those who watch the room.
    fn came(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        if !self.presence.is_unused() {
            self.report(context, client, room);
        }
        if self.watching.contains(&client.number) {
            self.presence.watch(context, client, room);
        }
    }

    /// Reports the name of a room's member to those who watch the room.
    fn report(&self, context: &mut Context<'_>, client: ClientId, room: &str) {
        let (name, count) = (self.label(client), context.members(room).len());
        self.presence.report(context, room, client, Some(&name), count);
    }

    /// Reports the end of a membership to those who watch the room. `left` is the number of members that the shard has
    /// now.
    fn went(&mut self, context: &mut Context<'_>, client: ClientId, room: &str, left: usize) {
        self.presence.unwatch(context, client, room);
        self.presence.report(context, room, client, None, left);
    }

    /// Asks for the list of members that a board needs.
    fn ask_list(&mut self, context: &mut Context<'_>, question: Option<ListQuestion>) {
        let Some(ListQuestion { board, room, limit }) = question else { return };
        context.ask_members(&room, None, limit, self.next_question);
        self.asking.insert(self.next_question, Asker::Board(board));
        self.next_question += 1;
    }

    /// Sends a client the ages, in seconds, of the messages in a room's log. The last age must be that of the log's
    /// last message.
    fn tell_ages(&self, context: &mut Context<'_>, client: ClientId, room: &str, ages: &[u32]) {
        if let Some(unsent) = context.unsent(client, room) {
            let position = context.position(client, room).filter(|_| context.has_session(client));
            let next = position.map(|position| position.number);
            self.tell(context, client, &Notice::History { room, ages, unsent, next });
        }
    }

    /// Handles a message from a client that is in a room: publishes the text, or runs the command.
    fn take_text(&mut self, context: &mut Context<'_>, client: ClientId, text: &str) {
        if let Some(command) = text.strip_prefix('/') {
            return self.command(context, client, command);
        }
        let stripped = clean(text);
        if stripped.is_empty() {
            if !text.is_empty() {
                self.tell(context, client, &"nothing was left of your message without its HTML tags".into());
            }
            return;
        }
        if let Some(room) = self.muted_in(context, client) {
            let text = format!("your token does not allow you to speak in {room}; your message was dropped");
            return self.tell(context, client, &text.into());
        }
        let label = self.label(client);
        let parts = &[label.as_bytes(), b": ", stripped.as_bytes()];
        context.publish_to_rooms_of(client, Message::from_parts(Kind::Text, parts));
    }

    /// Returns a room of the client in which its token does not allow it to speak, if there is one.
    fn muted_in(&self, context: &Context<'_>, client: ClientId) -> Option<String> {
        let claims = self.claims.get(&client.number)?;
        context.rooms(client).into_iter().find(|room| !claims.may_publish(room))
    }

    fn command(&mut self, context: &mut Context<'_>, client: ClientId, command: &str) {
        let (verb, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (verb, rest.trim()) {
            ("nick", name) => self.claim(context, client, name),
            ("join", room) => self.join(context, client, room),
            ("msg", rest) => self.send_private(context, client, rest),
            ("who", _) => self.who(context, client),
            ("token", token) => self.renew(context, client, token),
            ("help", _) => {
                let has_token = self.claims.contains_key(&client.number);
                self.tell(context, client, &Notice::help(has_token));
            }
            _ => {
                let verb: String = clean(verb).chars().take(MAX_USER_NAME).collect();
                let text = format!("unknown command /{verb}; /help lists the commands");
                self.tell(context, client, &text.into());
            }
        }
    }

    /// Claims the name in a client's token for the token's user. The client enters its room when the name is granted.
    fn claim_proven(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        (user, name): (&str, &str),
        room: &str,
    ) {
        if let Err(problem) = context.set_user(client, user) {
            return context.close(client, CloseCode::POLICY, &format!("the token's sub: {problem}"));
        }
        let name = name.to_owned();
        self.names.insert(client.number, name.clone());
        self.newcomers.insert(client.number, Newcomer { room: room.into(), ..Newcomer::default() });
        context.ask(
            home_of_name(&name, context),
            Ask::Claim { name, client, user: Some(user.into()), from: None },
        );
    }

    /// Claims the name with the user's suffix for a newcomer, after another user had the name `taken`. Closes the
    /// client if the suffix was taken, too.
    fn claim_suffixed(&mut self, context: &mut Context<'_>, client: ClientId, taken: &str) {
        let Some(claims) = self.claims.get(&client.number) else { return };
        let user = claims.user().unwrap_or_default().to_owned();
        let name = with_suffix(claims.name().unwrap_or_default(), &user);
        if let Some(name) = name.filter(|name| name != taken) {
            self.names.insert(client.number, name.clone());
            let home = home_of_name(&name, context);
            return context.ask(home, Ask::Claim { name, client, user: Some(user), from: None });
        }
        if self.newcomers.get(&client.number).is_some_and(|newcomer| newcomer.is_gone) {
            return self.forget(context, client);
        }
        context.close(client, CloseCode::POLICY, &format!("the name {taken} is taken"));
    }

    fn join(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        let room = match room_name(room) {
            Ok(room) => room,
            Err(problem) => {
                return self.tell(context, client, &format!("{problem}; try /join garden").into());
            }
        };
        if self.claims.get(&client.number).is_some_and(|claims| !claims.may_join(&room)) {
            let text = format!("your token does not allow the room {room}");
            return self.tell(context, client, &text.into());
        }
        let old = context.rooms(client);
        if old.iter().any(|old| **old == *room) {
            return self.tell(context, client, &format!("you are already in {room}").into());
        }
        for old in old {
            context.leave(client, &old);
            self.on_removed(context, client, &old);
        }
        self.tell(context, client, &Notice::Joined { room: &room });
        self.join_room(context, client, &room);
    }

    fn claim(&mut self, context: &mut Context<'_>, client: ClientId, name: &str) {
        if self.claims.contains_key(&client.number) {
            return self.tell(context, client, &"names come from tokens here; yours stays as it is".into());
        }
        let name = match user_name(name) {
            Ok(name) => name.into_owned(),
            Err(problem) => return self.tell(context, client, &format!("{problem}; try /nick alice").into()),
        };
        if context.is_banned(&name) || context.is_banned(&user_key(&name)) {
            return self.tell(context, client, &format!("the name {name} is banned").into());
        }
        if !self.claiming.insert(client.number) {
            return self.tell(
                context,
                client,
                &"your last /nick is still in progress; try again in a moment".into(),
            );
        }
        context.ask(home_of_name(&name, context), Ask::Claim { name, client, user: None, from: None });
    }

    /// Renames a client to the name that it was granted, and releases its old name.
    fn rename(&mut self, context: &mut Context<'_>, client: ClientId, name: String) {
        self.claiming.remove(&client.number);
        if !context.is_here(client) {
            return release(context, name, client);
        }
        let old = self.label(client);
        if context.set_user(client, &name).is_err() {
            // The name was banned while the claim was under way.
            if user_key(&old) != user_key(&name) {
                release(context, name, client);
            }
            return self.tell(context, client, &"the name is banned".into());
        }
        keep_name(context, client, &name);
        let text = format!("* {old} is now {name}");
        if let Some(old) = self.names.insert(client.number, name.clone())
            && user_key(&old) != user_key(&name)
        {
            release(context, old, client);
        }
        if old != name {
            context.publish_to_rooms_of(client, Message::text(&text));
            if !self.presence.is_unused() {
                for room in context.rooms(client) {
                    self.report(context, client, &room);
                }
            }
        }
    }

    /// Sends a private message to the chat instance on the home shard of the reader's name.
    fn send_private(&self, context: &mut Context<'_>, client: ClientId, rest: &str) {
        let (name, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (text, limit) = (text.trim_start(), self.options.max_private_message as usize);
        if text.len() > limit {
            let text = format!("a private message has at most {limit} bytes; yours has {}", text.len());
            return self.tell(context, client, &text.into());
        }
        let text = clean(text);
        let (Ok(name), false) = (user_name(name), text.is_empty()) else {
            return self.tell(context, client, &"/msg needs a name and a text; try /msg alice hello".into());
        };
        let (label, name, text) = (self.label(client), name.into_owned(), text.into_owned());
        let heap_bytes = label.len() + name.len() + text.len();
        let home = home_of_name(&name, context);
        context.ask_sized(home, Ask::Private { from: client, label, name, text }, heap_bytes);
    }

    /// Forwards a private message to the shards of its reader's clients, and confirms the message to its sender. Runs
    /// on the name's home shard.
    fn pass_on(&self, context: &mut Context<'_>, from: ClientId, label: &str, name: String, text: &str) {
        let Some(readers) = self.directory.find(&name) else {
            return context.tell(from.shard, Tell::Nobody { client: from, name });
        };
        let (label, text): (Arc<str>, Arc<str>) = (label.into(), text.into());
        for (shard, clients) in readers {
            let note = Tell::Private { clients, from: Arc::clone(&label), text: Arc::clone(&text) };
            context.tell_sized(shard, note, text.len());
        }
        let heap_bytes = name.len() + text.len();
        context.tell_sized(from.shard, Tell::Sent { client: from, name, text }, heap_bytes);
    }

    /// Sends a notice to clients of this shard, which share one copy for each format.
    fn deliver(&self, context: &mut Context<'_>, clients: &[ClientId], notice: &Notice<'_>) {
        let (structured, plain): (Vec<ClientId>, Vec<ClientId>) =
            clients.iter().partition(|client| self.structured.contains(&client.number));
        for (is_json, clients) in [(true, structured), (false, plain)] {
            if !clients.is_empty() {
                let (kind, text) = notice.encode(is_json);
                context.send_to_clients(&clients, Message::new(kind, text.as_bytes()));
            }
        }
    }

    /// Replaces the client's token. The name of the client stays as it is.
    fn renew(&mut self, context: &mut Context<'_>, client: ClientId, token: &str) {
        let text = match context.renew(client, token) {
            Ok(Renewal { claims, left }) => {
                self.claims.insert(client.number, claims);
                for room in &left {
                    self.on_removed(context, client, room);
                }
                match left.first() {
                    None => "your token is renewed".into(),
                    Some(room) => {
                        format!(
                            "your token is renewed and does not allow {room}, which you have left; /join another room"
                        )
                    }
                }
            }
            Err(error) => error.to_string(),
        };
        self.tell(context, client, &text.into());
    }

    fn who(&mut self, context: &mut Context<'_>, client: ClientId) {
        for room in context.rooms(client) {
            context.ask_members(&room, None, LISTED, self.next_question);
            self.asking.insert(self.next_question, Asker::Client(client));
            self.next_question += 1;
        }
    }
}

impl Newcomer {
    /// Keeps an early message until the client is in its room. Returns false when all early messages exceed
    /// [`EARLY_BYTES`].
    fn keep(&mut self, text: &str) -> bool {
        self.early_bytes += text.len() + size_of::<String>();
        let is_kept = self.early_bytes <= EARLY_BYTES;
        if is_kept {
            self.early.push(text.into());
        }
        is_kept
    }
}

/// Releases a client's name: sends a note to the name's home shard.
fn release(context: &mut Context<'_>, name: String, client: ClientId) {
    context.ask(home_of_name(&name, context), Ask::Release { name, client });
}

/// Returns a user's name with a suffix from the user's identity, for example `ada#4c2f`. The suffix of a user is always
/// the same. `None` if the name cannot have the suffix.
fn with_suffix(name: &str, user: &str) -> Option<String> {
    let hash = Sha256::digest(user.as_bytes());
    let suffix = format!("#{:02x}{:02x}", hash[0], hash[1]);
    let start: String = name.chars().take(MAX_USER_NAME - suffix.len()).collect();
    user_name(&format!("{start}{suffix}")).ok().map(Cow::into_owned)
}

/// Returns the home shard of a user's name.
fn home_of_name(name: &str, context: &Context<'_>) -> u16 {
    context.home_of(&user_key(name))
}

#[cfg(test)]
mod page_tests {
    use super::*;

    #[test]
    fn the_page_allows_only_its_own_script_and_style() {
        assert_eq!(CHAT_PAGE.matches("<script").count(), 1);
        assert_eq!(CHAT_PAGE.matches("<style").count(), 1);
        let page = page();
        let policy = page.headers.iter().find(|(name, _)| name == "Content-Security-Policy");
        let policy = &policy.expect("a policy").1;
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe-inline"), "{policy}");
    }
}
