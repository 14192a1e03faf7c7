//! Counts of API calls, by route, key and status.

use std::collections::BTreeMap;

/// Maximum number of series. A reload that renames keys again and again adds series; further ones are counted for the
/// key `other`.
const MAX_SERIES: usize = 10_000;

/// An answered call, for the log and the metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) method: &'a str,
    /// Template of the route, such as `/api/rooms/ROOM`.
    pub(crate) route: &'static str,
    /// Name of the key. `None` without a valid key.
    pub(crate) key: Option<&'a str>,
    /// HTTP status of the answer.
    pub(crate) status: u16,
    /// Code of the error; empty for success.
    pub(crate) code: &'a str,
}

/// Labels of a count: the route's template, the key's name, the HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallLabels {
    pub(crate) route: &'static str,
    pub(crate) key: Box<str>,
    pub(crate) status: u16,
}

#[derive(Debug, Default)]
pub(super) struct CallCounts(BTreeMap<CallLabels, u64>);

impl CallCounts {
    pub(super) fn add(&mut self, route: &'static str, key: &str, status: u16) {
        let labels = CallLabels { route, key: key.into(), status };
        if let Some(count) = self.0.get_mut(&labels) {
            *count += 1;
            return;
        }
        let key = if self.0.len() < MAX_SERIES { labels.key } else { "other".into() };
        *self.0.entry(CallLabels { key, ..labels }).or_default() += 1;
    }

    pub(super) fn all(&self) -> Vec<(CallLabels, u64)> {
        self.0.iter().map(|(labels, count)| (labels.clone(), *count)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_route_key_and_status_and_the_series_are_bounded() {
        let mut counts = CallCounts::default();
        counts.add("/api/rooms", "php", 200);
        counts.add("/api/rooms", "php", 200);
        counts.add("/api/rooms", "php", 403);
        let numbers: Vec<_> =
            counts.all().into_iter().map(|(labels, count)| (labels.status, count)).collect();
        assert_eq!(numbers, [(200, 2), (403, 1)]);
        for number in 0..2 * MAX_SERIES {
            counts.add("/api/rooms", &number.to_string(), 200);
        }
        assert_eq!(counts.0.len(), MAX_SERIES + 1);
        assert_eq!(counts.0.values().sum::<u64>(), 3 + 2 * MAX_SERIES as u64);
    }
}
