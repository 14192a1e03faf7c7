//! Settings of a shard, derived from the options and the application, and their reload.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::app::App;
use crate::config::hosts::{HostNames, is_local};
use crate::config::{Compression, Jwks, LagPolicy, Network, Options, Origin, Secret};
use crate::hub;
use crate::io::Backend;
use crate::protocol::MessageLimits;
use crate::token::Verifier;

use super::memory::MemoryPart;
use super::{Pace, Shard};

/// Identity of a shard: its index, and the number of shards of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardId {
    /// Index of the shard, from 0 on.
    pub(crate) index: u16,
    /// Number of shards of the server.
    pub(crate) count: u16,
}

/// Settings of a shard, derived from the options and the application.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) id: ShardId,
    /// Origins whose pages may connect. An empty list allows only the origin of the requested host.
    pub(crate) origins: Vec<Origin>,
    /// Host names of the server, with which the Host header is compared.
    pub(crate) hosts: HostNames,
    /// Whether each listener has a loopback or private address, by listener index.
    pub(crate) local_listeners: Vec<bool>,
    /// Networks of proxies that are trusted to name their clients.
    pub(crate) proxies: Vec<Network>,
    /// Verifier of the clients' tokens. `None` when no tokens are required.
    pub(crate) verifier: Option<Arc<Verifier>>,
    pub(crate) limits: MessageLimits,
    pub(crate) compression: Compression,
    /// Limit for the memory of the compression windows of this shard's connections, in bytes.
    pub(crate) context_memory: usize,
    pub(crate) memory: MemoryPart,
    pub(crate) pace: Pace,
    pub(crate) lag_policy: LagPolicy,
    /// Whether clients may have sessions.
    pub(crate) has_sessions: bool,
    pub(crate) handshake_ms: u64,
    pub(crate) message_ms: u64,
    /// Time in milliseconds for which a connection waits for its next HTTP request. 0: every response ends its
    /// connection.
    pub(crate) keep_alive_ms: u64,
    pub(crate) ping_ms: u64,
    pub(crate) pong_ms: u64,
    pub(crate) close_ms: u64,
    pub(crate) drain_delay_ms: u64,
    pub(crate) drain_ms: u64,
}

/// The latest options published to the shards. A shard reads the version once a turn, and takes the lock only when the
/// version has changed.
#[derive(Debug, Default)]
pub(crate) struct SettingsUpdate {
    version: AtomicU32,
    options: Mutex<Arc<Options>>,
}

impl Settings {
    /// Derives the settings of the shard `id` from the options and the application.
    pub(crate) fn new(options: &Options, id: ShardId, app: &dyn App) -> Self {
        let (messages, bytes) = app.rates();
        let memory = MemoryPart::new(options, id.count);
        let context_memory = options.context_memory as usize / usize::from(id.count);
        Self {
            id,
            origins: options.allowed_origins.clone(),
            hosts: HostNames::new(options),
            local_listeners: options.listen.iter().map(is_local).collect(),
            proxies: options.trusted_proxies.clone(),
            verifier: verifier(options),
            limits: MessageLimits {
                max_message: options.max_message as usize,
                max_request_body: options.max_request_body as usize,
            },
            compression: options.compression,
            context_memory: memory.at_most_a_quarter(context_memory),
            memory,
            pace: Pace {
                messages: options.message_rate.unwrap_or(messages),
                bytes: options.byte_rate.unwrap_or(bytes),
            },
            lag_policy: options.lag_policy,
            has_sessions: !options.session_seconds.is_zero(),
            handshake_ms: millis(options.handshake_seconds),
            message_ms: millis(options.message_seconds),
            keep_alive_ms: millis(options.keep_alive_seconds),
            ping_ms: millis(options.ping_seconds),
            pong_ms: millis(options.pong_seconds),
            close_ms: millis(options.close_seconds),
            drain_delay_ms: millis(options.drain_delay),
            drain_ms: millis(options.drain_seconds),
        }
    }
}

/// Returns the verifier of the clients' tokens. `None` if the options name neither a secret nor keys.
fn verifier(options: &Options) -> Option<Arc<Verifier>> {
    let secret = options.auth_hmac_secret_file.as_ref().map(Secret::bytes);
    let keys = options.auth_jwks.as_ref().map(Jwks::keys);
    if secret.is_none() && keys.is_none() {
        return None;
    }
    let verifier = Verifier::new(secret, keys);
    Some(Arc::new(verifier.requiring(options.auth_issuer.clone(), options.auth_audience.clone())))
}

/// Derives the options of the hub of the shard `id` from the server's options and the application.
pub(crate) fn hub_options(options: &Options, id: ShardId, app: &dyn App) -> hub::HubOptions {
    let history = if options.history_bytes > 0 { app.history() } else { 0 };
    hub::HubOptions {
        shard: id.index,
        shards: id.count,
        lag_window: options.lag_window as usize,
        history,
        history_bytes: options.history_bytes as usize,
        history_ms: millis(options.history_seconds),
        compression_threshold: options.compression_threshold as usize,
        max_rooms: options.max_rooms_per_connection as usize,
        occupancy: app.watches_occupancy(),
        member_reports: app.watches_members(),
        session_ms: millis(options.session_seconds),
        ack_ms: millis(options.ack_interval),
        max_sessions: match options.max_sessions as usize {
            0 => usize::MAX,
            most => most.div_ceil(usize::from(id.count)),
        },
        history_memory: {
            let wanted = match usize::try_from(options.history_memory).unwrap_or(usize::MAX) {
                0 => usize::MAX,
                bytes => (bytes / usize::from(id.count)).max(1),
            };
            MemoryPart::new(options, id.count).at_most_a_quarter(wanted)
        },
    }
}

impl SettingsUpdate {
    /// Publishes new options to all shards. The caller must wake the shards afterwards.
    pub(crate) fn publish(&self, options: Options) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns the version of the latest published options: 0 until options are published.
    pub(super) fn version(&self) -> u32 {
        self.version.load(Ordering::SeqCst)
    }

    /// Returns the latest published options, which may be newer than a version read before.
    fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Backend> Shard<B> {
    /// Applies the latest published options, unless this shard has applied them already. Running deadlines do not
    /// change.
    pub(super) fn apply_update(&mut self) {
        let version = self.shared.settings_update.version();
        if version == self.applied_version {
            return;
        }
        self.applied_version = version;
        let options = self.shared.settings_update.options();
        let id = self.settings.id;
        self.settings = Settings::new(&options, id, &*self.app);
        self.context.tokens.verifier.clone_from(&self.settings.verifier);
        self.context.skips_lagged = self.settings.lag_policy == LagPolicy::Skip;
        self.reader.set_limits(self.settings.limits);
        self.hub.set_options(hub_options(&options, id, &*self.app));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
