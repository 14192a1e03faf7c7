//! The resources of a server: backend, descriptors, connection limits and processors.

use std::sync::Arc;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use tracing::warn;

use crate::config::{BackendName, Endpoint, Options};
use crate::io::{BackendOptions, Uring};
use crate::proxied::Trusted;
use crate::shard::admission::ConnectionLimits;
use crate::tls::TlsOptions;

/// Number of descriptors that each worker needs besides its connections: its ring or epoll instance and its wake-up.
const OTHER_DESCRIPTORS_PER_WORKER: u64 = 8;
/// Number of descriptors that the process needs besides those of its workers: standard streams, log and files.
const OTHER_DESCRIPTORS: u64 = 32;
/// Upper bound of the admin listener's connection limit. At the limit, a new connection closes the oldest one.
const MAX_ADMIN_CONNECTIONS: u64 = 512;
/// Lower bound of the default limit of connections in their handshake.
const MIN_HANDSHAKES: u64 = 1024;
/// Maximum number of direct descriptors of an io_uring ring (`IORING_MAX_FIXED_FILES`).
const MAX_SLOTS: u64 = 1 << 20;

/// The resources of all workers, derived from the options when the server starts.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Number of workers. Determined before the workers start, since a pinned thread sees only one processor.
    pub(super) workers: u16,
    /// The addresses and paths of the server's listeners, by listener index.
    pub(super) listen: Vec<Endpoint>,
    pub(super) backend: BackendName,
    /// The limit of open descriptors of the process.
    pub(super) descriptors: u64,
    /// Maximum number of connections that the descriptor limit allows.
    pub(super) possible: u64,
    pub(super) io: BackendOptions,
    /// The certificate and the TLS listeners; `None` without TLS listeners.
    pub(super) tls: Option<TlsOptions>,
    /// The proxies whose connections begin with a PROXY header. `None` without `--proxy-protocol`.
    pub(super) trusted: Option<Arc<Trusted>>,
    /// The processors that the workers may use. `None` if the system does not report them.
    pub(super) cpus: Option<CpuSet>,
}

impl Plan {
    /// Plans a server of `worker_count` workers in a process that may open `descriptors` descriptors.
    pub(super) fn new(options: &Options, worker_count: u16, descriptors: u64) -> Self {
        let workers = u64::from(worker_count);
        let admin = admin_connections(options, descriptors);
        let other = OTHER_DESCRIPTORS + OTHER_DESCRIPTORS_PER_WORKER * workers + admin;
        let free = descriptors.saturating_sub(other).max(1);
        let with_slots = |slots: u64| BackendOptions {
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            buffers: options.receive_buffers,
            ..BackendOptions::default()
        };
        let ring = with_slots(free.min(MAX_SLOTS));
        let backend = match options.backend {
            BackendName::Auto => match Uring::new(&ring, Vec::new()) {
                Ok(_) => BackendName::IoUring,
                Err(error) => {
                    warn!(%error, "io_uring is not available; using epoll");
                    BackendName::Epoll
                }
            },
            chosen => chosen,
        };
        let io = if backend == BackendName::IoUring { ring } else { with_slots(free) };
        // Each io_uring ring has a separate descriptor table, and the descriptor limit applies to each table.
        let possible = if backend == BackendName::IoUring { u64::from(io.slots) * workers } else { free };
        Self {
            workers: worker_count,
            listen: options.listen.clone(),
            backend,
            descriptors,
            possible,
            io,
            tls: None,
            trusted: options.proxy_protocol.then(|| Arc::new(Trusted::new(&options.trusted_proxies))),
            cpus: sched_getaffinity(Pid::from_raw(0)).ok(),
        }
    }

    /// Returns the connection limits under these options. Warns when the process has too few descriptors for the
    /// limits.
    pub(super) fn limits(&self, options: &Options) -> ConnectionLimits {
        let Self { descriptors, possible, .. } = *self;
        let wanted = u64::from(options.max_connections);
        if wanted > possible {
            warn!(
                wanted,
                possible,
                descriptors,
                "--max-connections {wanted} is more than {descriptors} descriptors allow, so the limit is {possible}; \
                 raise the hard limit of descriptors (ulimit -Hn){}",
                if self.backend == BackendName::IoUring { " or --workers" } else { "" }
            );
        }
        let server = if wanted == 0 { possible } else { wanted.min(possible) };
        let handshakes = match options.max_handshakes {
            0 => (server / 2).max(MIN_HANDSHAKES),
            chosen => chosen.into(),
        };
        let (per_address, rate) = (options.max_connections_per_ip, options.connection_rate);
        ConnectionLimits { server, per_address, handshakes, rate }
    }

    pub(super) fn backend_name(&self) -> &'static str {
        if self.backend == BackendName::IoUring { "io-uring" } else { "epoll" }
    }
}

/// Returns the connection limit of the admin listener, or 0 without an admin listener.
#[cfg(feature = "admin")]
pub(super) fn admin_connections(options: &Options, descriptors: u64) -> u64 {
    options.admin.map_or(0, |_| (descriptors / 8).clamp(1, MAX_ADMIN_CONNECTIONS))
}

#[cfg(not(feature = "admin"))]
pub(super) fn admin_connections(_options: &Options, _descriptors: u64) -> u64 {
    0
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::app::Relay;
    use crate::config::tests::other_value;
    use crate::config::{Cli, Config, keys, needs_restart, options};
    use crate::shard::{Settings, ShardId, hub_options};

    /// Returns a text of all state that a reload derives from the settings.
    fn in_force(config: &Config) -> String {
        let epoll = Options { backend: BackendName::Epoll, ..Options::default() };
        let options = Options::from(config);
        let (plan, id, app) = (Plan::new(&epoll, 1, 1_000), ShardId { index: 0, count: 1 }, Relay::default());
        let shard = (Settings::new(&options, id, &app), hub_options(&options, id, &app));
        let identity = config.tls_cert.as_ref().or(config.tls_key.as_ref());
        let Config { api_keys, pusher_apps, admin_token_file, webhook, ca_file, .. } = config;
        let Config { webhook_secret_file, webhook_events, webhook_messages, .. } = config;
        let webhooks = (webhook, webhook_secret_file, webhook_events, webhook_messages, ca_file);
        let (limits, log) = (plan.limits(&options), &config.log);
        format!(
            "{shard:?} {limits:?} {log} {identity:?} {api_keys:?} {pusher_apps:?} {admin_token_file:?} {webhooks:?}"
        )
    }

    /// A new option must be applied by `Control::reload`, or have the help heading of options that need a restart.
    #[test]
    fn each_option_changes_at_once_unless_the_help_says_that_it_needs_a_restart() {
        let options = options();
        let of = |argument: &[&str]| {
            let cli = Cli::try_parse_from([&["uproar"], argument].concat());
            cli.unwrap_or_else(|error| panic!("{argument:?}: {error}")).into_config()
        };
        for option in keys(&options) {
            let argument = format!("--{}={}", option.get_long().expect("a name"), other_value(option));
            // Options for tokens have no effect without a secret.
            let others: &[&str] = match option.get_id().as_str() {
                "auth_issuer" | "auth_audience" => &["--auth-hmac-secret-file=LICENSE-MIT"],
                _ => &[],
            };
            let is_live = in_force(&of(&[others, &[&*argument]].concat())) != in_force(&of(others));
            assert_eq!(is_live, !needs_restart(option), "{argument}");
        }
    }
}
