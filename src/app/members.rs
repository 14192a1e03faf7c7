//! Lists of a room's members over all shards.

use crate::hub::{ClientId, Hub, MembersPart, MembersQuery};

use super::gathering::{Asker, Gathering};

/// Maximum number of members in one answer to [`Context::ask_members`](super::Context::ask_members).
pub const MAX_LISTED_MEMBERS: u32 = 1_000;

/// A member of a room, as a shard lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The client.
    pub client: ClientId,
    /// The text of [`App::describe_member`](super::App::describe_member).
    pub description: String,
}

/// Place in the list of a room's members, at which the next answer continues. A program may store the numbers, for
/// example in the URL of the next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MembersCursor {
    /// Index of the shard whose members come next.
    pub shard: u16,
    /// Position in the shard's members. Those before it come next.
    pub below: u32,
}

/// The answer to [`Context::ask_members`](super::Context::ask_members).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The token of the question.
    pub token: u64,
    /// The room of the question.
    pub room: String,
    /// Number of all members of the room, on all shards.
    pub count: usize,
    /// The listed members.
    pub members: Vec<Member>,
    /// Where the next answer continues. `None` at the end of the list.
    pub next: Option<MembersCursor>,
}

/// The lists of members that wait for parts from other shards.
#[derive(Debug, Default)]
pub(crate) struct MemberLists(Gathering<List, MembersPart>);

#[derive(Debug)]
struct List {
    asker: Asker<Members>,
    room: String,
    limit: usize,
}

impl MemberLists {
    /// Asks all shards for the members of a room.
    pub(super) fn ask(
        &mut self,
        hub: &mut Hub,
        shards: u16,
        room: &str,
        from: Option<MembersCursor>,
        limit: u32,
        asker: Asker<Members>,
    ) {
        let from = from.unwrap_or(MembersCursor { shard: 0, below: u32::MAX });
        let limit = limit.min(MAX_LISTED_MEMBERS);
        let list = self.0.begin(List { asker, room: room.into(), limit: limit as usize }, shards);
        for shard in 0..shards {
            // Shards before the cursor only count their members.
            let below = match shard {
                before if before < from.shard => 0,
                at if at == from.shard => from.below,
                _ => u32::MAX,
            };
            hub.outgoing(shard).requests.members(room, MembersQuery { list, below, limit });
        }
    }

    /// Adds a shard's part to its list. Returns the answer and its receiver when all parts have arrived.
    pub(crate) fn add(&mut self, part: MembersPart) -> Option<(Members, Asker<Members>)> {
        self.0.add(part.list, part).map(|(list, parts)| list.finish(parts))
    }

    /// Injects a bug: each unfinished list loses a member.
    #[cfg(test)]
    pub(crate) fn lose_members(&mut self) {
        for part in self.0.last_parts() {
            if part.page.clients.pop().is_some() {
                part.descriptions.pop();
                part.page.count -= 1;
                part.page.start -= 1;
            }
        }
    }

    /// Returns the number of lists that wait for parts.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl List {
    /// Joins the parts of all shards, in the order of the shards.
    fn finish(self, mut parts: Vec<MembersPart>) -> (Members, Asker<Members>) {
        let Self { asker, room, limit } = self;
        parts.sort_unstable_by_key(|part| part.shard);
        let count = parts.iter().map(|part| part.page.count as usize).sum();
        let (mut members, mut next) = (Vec::new(), None);
        for MembersPart { shard, page, descriptions, .. } in parts {
            let taken = page.clients.len().min(limit - members.len());
            let described = page.clients.into_iter().zip(descriptions).take(taken);
            members.extend(described.map(|(client, description)| Member { client, description }));
            let below = page.start - taken as u32;
            if below > 0 {
                next = Some(MembersCursor { shard, below });
                break;
            }
        }
        (Members { token: asker.token(), room, count, members, next }, asker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::MembersPage;

    /// Returns the answer to a question with this limit, where shard `n` has `counts[n]` members.
    fn answer(counts: &[u32], from: Option<MembersCursor>, limit: u32) -> Members {
        let shards = counts.len() as u16;
        let mut lists = MemberLists::default();
        let mut hub = Hub::new(crate::hub::HubOptions {
            shard: 0,
            shards,
            lag_window: 1 << 20,
            history: 0,
            history_bytes: 0,
            history_ms: 0,
            history_memory: 0,
            compression_threshold: 0,
            max_rooms: 1,
            occupancy: false,
            member_reports: false,
            session_ms: 0,
            ack_ms: 0,
            max_sessions: 0,
        });
        lists.ask(&mut hub, shards, "room", from, limit, Asker::App(7));
        let mut answer = None;
        // The parts arrive in reverse order.
        for shard in (0..shards).rev() {
            assert_eq!((lists.len(), &answer), (1, &None));
            hub.outgoing(shard).requests.drain(|request, room, _| {
                let crate::hub::Request::Members { query, .. } = request else { panic!("{request:?}") };
                assert_eq!(room, "room");
                let count = counts[usize::from(shard)];
                let start = query.below.min(count);
                let numbers = start.saturating_sub(query.limit)..start;
                let client = |slot| ClientId { shard, slot, number: 1 };
                let clients: Vec<ClientId> = numbers.rev().map(client).collect();
                let descriptions = clients.iter().map(|client| client.slot.to_string()).collect();
                let page = MembersPage { count, start, clients };
                answer = lists
                    .add(MembersPart { list: query.list, shard, page, descriptions })
                    .map(|(members, _)| members);
            });
        }
        assert_eq!(lists.len(), 0);
        answer.expect("all parts have come")
    }

    #[test]
    fn pages_of_any_size_list_each_member_once() {
        for counts in [&[0, 0, 0][..], &[5], &[0, 3, 0, 4, 0], &[2, 2, 2], &[1_500, 1, 700]] {
            let total: u32 = counts.iter().sum();
            for limit in [1, 2, 3, 7, 1_000, 5_000] {
                let (mut from, mut seen) = (None, Vec::new());
                loop {
                    let page = answer(counts, from, limit);
                    assert_eq!((page.token, &*page.room, page.count), (7, "room", total as usize));
                    let most = limit.min(MAX_LISTED_MEMBERS) as usize;
                    assert!(
                        page.members.len() <= most && (page.members.len() == most || page.next.is_none())
                    );
                    for Member { client, description } in page.members {
                        assert_eq!(description, client.slot.to_string());
                        seen.push((client.shard, client.slot));
                    }
                    from = page.next;
                    if from.is_none() {
                        break;
                    }
                    assert!(seen.len() < total as usize, "there is more behind a cursor");
                }
                seen.sort_unstable();
                let all =
                    (0..).zip(counts).flat_map(|(shard, count)| (0..*count).map(move |slot| (shard, slot)));
                assert_eq!(seen, all.collect::<Vec<_>>(), "{counts:?} in pages of {limit}");
            }
        }
    }

    #[test]
    fn a_question_without_members_counts_and_any_cursor_is_harmless() {
        let page = answer(&[3, 4], None, 0);
        assert_eq!((page.count, page.members.len()), (7, 0));
        for (shard, below) in [(1, 0), (2, 5), (u16::MAX, u32::MAX)] {
            let page = answer(&[3, 4], Some(MembersCursor { shard, below }), 10);
            assert_eq!((page.count, page.members, page.next), (7, Vec::new(), None));
        }
    }
}
