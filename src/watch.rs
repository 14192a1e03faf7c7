//! What is seen of the server from outside of its shards.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use crate::io::clock;
use crate::shard::{Address, Shared};
use crate::stats::Stats;
use crate::tls::Identity;

/// A shard that has not turned for so long, although it was woken, hangs.
const HUNG_MS: u64 = 5_000;
/// How long a shard that was woken may take to turn when it is asked whether it hangs.
const TURN_PATIENCE: Duration = Duration::from_secs(1);
/// How long shards may take to write their numbers down; then those of the last time are told.
const SURVEY_PATIENCE: Duration = Duration::from_millis(250);
/// How often to look whether they have.
const LOOK: Duration = Duration::from_micros(200);

/// The whole server, as seen from outside of its shards.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) backend: &'static str,
    pub(crate) started: SystemTime,
    pub(crate) shared: Arc<Shared>,
    pub(crate) shards: Vec<Watched>,
    /// What listeners with TLS show, if there are any.
    pub(crate) identity: Option<Arc<Identity>>,
}

/// One shard.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) stats: Arc<Stats>,
    pub(crate) address: Address,
}

impl Watched {
    /// How long ago the last turn began, in milliseconds.
    pub(crate) fn turn_age_ms(&self) -> u64 {
        clock::now_ms().saturating_sub(self.stats.turned_ms.get())
    }
}

impl Watch {
    pub(crate) fn is_draining(&self) -> bool {
        self.shared.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn wake(&self) {
        for shard in &self.shards {
            shard.address.wake();
        }
    }

    /// Has all shards write their numbers down.
    pub(crate) fn survey(&self) {
        self.ask_all(SURVEY_PATIENCE);
    }

    /// Which shards hang, in words. One that has nothing to do may sleep for longer than it may take for a turn, so
    /// it is woken, and hangs only if it does not turn then.
    pub(crate) fn hung(&self) -> Option<String> {
        let is_late = |shard: &Watched| shard.turn_age_ms() >= HUNG_MS;
        if !self.shards.iter().any(is_late) {
            return None;
        }
        self.ask_all(TURN_PATIENCE);
        let late = self.shards.iter().enumerate().filter(|(_, shard)| is_late(shard));
        let lines: Vec<String> = late
            .map(|(index, shard)| {
                format!("shard {index} has not turned for {} s", shard.turn_age_ms() / 1_000)
            })
            .collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Wakes all shards and waits until each has turned, but no longer than `patience`.
    fn ask_all(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let ask = |shard: &Watched| {
            let question = shard.stats.survey.ask();
            shard.address.wake();
            question
        };
        let questions: Vec<u64> = self.shards.iter().map(ask).collect();
        for (shard, question) in self.shards.iter().zip(questions) {
            while !shard.stats.survey.is_answered(question) && Instant::now() < deadline {
                std::thread::sleep(LOOK);
            }
        }
    }
}
