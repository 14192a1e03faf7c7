//! What a shard goes by, as it follows from the server's settings and the application, and how it hears of new ones.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::app::App;
use crate::config::{Compression, LagPolicy, Network, Options, Origin};
use crate::hub;
use crate::io::Backend;
use crate::protocol::Limits;
use crate::token::Verifier;

use super::{Pace, Shard};

/// Settings of a shard.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) shard: u16,
    pub(crate) shards: u16,
    /// Whose pages may come; empty: those of the host that is asked.
    pub(crate) origins: Vec<Origin>,
    /// Who is believed when it says where its clients are from.
    pub(crate) proxies: Vec<Network>,
    /// Checks tokens, if clients must show them.
    pub(crate) verifier: Option<Arc<Verifier>>,
    pub(crate) limits: Limits,
    pub(crate) compression: Compression,
    /// Bytes that the windows of all connections may come to.
    pub(crate) context_memory: usize,
    pub(crate) pace: Pace,
    pub(crate) lag_policy: LagPolicy,
    pub(crate) has_page: bool,
    pub(crate) handshake_ms: u64,
    pub(crate) ping_ms: u64,
    pub(crate) pong_ms: u64,
    pub(crate) close_ms: u64,
    pub(crate) drain_delay_ms: u64,
    pub(crate) drain_ms: u64,
}

/// New settings on their way to the shards. Written when somebody changes them; a shard looks at the number once a
/// turn, and takes the lock only when that is another one.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    number: AtomicU32,
    options: Mutex<Arc<Options>>,
}

impl Settings {
    /// Those of the shard with index `shard` of so many.
    pub(crate) fn new(options: &Options, (shard, shards): (u16, u16), app: &dyn App) -> Self {
        let (messages, bytes) = app.rates();
        Self {
            shard,
            shards,
            origins: options.allowed_origins.clone(),
            proxies: options.trusted_proxies.clone(),
            verifier: options
                .auth_hmac_secret_file
                .as_ref()
                .map(|secret| Arc::new(Verifier::new(secret.bytes()))),
            limits: Limits { max_message: options.max_message as usize },
            compression: options.compression,
            context_memory: options.context_memory as usize / usize::from(shards),
            pace: Pace {
                messages: options.message_rate.unwrap_or(messages),
                bytes: options.byte_rate.unwrap_or(bytes),
            },
            lag_policy: options.lag_policy,
            has_page: app.has_page(),
            handshake_ms: millis(options.handshake_seconds),
            ping_ms: millis(options.ping_seconds),
            pong_ms: millis(options.pong_seconds),
            close_ms: millis(options.close_seconds),
            drain_delay_ms: millis(options.drain_delay),
            drain_ms: millis(options.drain_seconds),
        }
    }
}

/// The same for its hub.
pub(crate) fn hub_options(options: &Options, (shard, shards): (u16, u16), app: &dyn App) -> hub::HubOptions {
    let history = if options.history_bytes > 0 { app.history() } else { 0 };
    hub::HubOptions {
        shard,
        shards,
        lag_window: options.lag_window as usize,
        history,
        history_bytes: options.history_bytes as usize,
        history_ms: millis(options.history_seconds),
        compression_threshold: options.compression_threshold as usize,
        history_memory: match usize::try_from(options.history_memory).unwrap_or(usize::MAX) {
            0 => 0,
            bytes => (bytes / usize::from(shards)).max(1),
        },
    }
}

impl Notice {
    /// Puts up new settings. The shards are to be woken after it.
    pub(crate) fn put_up(&self, options: Options) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
        self.number.fetch_add(1, Ordering::SeqCst);
    }

    /// Another one when there are new settings.
    pub(super) fn number(&self) -> u32 {
        self.number.load(Ordering::SeqCst)
    }

    /// The settings of this number, or newer ones.
    fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Backend> Shard<B> {
    /// Goes over to new settings, if there are any. Deadlines that are set already stay as they are.
    pub(super) fn take_notice(&mut self) {
        let number = self.shared.notice.number();
        if number == self.noticed {
            return;
        }
        self.noticed = number;
        let options = self.shared.notice.options();
        let ids = (self.settings.shard, self.settings.shards);
        self.settings = Settings::new(&options, ids, &*self.app);
        self.reader.set_limits(self.settings.limits);
        self.hub.set_options(hub_options(&options, ids, &*self.app));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
