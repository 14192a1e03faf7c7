//! Lists of a room's members: the part that one shard contributes.

use super::{ClientId, Hub};

/// Question of one shard for the members of a room on another shard.
#[derive(Clone, Copy, Debug)]
pub struct MembersQuery {
    /// Number of the list among those that the asking shard makes.
    pub list: u64,
    /// Position in the room's members on the asked shard. Only members before it are listed.
    pub below: u32,
    /// Maximum number of members that are listed.
    pub limit: u32,
}

/// Members of a room on one shard.
#[derive(Debug, Default)]
pub struct MembersPage {
    /// Number of all members of the room on the shard.
    pub count: u32,
    /// Position after the first listed member. Members before the listed ones have the positions below
    /// `start - clients.len()`.
    pub start: u32,
    /// The listed members, in the order of falling positions.
    pub clients: Vec<ClientId>,
}

impl Hub {
    /// Returns members of `room` on this shard: at most `limit` of those at positions before `below`.
    ///
    /// Memberships that end move other members to lower positions only. So pages that continue at falling positions list
    /// each client that is a member all the time at least once.
    pub fn members_below(&self, room: &str, below: u32, limit: u32) -> MembersPage {
        let Some(id) = self.rooms.find(room) else { return MembersPage::default() };
        let members = &self.rooms[id].members;
        let count = members.len() as u32;
        let start = below.min(count);
        let listed = &members[start.saturating_sub(limit) as usize..start as usize];
        let clients = listed.iter().rev().map(|member| self.client(member.slot)).collect();
        MembersPage { count, start, clients }
    }
}
