//! `chat`: the article's chat room, with names, rooms and private messages.
//!
//! A name belongs to one client of the whole server. The instance that a name's hash points to keeps who holds
//! it; the others ask that one.
//!
//! Where clients show tokens, names come from these alone. Then several clients can be the same user, and have one
//! name together.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::names::{MAX_NAME, check_name, check_room, key};
use super::strip::clean;
use super::{App, Claims, ClientId, CloseCode, Context, Incoming, Kind, Message, Note, Opening};

/// Messages that a client sees of the past when it joins a room.
const HISTORY: u32 = 50;
/// What a client may send where the settings do not say: more than anybody types, and a long message at once.
const MESSAGES_PER_SECOND: u32 = 20;
const BYTES_PER_SECOND: u32 = 256 << 10;
/// Names that `/who` lists; further members are counted.
const LISTED: usize = 100;
/// Bytes that a client may say before its token's name is granted, which takes no longer than one word to another shard.
const EARLY_BYTES: usize = 64 << 10;

const HELP: &str = "* /nick NAME: be called NAME; /join ROOM: go to another room; \
                    /msg NAME TEXT: tell one person only; /who: who is here; /help: this list";

/// The chat; `/help` lists its commands.
#[derive(Debug, Default)]
pub struct Chat {
    /// Names of clients of this shard that chose one, by client number.
    names: HashMap<u64, String>,
    /// Clients of this shard whose last claim is not answered yet, by number. One at a time: with two, giving the
    /// old name back for the first could give away the name that the second was granted.
    claiming: HashSet<u64>,
    /// What the tokens of clients of this shard say, by client number.
    claims: HashMap<u64, Claims>,
    /// Clients of this shard that are in no room yet, since the names of their tokens are not granted yet, by number.
    newcomers: HashMap<u64, Newcomer>,
    /// Who holds the names that are this instance's to give, by the names' keys.
    holders: HashMap<String, Holder>,
    /// Answers to `/who` that are being put together.
    lists: HashMap<u64, List>,
    /// Number of the next one.
    next_list: u64,
}

/// Who holds a name.
#[derive(Debug)]
struct Holder {
    /// The name as it is written.
    name: String,
    /// Whether it is from a token, so that it stands for the same user whoever shows it.
    is_proven: bool,
    /// One, or all clients of that user, who may have very many.
    clients: HashSet<ClientId>,
}

/// A client whose name may still be refused.
#[derive(Debug, Default)]
struct Newcomer {
    room: String,
    /// What it has said already.
    early: Vec<String>,
    early_bytes: usize,
    /// It has said that and left.
    is_gone: bool,
}

/// An answer to `/who` in the making.
#[derive(Debug)]
struct List {
    client: ClientId,
    room: String,
    names: Vec<String>,
    count: usize,
    /// Instances that have not answered yet.
    missing: u16,
}

/// What one instance asks another.
enum Ask {
    /// The client wants the name, or has it from its token.
    Claim { name: String, client: ClientId, is_proven: bool },
    /// The client does not need the name any more.
    Release { name: String, client: ClientId },
    /// `from`, whose name is `label`, has a word for whoever is called `name`.
    Whisper { from: ClientId, label: String, name: String, text: String },
    /// Who is in the room, for the list with this number on that shard?
    Who { room: String, list: u64, shard: u16 },
}

/// What it answers.
enum Tell {
    /// The name is the client's now.
    Granted { name: String, client: ClientId },
    /// Somebody else has the name.
    Taken { name: String, client: ClientId },
    /// A line for one client.
    Line { client: ClientId, text: String },
    /// Members of a room on one shard: some names, and how many there are.
    Here { list: u64, names: Vec<String>, count: usize },
}

impl App for Chat {
    fn history(&self) -> u32 {
        HISTORY
    }

    fn has_page(&self) -> bool {
        true
    }

    fn rates(&self) -> (u32, u32) {
        (MESSAGES_PER_SECOND, BYTES_PER_SECOND)
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        let room = opening.room;
        if let Some(claims) = opening.claims {
            self.claims.insert(client.number, claims.clone());
            if let Some(name) = claims.user() {
                return self.claim_proven(context, client, name, room);
            }
        }
        self.enter(context, client, room);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let Some(text) = message.text() else {
            return context.close(client, CloseCode::UNSUPPORTED, "this chat takes text messages only");
        };
        let Some(newcomer) = self.newcomers.get_mut(&client.number) else {
            return self.take_text(context, client, text);
        };
        if !newcomer.keep(text) {
            line(context, client, &["* one moment: the name of your token is not granted yet"]);
        }
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        match self.newcomers.get_mut(&client.number) {
            // It is still said if the name is granted.
            Some(newcomer) if !newcomer.early.is_empty() => newcomer.is_gone = true,
            _ => self.forget(context, client),
        }
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        let Ok(ask) = note.downcast::<Ask>() else { return };
        match *ask {
            Ask::Claim { name, client, is_proven } => {
                let answer = if self.grant(&name, client, is_proven) {
                    Tell::Granted { name, client }
                } else {
                    Tell::Taken { name, client }
                };
                context.tell(client.shard, answer);
            }
            Ask::Release { name, client } => self.give_back(&name, client),
            Ask::Whisper { from, label, name, text } => {
                let answer = match self.holders.get(&key(&name)) {
                    Some(holder) => {
                        for &to in &holder.clients {
                            let whisper = format!("* from {label}: {text}");
                            context.tell(to.shard, Tell::Line { client: to, text: whisper });
                        }
                        format!("* to {name}: {text}")
                    }
                    None => format!("* nobody is called {name}; /who lists who is here"),
                };
                context.tell(from.shard, Tell::Line { client: from, text: answer });
            }
            Ask::Who { room, list, shard } => {
                let members = context.members(&room);
                let count = members.len();
                let names = members.take(LISTED).map(|client| self.label(client)).collect();
                context.tell(shard, Tell::Here { list, names, count });
            }
        }
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        let Ok(tell) = note.downcast::<Tell>() else { return };
        match *tell {
            Tell::Line { client, text } => line(context, client, &[&text]),
            Tell::Granted { client, .. } if self.claims.contains_key(&client.number) => {
                if let Some(newcomer) = self.newcomers.remove(&client.number) {
                    self.admit(context, client, newcomer);
                }
            }
            Tell::Granted { name, client } => self.rename(context, client, name),
            Tell::Taken { client, .. }
                if self.newcomers.get(&client.number).is_some_and(|new| new.is_gone) =>
            {
                self.forget(context, client);
            }
            Tell::Taken { name, client } if self.claims.contains_key(&client.number) => {
                context.close(client, CloseCode::POLICY, &format!("the name {name} is taken"));
            }
            Tell::Taken { name, client } => {
                self.claiming.remove(&client.number);
                line(context, client, &["* the name ", &name, " is taken"]);
            }
            Tell::Here { list, names, count } => self.add_to_list(context, list, names, count),
        }
    }
}

impl Chat {
    /// What the client is called: `alice`, or `User #17 (2)` with the number of its worker.
    fn label(&self, client: ClientId) -> String {
        match self.names.get(&client.number) {
            Some(name) => name.clone(),
            None => format!("User #{} ({})", client.number, client.shard + 1),
        }
    }

    /// A client has the name that its token says.
    fn admit(&mut self, context: &mut Context<'_>, client: ClientId, newcomer: Newcomer) {
        let Newcomer { room, early, is_gone, .. } = newcomer;
        if !is_gone {
            self.enter(context, client, &room);
            for text in early {
                self.take_text(context, client, &text);
            }
            return;
        }
        let label = self.label(client);
        for text in early.iter().filter(|text| !text.starts_with('/')).map(|text| clean(text)) {
            if !text.is_empty() {
                let parts = &[label.as_bytes(), b": ", text.as_bytes()];
                context.publish_to_room(&room, Message::from_parts(Kind::Text, parts));
            }
        }
        self.forget(context, client);
    }

    fn forget(&mut self, context: &mut Context<'_>, client: ClientId) {
        self.claiming.remove(&client.number);
        self.claims.remove(&client.number);
        self.newcomers.remove(&client.number);
        if let Some(name) = self.names.remove(&client.number) {
            release(context, name, client);
        }
    }

    fn enter(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        let label = self.label(client);
        line(context, client, &["* welcome to ", room, ", you are ", &label, "; /help lists the commands"]);
        context.join(client, room, HISTORY);
    }

    /// What a client that is in a room says or asks for.
    fn take_text(&mut self, context: &mut Context<'_>, client: ClientId, text: &str) {
        if let Some(command) = text.strip_prefix('/') {
            return self.command(context, client, command);
        }
        let stripped = clean(text);
        if stripped.is_empty() {
            if !text.is_empty() {
                line(context, client, &["* nothing was left of your message without its HTML tags"]);
            }
            return;
        }
        let label = self.label(client);
        let parts = &[label.as_bytes(), b": ", stripped.as_bytes()];
        context.publish_to_rooms_of(client, Message::from_parts(Kind::Text, parts));
    }

    fn command(&mut self, context: &mut Context<'_>, client: ClientId, command: &str) {
        let (verb, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match (verb, rest.trim()) {
            ("nick", name) => self.claim(context, client, name),
            ("join", room) => self.join(context, client, room),
            ("msg", rest) => self.whisper(context, client, rest),
            ("who", _) => self.who(context, client),
            ("help", _) => line(context, client, &[HELP]),
            _ => {
                let verb: String = clean(verb).chars().take(MAX_NAME).collect();
                line(context, client, &["* unknown command /", &verb, "; /help lists the commands"]);
            }
        }
    }

    /// Asks for the name that a client's token says; it is in the room when it has the name, and says nothing before.
    fn claim_proven(&mut self, context: &mut Context<'_>, client: ClientId, name: &str, room: &str) {
        if let Err(problem) = check_name(name) {
            return context.close(client, CloseCode::POLICY, &format!("the token's sub: {problem}"));
        }
        self.names.insert(client.number, name.into());
        self.newcomers.insert(client.number, Newcomer { room: room.into(), ..Newcomer::default() });
        let ask = Ask::Claim { name: name.into(), client, is_proven: true };
        context.ask(home_of_name(name, context), ask);
    }

    /// Whether the client may have the name; then it has it.
    fn grant(&mut self, name: &str, client: ClientId, is_proven: bool) -> bool {
        let vacant = || Holder { name: name.into(), is_proven, clients: HashSet::new() };
        let holder = self.holders.entry(key(name)).or_insert_with(vacant);
        let is_same_user = is_proven && holder.is_proven && holder.name == name;
        let is_granted = holder.clients.is_empty() || holder.clients.contains(&client) || is_same_user;
        if is_granted {
            holder.clients.insert(client);
        }
        is_granted
    }

    /// The client does not need the name any more; the last one that had it sets it free.
    fn give_back(&mut self, name: &str, client: ClientId) {
        if let Entry::Occupied(mut holder) = self.holders.entry(key(name)) {
            holder.get_mut().clients.remove(&client);
            if holder.get().clients.is_empty() {
                holder.remove();
            }
        }
    }

    fn join(&self, context: &mut Context<'_>, client: ClientId, room: &str) {
        if let Err(problem) = check_room(room) {
            return line(context, client, &["* ", problem, "; try /join garden"]);
        }
        if self.claims.get(&client.number).is_some_and(|claims| !claims.may_join(room)) {
            return line(context, client, &["* your token does not allow the room ", room]);
        }
        for old in context.rooms(client) {
            context.leave(client, &old);
        }
        line(context, client, &["* you are in ", room]);
        context.join(client, room, HISTORY);
    }

    fn claim(&mut self, context: &mut Context<'_>, client: ClientId, name: &str) {
        if self.claims.contains_key(&client.number) {
            return line(context, client, &["* names come from tokens here; yours stays as it is"]);
        }
        if let Err(problem) = check_name(name) {
            return line(context, client, &["* ", problem, "; try /nick alice"]);
        }
        if !self.claiming.insert(client.number) {
            return line(context, client, &["* one moment: your last /nick is not answered yet"]);
        }
        context.ask(home_of_name(name, context), Ask::Claim { name: name.into(), client, is_proven: false });
    }

    /// The client was given the name; its old one is free for others.
    fn rename(&mut self, context: &mut Context<'_>, client: ClientId, name: String) {
        self.claiming.remove(&client.number);
        if !context.is_here(client) {
            return release(context, name, client);
        }
        let old = self.label(client);
        let text = format!("* {old} is now {name}");
        if let Some(old) = self.names.insert(client.number, name.clone())
            && key(&old) != key(&name)
        {
            release(context, old, client);
        }
        if old != name {
            context.publish_to_rooms_of(client, Message::text(&text));
        }
    }

    fn whisper(&mut self, context: &mut Context<'_>, client: ClientId, rest: &str) {
        let (name, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let text = clean(text.trim_start());
        if check_name(name).is_err() || text.is_empty() {
            return line(context, client, &["* who should hear what? try /msg alice hello"]);
        }
        let label = self.label(client);
        let ask = Ask::Whisper { from: client, label, name: name.into(), text: text.into_owned() };
        context.ask(home_of_name(name, context), ask);
    }

    fn who(&mut self, context: &mut Context<'_>, client: ClientId) {
        let (shard, shards) = context.shard();
        for room in context.rooms(client) {
            let list = self.next_list;
            self.next_list += 1;
            for other in 0..shards {
                context.ask(other, Ask::Who { room: room.clone(), list, shard });
            }
            self.lists.insert(list, List { client, room, names: Vec::new(), count: 0, missing: shards });
        }
    }

    fn add_to_list(&mut self, context: &mut Context<'_>, list: u64, names: Vec<String>, count: usize) {
        let Some(found) = self.lists.get_mut(&list) else { return };
        found.names.extend(names);
        found.count += count;
        found.missing -= 1;
        if found.missing > 0 {
            return;
        }
        let Some(List { client, room, mut names, count, .. }) = self.lists.remove(&list) else { return };
        names.sort_unstable();
        names.truncate(LISTED);
        let mut text = format!("* in {room} ({count}): {}", names.join(", "));
        if count > names.len() {
            text += &format!(", and {} more", count - names.len());
        }
        line(context, client, &[&text]);
    }
}

impl Newcomer {
    /// Keeps what it says until it is in its room, if that is not too much.
    fn keep(&mut self, text: &str) -> bool {
        self.early_bytes += text.len() + size_of::<String>();
        let is_kept = self.early_bytes <= EARLY_BYTES;
        if is_kept {
            self.early.push(text.into());
        }
        is_kept
    }
}

/// Gives a name back to its home.
fn release(context: &mut Context<'_>, name: String, client: ClientId) {
    context.ask(home_of_name(&name, context), Ask::Release { name, client });
}

/// The instance that knows who holds `name`.
fn home_of_name(name: &str, context: &Context<'_>) -> u16 {
    context.home_of(&key(name))
}

fn line(context: &mut Context<'_>, client: ClientId, parts: &[&str]) {
    let text = parts.concat();
    context.send_to_client(client, Message::text(&text));
}
