//! The board of a watched room: a list of its members, folded from reports of all shards on the room's home shard.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::hub::ClientId;

/// Maximum number of members on a board. Further members are only counted.
pub(super) const LISTED: usize = 100;
/// Time between two updates of a board. A change is shown within a second.
const UPDATE_EVERY: Duration = Duration::from_millis(800);
/// Time between a first change and its update, so that a page that is loaded again causes one update.
const GATHER: Duration = Duration::from_millis(100);
/// Maximum number of members whose changes a board remembers while it waits for a list.
const MAX_CHANGED: usize = 1_000;

/// The members of a watched room. Lives on the room's home shard as long as the room has watchers.
#[derive(Debug)]
pub(super) struct Board {
    /// Number that no other board of this shard ever has. It is the token of the board's timer.
    pub(super) number: u64,
    /// Number of the room's members on each shard.
    counts: Vec<u32>,
    /// Number of shards that have not confirmed that they report changes.
    silent: usize,
    /// Shards with watchers of the room.
    watching: Vec<u16>,
    /// Watchers that wait for the first list.
    waiting: Vec<ClientId>,
    /// Names of listed members by client number.
    listed: BTreeMap<u64, Arc<str>>,
    /// The list after the last update.
    told: Told,
    /// Clients that have changed since the board asked for a list. `None` while no list is asked for.
    changed: Option<HashSet<u64>>,
    is_ready: bool,
    has_timer: bool,
    /// Time of the last update, on the shard's clock.
    updated: Duration,
}

/// The list that watchers have.
#[derive(Debug, Default)]
struct Told {
    members: BTreeMap<u64, Arc<str>>,
    count: u32,
    /// The event with the whole list, once made.
    event: Option<Arc<str>>,
}

/// Event for watchers, as a JSON object. A member is its client's number and its name.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    /// The list for a new watcher: some of the members, and the number of all members.
    Present { room: &'a str, count: u32, members: Vec<(u64, &'a str)> },
    /// Changes of the list: members that are new or have a new name, and members that are gone.
    Presence { room: &'a str, count: u32, joined: Vec<(u64, &'a str)>, left: Vec<u64> },
}

/// The next step that a board needs from the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to do.
    Rest,
    /// Ask all shards for members of the room, and call [`Board::add_list`].
    AskList,
    /// Set the board's timer, and call [`Board::update`] when it fires.
    SetTimer(Duration),
    /// Send [`Board::list`] to the watchers of [`Board::take_waiting`].
    Welcome,
}

impl Board {
    pub(super) fn new(number: u64, shards: u16) -> Self {
        Self {
            number,
            counts: vec![0; shards.into()],
            silent: shards.into(),
            watching: Vec::new(),
            waiting: Vec::new(),
            listed: BTreeMap::new(),
            told: Told::default(),
            changed: None,
            is_ready: false,
            has_timer: false,
            updated: Duration::ZERO,
        }
    }

    /// Adds a watcher, which gets the list when the board is ready.
    pub(super) fn watch(&mut self, client: ClientId) -> Step {
        if !self.watching.contains(&client.shard) {
            self.watching.push(client.shard);
        }
        self.waiting.push(client);
        if self.is_ready { Step::Welcome } else { Step::Rest }
    }

    /// Removes a shard that has no more watchers. Returns whether the board has no watchers left.
    pub(super) fn unwatch(&mut self, shard: u16) -> bool {
        self.watching.retain(|other| *other != shard);
        self.watching.is_empty()
    }

    /// Returns the shards with watchers.
    pub(super) fn watching(&self) -> &[u16] {
        &self.watching
    }

    /// Returns the watchers that wait for the list.
    pub(super) fn take_waiting(&mut self) -> Vec<ClientId> {
        std::mem::take(&mut self.waiting)
    }

    /// Handles a shard's confirmation that it reports changes. The board asks for its first list after the last one.
    pub(super) fn add_shard(&mut self, shard: u16, count: u32) -> Step {
        self.counts[usize::from(shard)] = count;
        self.silent = self.silent.saturating_sub(1);
        if self.silent > 0 {
            return Step::Rest;
        }
        self.changed = Some(HashSet::new());
        Step::AskList
    }

    /// Handles a change of one member on a shard that has `count` members now. Without a name the member has left.
    pub(super) fn change(
        &mut self,
        now: Duration,
        (shard, count): (u16, u32),
        member: u64,
        name: Option<Arc<str>>,
    ) -> Step {
        self.counts[usize::from(shard)] = count;
        self.put(member, name);
        if let Some(changed) = &mut self.changed
            && changed.len() <= MAX_CHANGED
        {
            changed.insert(member);
        }
        self.schedule(now)
    }

    /// Adds members from the answers of all shards. A member that has changed since the question is left out: the board
    /// already has its latest state.
    pub(super) fn add_list(
        &mut self,
        now: Duration,
        members: impl IntoIterator<Item = (u64, Arc<str>)>,
    ) -> Step {
        let Some(changed) = self.changed.take() else { return Step::Rest };
        if changed.len() > MAX_CHANGED {
            self.changed = Some(HashSet::new());
            return Step::AskList;
        }
        for (member, name) in members {
            // The name is empty if the application failed to describe the member.
            if !changed.contains(&member) && !name.is_empty() {
                self.put(member, Some(name));
            }
        }
        if self.is_ready {
            return self.schedule(now);
        }
        self.is_ready = true;
        self.updated = now;
        self.remember();
        Step::Welcome
    }

    /// Returns the event with the changes since the last update, or `None` without changes. The second value is
    /// [`Step::AskList`] if members left the board and others could take their places.
    pub(super) fn update(&mut self, now: Duration, room: &str) -> (Option<Arc<str>>, Step) {
        self.has_timer = false;
        let step = if self.changed.is_none() && self.has_gaps() {
            self.changed = Some(HashSet::new());
            Step::AskList
        } else {
            Step::Rest
        };
        let count = self.count();
        let told = &self.told.members;
        let is_told = |(member, name): &(&u64, &Arc<str>)| told.get(member).is_some_and(|told| told == *name);
        let joined: Vec<(u64, &str)> = self
            .listed
            .iter()
            .filter(|entry| !is_told(entry))
            .map(|(member, name)| (*member, &**name))
            .collect();
        let left: Vec<u64> =
            told.keys().filter(|member| !self.listed.contains_key(member)).copied().collect();
        if joined.is_empty() && left.is_empty() && count == self.told.count {
            return (None, step);
        }
        let event = encode(&Event::Presence { room, count, joined, left });
        self.updated = now;
        self.remember();
        (Some(event), step)
    }

    /// Returns the event with the list as it was after the last update.
    pub(super) fn list(&mut self, room: &str) -> Arc<str> {
        let Told { members, count, event } = &mut self.told;
        let make = || {
            let members = members.iter().map(|(member, name)| (*member, &**name)).collect();
            encode(&Event::Present { room, count: *count, members })
        };
        Arc::clone(event.get_or_insert_with(make))
    }

    fn count(&self) -> u32 {
        self.counts.iter().sum()
    }

    /// Returns whether so few members are listed that watchers would miss some.
    fn has_gaps(&self) -> bool {
        let (count, listed) = (self.count() as usize, self.listed.len());
        listed < count && (count <= LISTED || listed < LISTED / 2)
    }

    fn put(&mut self, member: u64, name: Option<Arc<str>>) {
        match name {
            None => _ = self.listed.remove(&member),
            Some(name) if self.listed.len() < LISTED || self.listed.contains_key(&member) => {
                self.listed.insert(member, name);
            }
            Some(_) => {}
        }
    }

    fn schedule(&mut self, now: Duration) -> Step {
        if self.has_timer || !self.is_ready {
            return Step::Rest;
        }
        self.has_timer = true;
        Step::SetTimer((self.updated + UPDATE_EVERY).saturating_sub(now).max(GATHER))
    }

    fn remember(&mut self) {
        self.told = Told { members: self.listed.clone(), count: self.count(), event: None };
    }
}

fn encode(event: &Event<'_>) -> Arc<str> {
    serde_json::to_string(event).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const ROOM: &str = "tea";

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn client(shard: u16) -> ClientId {
        ClientId { shard, slot: 0, number: 1_000 }
    }

    fn name(text: &str) -> Option<Arc<str>> {
        Some(text.into())
    }

    /// Returns a board of one shard with `count` members, of which the first 100 are listed.
    fn board(count: u64) -> Board {
        let mut board = Board::new(7, 1);
        assert_eq!(board.watch(client(0)), Step::Rest);
        assert_eq!(board.add_shard(0, count as u32), Step::AskList);
        let members = (0..count.min(LISTED as u64)).map(|member| (member, format!("u{member}").into()));
        assert_eq!(board.add_list(ms(0), members), Step::Welcome);
        assert_eq!(board.take_waiting(), [client(0)]);
        board
    }

    fn update(board: &mut Board, now: Duration) -> Option<Value> {
        board.update(now, ROOM).0.map(|event| serde_json::from_str(&event).expect("JSON"))
    }

    #[test]
    fn watchers_get_the_list_and_then_its_changes() {
        let mut board = board(2);
        let list = json!({"event": "present", "room": ROOM, "count": 2, "members": [[0, "u0"], [1, "u1"]]});
        assert_eq!(serde_json::from_str::<Value>(&board.list(ROOM)).expect("JSON"), list);
        // The last update was long ago, so the next one waits only for further changes.
        assert_eq!(board.change(ms(5_000), (0, 3), 2, name("ada")), Step::SetTimer(GATHER));
        assert_eq!(board.change(ms(5_000), (0, 2), 0, None), Step::Rest, "the timer is set");
        board.change(ms(5_000), (0, 2), 1, name("bob"));
        // A member that comes and goes between two updates is in none.
        board.change(ms(5_000), (0, 3), 9, name("eve"));
        board.change(ms(5_000), (0, 2), 9, None);
        let changes = json!({"event": "presence", "room": ROOM, "count": 2, "joined": [[1, "bob"], [2, "ada"]], "left": [0]});
        assert_eq!(update(&mut board, ms(5_100)), Some(changes));
        let list = json!({"event": "present", "room": ROOM, "count": 2, "members": [[1, "bob"], [2, "ada"]]});
        assert_eq!(serde_json::from_str::<Value>(&board.list(ROOM)).expect("JSON"), list);
        // The next update comes within a second of the last one.
        assert_eq!(board.change(ms(5_200), (0, 1), 1, None), Step::SetTimer(ms(700)));
        assert_eq!(board.watch(client(0)), Step::Welcome);
    }

    #[test]
    fn a_change_that_is_undone_is_no_update() {
        let mut board = board(1);
        board.change(ms(2_000), (0, 0), 0, None);
        board.change(ms(2_000), (0, 1), 0, name("u0"));
        assert_eq!(update(&mut board, ms(2_100)), None);
    }

    #[test]
    fn the_list_counts_less_than_changes_since_the_question() {
        let mut board = Board::new(7, 2);
        board.watch(client(1));
        assert_eq!(board.add_shard(1, 2), Step::Rest, "one shard is silent");
        assert_eq!(board.add_shard(0, 1), Step::AskList);
        assert_eq!(board.change(ms(0), (0, 0), 5, None), Step::Rest);
        board.change(ms(0), (1, 3), 6, name("new"));
        let members = [(5, "gone".into()), (6, "old".into()), (7, "eve".into()), (8, "".into())];
        assert_eq!(board.add_list(ms(0), members), Step::Welcome);
        let list: Value = serde_json::from_str(&board.list(ROOM)).expect("JSON");
        assert_eq!((&list["members"], &list["count"]), (&json!([[6, "new"], [7, "eve"]]), &json!(3)));
    }

    #[test]
    fn a_list_behind_very_many_changes_is_asked_for_again() {
        let mut board = Board::new(7, 1);
        board.watch(client(0));
        board.add_shard(0, 5_000);
        for member in 0..5_000 {
            board.change(ms(0), (0, 5_000), member, None);
        }
        assert_eq!(board.changed.as_ref().map(HashSet::len), Some(MAX_CHANGED + 1));
        assert_eq!(board.add_list(ms(0), [(1, "gone".into())]), Step::AskList);
        assert_eq!(board.add_list(ms(0), [(6_000, "ada".into())]), Step::Welcome);
        assert_eq!(board.listed.keys().collect::<Vec<_>>(), [&6_000]);
    }

    #[test]
    fn a_crowd_is_counted_and_a_board_that_empties_is_filled_again() {
        let mut board = board(10_000);
        board.change(ms(1_000), (0, 10_001), 20_000, name("unlisted"));
        let changes = json!({"event": "presence", "room": ROOM, "count": 10_001, "joined": [], "left": []});
        assert_eq!(update(&mut board, ms(1_100)), Some(changes));
        for member in 0..50 {
            board.change(ms(2_000), (0, 10_000 - member), u64::from(member), None);
        }
        let (_, step) = board.update(ms(2_100), ROOM);
        assert_eq!(step, Step::Rest, "half of the board is enough");
        board.change(ms(3_000), (0, 9_950), 50, None);
        assert_eq!(board.update(ms(3_100), ROOM).1, Step::AskList);
        assert_eq!(board.update(ms(3_200), ROOM).1, Step::Rest, "the list is asked for once");
        let members = (100..200).map(|member| (member, format!("u{member}").into()));
        assert_eq!(board.add_list(ms(3_300), members), Step::SetTimer(ms(600)));
        assert_eq!(board.listed.len(), LISTED);
        let joined = update(&mut board, ms(4_000)).expect("changes");
        assert_eq!(joined["joined"].as_array().map(Vec::len), Some(51));
    }

    #[test]
    fn a_board_without_watching_shards_is_over() {
        let mut board = Board::new(7, 3);
        for shard in [0, 2, 2] {
            board.watch(client(shard));
        }
        assert_eq!(board.watching(), [0, 2]);
        assert!(!board.unwatch(2));
        assert!(!board.unwatch(2));
        assert!(board.unwatch(0));
    }

    proptest! {
        /// Random changes on two shards, with an update or a question for the list here and there: a watcher that
        /// applies all events has the members of the room.
        #[test]
        fn a_watcher_that_applies_all_events_knows_the_members(
            steps in prop::collection::vec((0..60_u64, any::<bool>(), 0..6), 1..300),
        ) {
            let mut board = Board::new(1, 2);
            let mut members: BTreeMap<u64, Arc<str>> = BTreeMap::new();
            board.watch(client(0));
            board.add_shard(0, 0);
            board.add_shard(1, 0);
            board.add_list(ms(0), []);
            let mut seen: BTreeMap<u64, String> = BTreeMap::new();
            let mut asked = None;
            for (step, (member, is_here, then)) in steps.into_iter().enumerate() {
                let now = ms(step as u64 * 10);
                let name: Option<Arc<str>> = is_here.then(|| format!("n{step}").into());
                match &name {
                    Some(name) => _ = members.insert(member, Arc::clone(name)),
                    None => _ = members.remove(&member),
                }
                let shard = member % 2;
                let count = members.keys().filter(|member| *member % 2 == shard).count() as u32;
                board.change(now, (shard as u16, count), member, name);
                match then {
                    0 => apply(&mut seen, update(&mut board, now)),
                    1 if asked.is_none() => {
                        board.changed = Some(HashSet::new());
                        asked = Some(members.clone());
                    }
                    2 => if let Some(members) = asked.take() {
                        board.add_list(now, members);
                    },
                    _ => {}
                }
            }
            let event = update(&mut board, ms(10_000));
            if let Some(event) = &event {
                prop_assert_eq!(&event["count"], members.len());
            }
            apply(&mut seen, event);
            let members: BTreeMap<u64, String> =
                members.into_iter().map(|(member, name)| (member, name.to_string())).collect();
            prop_assert_eq!(seen, members);
        }
    }

    fn apply(seen: &mut BTreeMap<u64, String>, event: Option<Value>) {
        let Some(event) = event else { return };
        for gone in event["left"].as_array().expect("a list") {
            seen.remove(&gone.as_u64().expect("a number"));
        }
        for joined in event["joined"].as_array().expect("a list") {
            let name = joined[1].as_str().expect("a name").to_owned();
            seen.insert(joined[0].as_u64().expect("a number"), name);
        }
    }
}
