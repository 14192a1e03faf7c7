//! Occupancy of rooms: the home shard reports a room's first member and the loss of its last one.

use super::Hub;
use super::rooms::RoomId;

/// Report that a room has got its first member, or has lost its last one, counted over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// Name of the room.
    pub room: Box<str>,
    /// Whether the room has members now.
    pub is_occupied: bool,
}

impl Hub {
    /// Returns the next report about a room whose home is this shard. The reports of a room come in order, alternately
    /// occupied and vacated. `None` without a report, and always unless the options ask for reports.
    pub fn poll_occupancy(&mut self) -> Option<Occupancy> {
        self.occupancies.pop_front()
    }

    /// Returns the number of reports that wait for [`Hub::poll_occupancy`].
    pub fn occupancy_reports(&self) -> usize {
        self.occupancies.len()
    }

    /// Makes a report if the room's members, counted over all shards, have begun or ceased to exist. Called on each
    /// shard after each change of the room's members or subscribers; does nothing on shards other than the home.
    pub(super) fn note_occupancy(&mut self, id: RoomId) {
        let room = &mut self.rooms[id];
        let is_occupied = !room.is_abandoned();
        let Some(home) = &mut room.home else { return };
        if home.is_occupied != is_occupied {
            home.is_occupied = is_occupied;
            if self.options.occupancy {
                self.occupancies.push_back(Occupancy { room: room.name.clone(), is_occupied });
            }
        }
    }
}
