//! Access to the whole server from threads other than its shards.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::backends::Backends;
#[cfg(feature = "admin")]
use crate::config::AdminToken;
use crate::config::hosts::HostNames;
use crate::io::clock;
use crate::shard::{Address, Shared};
use crate::stats::Stats;
use crate::tls::Identity;
#[cfg(feature = "outgoing")]
use crate::token::RemoteKeys;
#[cfg(feature = "outgoing")]
use crate::webhooks::{PusherWebhooks, Webhooks};

/// Age of a shard's last turn, in milliseconds, from which a shard that was woken counts as hanging.
const HUNG_MS: u64 = 5_000;
/// Time limit for a shard to complete a turn after it was woken, to check whether it hangs.
pub(crate) const TURN_PATIENCE: Duration = Duration::from_secs(1);
/// Time limit for all shards to update their gauges. After it, the metrics show the previous values.
pub(crate) const SURVEY_PATIENCE: Duration = Duration::from_millis(250);
/// Interval at which [`Watch::hung`] checks whether the shards have turned.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// Access to the state of the whole server, shared by all threads.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) backend: &'static str,
    pub(crate) started: SystemTime,
    pub(crate) shared: Arc<Shared>,
    pub(crate) shards: Vec<Watched>,
    /// The certificate of the TLS listeners; `None` without TLS listeners.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The host names that requests to the admin listener may name.
    pub(crate) hosts: Mutex<HostNames>,
    /// The token that the admin listener asks for; `None` if it asks for none.
    #[cfg(feature = "admin")]
    pub(crate) admin_token: Mutex<Option<AdminToken>>,
    pub(crate) last_reload: Mutex<LastReload>,
    pub(crate) backends: Arc<Backends>,
    /// The webhooks of a server that has started with some.
    #[cfg(feature = "outgoing")]
    pub(crate) webhooks: Option<Arc<Webhooks>>,
    /// The keys of an identity provider, if they are fetched from a URL.
    #[cfg(feature = "outgoing")]
    pub(crate) remote_keys: Mutex<Option<Arc<RemoteKeys>>>,
    /// The webhooks of the applications of a Pusher server.
    #[cfg(feature = "outgoing")]
    pub(crate) pusher_webhooks: OnceLock<Arc<PusherWebhooks>>,
}

/// The outcome of the last reload of the settings. The start of the server counts as a reload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastReload {
    pub(crate) is_successful: bool,
    /// Time of the last successful reload, or of the server's start.
    pub(crate) succeeded: SystemTime,
}

/// A shard as other threads see it: its counters, and its mailbox address to wake it.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) stats: Arc<Stats>,
    pub(crate) address: Address,
}

/// An inquiry that asks all shards to update their gauges. Holds the number of the question to each shard, by shard
/// index.
#[derive(Debug)]
pub(crate) struct Inquiry(Vec<u64>);

impl Watched {
    /// Returns the time since the shard's last turn began, in milliseconds.
    pub(crate) fn turn_age_ms(&self) -> u64 {
        clock::now_ms().saturating_sub(self.stats.turned_ms.get())
    }

    fn is_late(&self) -> bool {
        self.turn_age_ms() >= HUNG_MS
    }
}

impl Watch {
    /// Returns whether the server is shutting down.
    pub(crate) fn is_draining(&self) -> bool {
        self.shared.stopping.load(Ordering::SeqCst)
    }

    /// Wakes the threads of all shards.
    pub(crate) fn wake(&self) {
        for shard in &self.shards {
            shard.address.wake();
        }
    }

    /// Returns the host names of the admin listener.
    pub(crate) fn host_names(&self) -> MutexGuard<'_, HostNames> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the token that the admin listener asks for, if there is one.
    #[cfg(feature = "admin")]
    pub(crate) fn admin_token(&self) -> MutexGuard<'_, Option<AdminToken>> {
        self.admin_token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the keys of an identity provider, if they are fetched from a URL.
    #[cfg(feature = "outgoing")]
    pub(crate) fn remote_keys(&self) -> MutexGuard<'_, Option<Arc<RemoteKeys>>> {
        self.remote_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the reason why new clients should go to another server, or `None` if the server is ready for them.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.is_draining() {
            return Some("draining: the server is shutting down");
        }
        #[cfg(feature = "outgoing")]
        if let Some(keys) = &*self.remote_keys()
            && keys.remote_state().keys.is_none()
        {
            return Some(
                "no keys: the server has not fetched the keys of the identity provider (auth-jwks) yet",
            );
        }
        None
    }

    /// Returns the outcome of the last reload of the settings.
    pub(crate) fn last_reload(&self) -> LastReload {
        *self.last_reload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the outcome of a reload, and the time if the reload was successful.
    pub(crate) fn reloaded(&self, is_successful: bool) {
        let mut last = self.last_reload.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_successful = is_successful;
        if is_successful {
            last.succeeded = SystemTime::now();
        }
    }

    /// Returns whether a shard has not turned for [`HUNG_MS`]. The shard may only sleep: wake it with
    /// [`Watch::ask_all`], then call [`Watch::late_shards`].
    pub(crate) fn has_late_shards(&self) -> bool {
        self.shards.iter().any(Watched::is_late)
    }

    /// Returns one line for each shard that has not turned for [`HUNG_MS`], or `None` if there is none. After an
    /// inquiry, these shards hang.
    pub(crate) fn late_shards(&self) -> Option<String> {
        let late = self.shards.iter().enumerate().filter(|(_, shard)| shard.is_late());
        let lines: Vec<String> = late
            .map(|(index, shard)| {
                format!("shard {index} has not turned for {} s", shard.turn_age_ms() / 1_000)
            })
            .collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// Returns one line for each shard that hangs, or `None` if there is none. Wakes shards that may only sleep, and
    /// waits up to a second for their turns.
    pub(crate) fn hung(&self) -> Option<String> {
        if !self.has_late_shards() {
            return None;
        }
        let deadline = Instant::now() + TURN_PATIENCE;
        let inquiry = self.ask_all();
        while !self.is_answered(&inquiry) && Instant::now() < deadline {
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.late_shards()
    }

    /// Wakes all shards, and asks each shard to update its gauges at the end of its turn.
    pub(crate) fn ask_all(&self) -> Inquiry {
        let ask = |shard: &Watched| {
            let question = shard.stats.survey.ask();
            shard.address.wake();
            question
        };
        Inquiry(self.shards.iter().map(ask).collect())
    }

    /// Returns whether every shard has completed a turn since the inquiry.
    pub(crate) fn is_answered(&self, Inquiry(questions): &Inquiry) -> bool {
        self.shards.iter().zip(questions).all(|(shard, question)| shard.stats.survey.is_answered(*question))
    }
}
