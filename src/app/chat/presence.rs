//! Presence: lists of members for the clients that connected with `format=json&presence=1`, such as the chat page.
//!
//! The home shard of a watched room keeps a [`Board`] of the room's members. While there is a board, all shards report to
//! it who joins, leaves and gets another name. The board sends its watchers one event for all changes of 800 ms, so a
//! change costs one message per watcher, however many changes there are. Rooms without watchers have no board, and
//! nobody reports their changes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::board::{Board, LISTED, Step};
use super::{ClientId, Context, Kind, Message};

/// Number of watchers that get an update in one turn, so that a crowd of watchers delays other rooms by little.
const SENDS_PER_TURN: usize = 256;

/// Presence of the rooms that concern one shard. All maps are empty on a server without watchers.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// This shard's watchers, by room. No list is empty.
    watchers: HashMap<String, Watchers>,
    /// Updates on their way to this shard's watchers, in order. The first one is in progress.
    sending: VecDeque<Sending>,
    /// Rooms whose changes this shard reports to their homes.
    reported: HashSet<String>,
    /// Boards of watched rooms whose home is this shard.
    boards: HashMap<String, Board>,
    /// Room of each board, by the number of the board.
    rooms: HashMap<u64, String>,
    next_board: u64,
}

/// Clients of this shard that watch a room.
#[derive(Debug, Default)]
struct Watchers {
    clients: Vec<ClientId>,
    /// Index of each client in the list, by client number.
    places: HashMap<u64, usize>,
}

/// An update on its way to the watchers of a room.
#[derive(Debug)]
struct Sending {
    room: Arc<str>,
    event: Arc<str>,
    /// Number of watchers at the start of the list that have not got the update. A watcher that moves within the list
    /// may get it twice, which changes nothing.
    left: usize,
}

/// Note to the home shard of a room, or to the own shard.
#[derive(Debug)]
pub(super) enum ToBoard {
    /// The client watches the room now, and wants the list.
    Watch { room: String, client: ClientId },
    /// The shard has no more watchers of the room.
    Unwatch { room: String, shard: u16 },
    /// The shard reports changes to this board from now on. It has `count` members of the room.
    Reporting { room: String, board: u64, shard: u16, count: u32 },
    /// A client of the shard is a member with this name, or is no member any more. The shard has `count` members now.
    Change { room: String, shard: u16, count: u32, member: u64, name: Option<Arc<str>> },
    /// Continues the update in progress on the own shard, in the turn after the last step.
    Continue,
}

/// Note from the home shard of a room.
#[derive(Debug)]
pub(super) enum FromBoard {
    /// Request to report the room's changes to this board.
    Report { room: String, board: u64 },
    /// Request to report no more changes of the room.
    Stop { room: String },
    /// The list for new watchers of the receiving shard.
    List { room: Arc<str>, clients: Vec<ClientId>, event: Arc<str> },
    /// An update for all watchers of the receiving shard.
    Update { room: Arc<str>, event: Arc<str> },
}

impl Presence {
    /// Returns whether this shard has to do with no watched room, so that changes need not be reported.
    pub(super) fn is_unused(&self) -> bool {
        self.reported.is_empty() && self.watchers.is_empty()
    }

    /// Adds a watcher of a room, or asks for the list again for a client that is one.
    pub(super) fn watch(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        self.watchers.entry(room.into()).or_default().add(client);
        ask(context, room, ToBoard::Watch { room: room.into(), client });
    }

    /// Removes a watcher of a room. Does nothing for a client that is none.
    pub(super) fn unwatch(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        let Some(watchers) = self.watchers.get_mut(room) else { return };
        watchers.remove(client);
        if watchers.clients.is_empty() {
            self.watchers.remove(room);
            let shard = context.shard();
            ask(context, room, ToBoard::Unwatch { room: room.into(), shard });
        }
    }

    /// Reports that a client is a member of a room with this name, or is no member any more. `count` is the number of
    /// members on this shard. Does nothing for a room without watchers.
    pub(super) fn report(
        &self,
        context: &mut Context<'_>,
        room: &str,
        client: ClientId,
        name: Option<&str>,
        count: usize,
    ) {
        if !self.reported.contains(room) {
            return;
        }
        let (shard, count, name) = (context.shard(), count as u32, name.map(Arc::from));
        ask(context, room, ToBoard::Change { room: room.into(), shard, count, member: client.number, name });
    }

    /// Handles a note to this shard. Returns the question of a board that needs a list.
    pub(super) fn take_ask(&mut self, context: &mut Context<'_>, ask: ToBoard) -> Option<ListQuestion> {
        let (room, step) = match ask {
            ToBoard::Watch { room, client } => {
                let step = self.board(context, &room).watch(client);
                (room, step)
            }
            ToBoard::Unwatch { room, shard } => {
                if self.boards.get_mut(&room).is_some_and(|board| board.unwatch(shard)) {
                    self.close_board(context, &room);
                }
                return None;
            }
            ToBoard::Reporting { room, board: number, shard, count } => {
                // The confirmation may be for an earlier board of the room.
                let board = self.boards.get_mut(&room).filter(|board| board.number == number)?;
                let step = board.add_shard(shard, count);
                (room, step)
            }
            ToBoard::Change { room, shard, count, member, name } => {
                let board = self.boards.get_mut(&room)?;
                let step = board.change(context.now(), (shard, count), member, name);
                (room, step)
            }
            ToBoard::Continue => {
                self.send(context);
                return None;
            }
        };
        self.take_step(context, room, step)
    }

    /// Adds the members in the answer to a [`ListQuestion`] to the board with this number. Returns the next question of
    /// the board, if it has one.
    pub(super) fn add_list(
        &mut self,
        context: &mut Context<'_>,
        number: u64,
        members: impl IntoIterator<Item = (u64, Arc<str>)>,
    ) -> Option<ListQuestion> {
        let room = self.rooms.get(&number)?.clone();
        let step = self.boards.get_mut(&room)?.add_list(context.now(), members);
        self.take_step(context, room, step)
    }

    /// Sends the update of the board with this number, whose timer has fired.
    pub(super) fn fire(&mut self, context: &mut Context<'_>, number: u64) -> Option<ListQuestion> {
        let room = self.rooms.get(&number)?.clone();
        let board = self.boards.get_mut(&room)?;
        let (event, step) = board.update(context.now(), &room);
        if let Some(event) = event {
            let room: Arc<str> = room.as_str().into();
            for shard in board.watching() {
                let note = FromBoard::Update { room: Arc::clone(&room), event: Arc::clone(&event) };
                tell(context, *shard, note, event.len());
            }
        }
        self.take_step(context, room, step)
    }

    /// Handles a note of a board.
    pub(super) fn take_tell(&mut self, context: &mut Context<'_>, note: FromBoard) {
        match note {
            FromBoard::Report { room, board } => {
                let (shard, count) = (context.shard(), context.members(&room).len() as u32);
                self.reported.insert(room.clone());
                let home = context.home_of(&room);
                context.ask(home, super::Ask::Presence(ToBoard::Reporting { room, board, shard, count }));
            }
            FromBoard::Stop { room } => _ = self.reported.remove(&room),
            FromBoard::List { room, mut clients, event } => {
                let Some(watchers) = self.watchers.get(&*room) else { return };
                clients.retain(|client| watchers.places.contains_key(&client.number));
                context.send_to_clients(&clients, Message::new(Kind::Binary, event.as_bytes()));
            }
            FromBoard::Update { room, event } => {
                let Some(watchers) = self.watchers.get(&*room) else { return };
                self.sending.push_back(Sending { room, event, left: watchers.clients.len() });
                if self.sending.len() == 1 {
                    self.send(context);
                }
            }
        }
    }

    /// Sends the update in progress to this turn's share of its watchers.
    fn send(&mut self, context: &mut Context<'_>) {
        let Some(Sending { room, event, left }) = self.sending.front_mut() else { return };
        let clients = self.watchers.get(&**room).map_or(&[][..], |watchers| &watchers.clients);
        let end = clients.len().min(*left);
        let start = end.saturating_sub(SENDS_PER_TURN);
        context.send_to_clients(&clients[start..end], Message::new(Kind::Binary, event.as_bytes()));
        *left = start;
        if start == 0 {
            self.sending.pop_front();
        }
        if !self.sending.is_empty() {
            context.ask(context.shard(), super::Ask::Presence(ToBoard::Continue));
        }
    }

    /// Returns the board of a room whose home is this shard. A new board asks all shards to report changes.
    fn board(&mut self, context: &mut Context<'_>, room: &str) -> &mut Board {
        let shards = context.shard_count();
        let is_new = !self.boards.contains_key(room);
        let board = self.boards.entry(room.into()).or_insert_with(|| {
            self.next_board += 1;
            Board::new(self.next_board, shards)
        });
        if is_new {
            self.rooms.insert(board.number, room.into());
            for shard in 0..shards {
                tell(
                    context,
                    shard,
                    FromBoard::Report { room: room.into(), board: board.number },
                    room.len(),
                );
            }
        }
        board
    }

    fn close_board(&mut self, context: &mut Context<'_>, room: &str) {
        let Some(board) = self.boards.remove(room) else { return };
        self.rooms.remove(&board.number);
        context.cancel_timer(board.number);
        for shard in 0..context.shard_count() {
            tell(context, shard, FromBoard::Stop { room: room.into() }, room.len());
        }
    }

    fn take_step(&mut self, context: &mut Context<'_>, room: String, step: Step) -> Option<ListQuestion> {
        let board = self.boards.get_mut(&room)?;
        match step {
            Step::Rest => {}
            Step::AskList => return Some(ListQuestion { board: board.number, room, limit: LISTED as u32 }),
            Step::SetTimer(after) => context.set_timer(after, board.number),
            Step::Welcome => {
                let event = board.list(&room);
                let mut waiting: HashMap<u16, Vec<ClientId>> = HashMap::new();
                for client in board.take_waiting() {
                    waiting.entry(client.shard).or_default().push(client);
                }
                let room: Arc<str> = room.into();
                for (shard, clients) in waiting {
                    let note =
                        FromBoard::List { room: Arc::clone(&room), clients, event: Arc::clone(&event) };
                    tell(context, shard, note, event.len());
                }
            }
        }
        None
    }
}

/// Question of a board for members of its room on all shards.
#[derive(Debug)]
pub(super) struct ListQuestion {
    /// Number of the board.
    pub(super) board: u64,
    pub(super) room: String,
    /// Maximum number of members in the answer.
    pub(super) limit: u32,
}

impl Watchers {
    fn add(&mut self, client: ClientId) {
        if !self.places.contains_key(&client.number) {
            self.places.insert(client.number, self.clients.len());
            self.clients.push(client);
        }
    }

    fn remove(&mut self, client: ClientId) {
        let Some(place) = self.places.remove(&client.number) else { return };
        self.clients.swap_remove(place);
        if let Some(moved) = self.clients.get(place) {
            self.places.insert(moved.number, place);
        }
    }
}

/// Sends a note to the home shard of a room.
fn ask(context: &mut Context<'_>, room: &str, note: ToBoard) {
    context.ask_sized(context.home_of(room), super::Ask::Presence(note), room.len());
}

fn tell(context: &mut Context<'_>, shard: u16, note: FromBoard, heap_bytes: usize) {
    context.tell_sized(shard, super::Tell::Presence(note), heap_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_are_added_once_and_removed_in_any_order() {
        let client = |number| ClientId { shard: 0, slot: number as u32, number };
        let mut watchers = Watchers::default();
        for number in [1, 2, 3, 2, 4] {
            watchers.add(client(number));
        }
        for (number, left) in
            [(2, vec![1, 4, 3]), (9, vec![1, 4, 3]), (3, vec![1, 4]), (1, vec![4]), (4, vec![])]
        {
            watchers.remove(client(number));
            assert_eq!(watchers.clients.iter().map(|client| client.number).collect::<Vec<_>>(), left);
            for (place, client) in watchers.clients.iter().enumerate() {
                assert_eq!(watchers.places[&client.number], place);
            }
            assert_eq!(watchers.places.len(), left.len());
        }
    }
}
