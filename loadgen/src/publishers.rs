//! The assignment of publishers to the connections of a run.

use serde::{Deserialize, Serialize};

use crate::plan::Share;

/// The connections that publish: `count` of `connections`, spread evenly.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Publishers {
    pub(crate) count: usize,
    pub(crate) connections: usize,
}

impl Publishers {
    /// Returns the publisher number of connection `id`. `None` if the connection does not publish.
    pub(crate) fn number(self, id: usize) -> Option<u32> {
        let number = (id * self.count).div_ceil(self.connections);
        (number < self.count && self.connection(number) == id).then_some(number as u32)
    }

    /// Returns the number and the slot of each publisher whose connection belongs to `share`, in ascending order.
    pub(crate) fn within(self, share: Share) -> impl Iterator<Item = (u32, usize)> {
        (0..share.count).filter_map(move |slot| Some((self.number(share.first + slot)?, slot)))
    }

    /// Returns the connection of a publisher.
    fn connection(self, number: usize) -> usize {
        number * self.connections / self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_publisher_has_one_connection() {
        for (count, connections) in [(1, 1), (3, 3), (1, 1000), (16, 1016), (7, 9), (0, 4)] {
            let publishers = Publishers { count, connections };
            let numbers: Vec<usize> = (0..connections)
                .filter_map(|id| publishers.number(id))
                .map(|number| number as usize)
                .collect();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{publishers:?}");
            let shares = Share::divide(connections, 2.min(connections));
            let found: usize = shares.into_iter().map(|share| publishers.within(share).count()).sum();
            assert_eq!(found, count, "{publishers:?}");
        }
    }
}
