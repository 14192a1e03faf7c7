//! The options of the engine, for programs that embed it.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{ApiKeys, Endpoint, Jwks, Network, Origin, Secret, ServerName, machine};

/// The system interface that the server uses for network I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(clap::ValueEnum))]
pub enum BackendName {
    /// io_uring if the system allows it, else epoll.
    Auto,
    /// io_uring. The server does not start without it.
    IoUring,
    /// epoll.
    Epoll,
}

/// The policy for a listen address that another server of the same user already has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(clap::ValueEnum))]
pub enum Takeover {
    /// Refuse to start.
    Off,
    /// Listen beside the other server, so that it can end without a gap.
    On,
}

/// The policy for a client that reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(clap::ValueEnum))]
pub enum LagPolicy {
    /// Close it with code 1013, reason `lagged`.
    Close,
    /// Skip to the newest messages and tell the client how many it missed.
    Skip,
}

/// The compression of messages for clients that offer permessage-deflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(clap::ValueEnum))]
pub enum Compression {
    /// No compression: the server declines every offer.
    Off,
    /// Compress each message once for all clients of a room.
    Shared,
    /// Compress each message for each client alone: smaller messages, but more CPU time and memory per client.
    Dedicated,
}

/// The options of a server. [`Options::default`] listens on `127.0.0.1:8000` and has limits for the open internet.
///
/// Sizes are in bytes. A limit of 0 means no limit, unless the option's text says otherwise.
///
/// ```
/// use std::time::Duration;
///
/// use uproar::{Endpoint, Options};
///
/// let options = Options {
///     listen: vec!["0.0.0.0:9000".parse::<Endpoint>()?],
///     max_message: 64 << 10,
///     ping_seconds: Duration::from_secs(20),
///     ..Options::default()
/// };
/// options.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The addresses and Unix-socket paths to listen on. Port 0 is any free port.
    pub listen: Vec<Endpoint>,

    /// Whether to listen on an address beside another server of the same user. With [`Takeover::Off`], an address in
    /// use is an error.
    pub takeover: Takeover,

    /// The file with the certificate chain (PEM) of the TLS listeners: the server's certificate first, then its
    /// issuers.
    pub tls_cert: Option<PathBuf>,

    /// The file with the private key (PEM, not encrypted) of the certificate in [`Options::tls_cert`].
    pub tls_key: Option<PathBuf>,

    /// The system interface that the server uses for network I/O.
    pub backend: BackendName,

    /// The number of worker threads, 1 to 1024. `None`: one worker for each CPU core.
    pub workers: Option<u16>,

    /// The limit of open connections over all workers. A connection over the limit ends the longest idle HTTP connection
    /// of its worker, or gets 503. 0: as many as the descriptor limit allows.
    pub max_connections: u32,

    /// The limit of open connections from one IP address (IPv6: one /64 network). A connection over the limit gets 429.
    pub max_connections_per_ip: u32,

    /// The limit of new connections per second from one IP address (IPv6: one /64 network), with a burst of 4 seconds'
    /// worth. A connection over the limit gets 429, or a reset on a TLS listener. 0: no limit.
    pub connection_rate: u32,

    /// The limit of connections that have not finished their HTTP request; each worker has an equal part of it. At the
    /// limit, a new connection closes the oldest unfinished one of the IP address with the most. 0: half of the
    /// connection limit, at least 1024.
    pub max_handshakes: u32,

    /// The origins whose web pages may open a WebSocket. Pages of other origins get 403. Empty: only pages served under
    /// the host name that they connect to. Clients without an `Origin` header are always allowed.
    pub allowed_origins: Vec<Origin>,

    /// The host names of the server; a request for another name gets 421. IP addresses, `localhost` and requests
    /// through a trusted proxy or a Unix socket are always allowed. Empty: the names of [`Options::allowed_origins`]
    /// on listeners with a loopback or private address, all names on others. WebSocket clients other than browsers may
    /// then use any name.
    pub server_names: Vec<ServerName>,

    /// The addresses of trusted proxies. For their connections, the server takes the client's address from the
    /// `X-Forwarded-For` or `Forwarded` header. Peers on Unix sockets are always trusted.
    pub trusted_proxies: Vec<Network>,

    /// Whether each connection of a trusted proxy begins with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,

    /// The secret that signs access tokens (JWT, HS256). If set, a client needs a token to open a WebSocket, as
    /// `?token=TOKEN` or `Authorization: Bearer TOKEN`. A client without a valid token gets 401.
    pub auth_hmac_secret_file: Option<Secret>,

    /// The public keys that verify access tokens (JWT with RS256, ES256 or EdDSA) of an identity provider, from a file or a
    /// URL. Clients then
    /// need a token, as with [`Options::auth_hmac_secret_file`]. With both options, tokens of either kind are valid.
    pub auth_jwks: Option<Jwks>,

    /// The issuer that an access token must name in its claim `iss`. `None`: any issuer.
    pub auth_issuer: Option<String>,

    /// The audiences of which an access token must name one in its claim `aud`. Empty: a token with `aud` is refused.
    pub auth_audience: Vec<String>,

    /// The keys with which backends call the HTTP API below `/api/`. The API belongs to any application: it publishes to
    /// the application's rooms and lists them. `None`: no API; the application answers these paths, too. A change from
    /// `None` needs a restart.
    pub api_keys: Option<ApiKeys>,

    /// The longest message that a client may send, in bytes, from 1 to 1 GiB. A longer message closes the connection
    /// with 1009.
    pub max_message: u32,

    /// The longest body of an HTTP request, in bytes, up to 1 GiB. A longer one gets 413. 0: requests have no body.
    pub max_request_body: u32,

    /// The rate limit of messages and control frames that a client sends, per second, with a burst of 4 seconds' worth.
    /// A faster client is paused; nothing is lost. `None`: the limit that [`App::rates`](crate::app::App::rates)
    /// returns.
    pub message_rate: Option<u32>,

    /// The rate limit of bytes that a client sends, per second, with a burst of 4 seconds' worth. A compressed message
    /// counts with its decompressed length, a short one as 128 bytes. The history that a client gets when it joins a
    /// room counts, too. A faster client is paused; nothing is lost. `None`: the limit that
    /// [`App::rates`](crate::app::App::rates) returns.
    pub byte_rate: Option<u32>,

    /// The maximum number of rooms of a connection, from 1 to 1,000,000. [`Context::join`](crate::app::Context::join)
    /// refuses further rooms.
    pub max_rooms_per_connection: u32,

    /// The number of bytes that a client may fall behind in a room, or leave unread of its own answers, before the lag
    /// policy applies. From 1024 to 1 GiB, and at least twice [`Options::history_bytes`].
    pub lag_window: u32,

    /// The policy for a client that reads too slowly.
    pub lag_policy: LagPolicy,

    /// The time for which the session of a client that is gone waits for its return, and for which its rooms keep
    /// messages, at most [`Options::lag_window`] bytes each. 0: no sessions. See
    /// [`Upgrade::with_session`](crate::app::Upgrade::with_session).
    pub session_seconds: Duration,

    /// The limit of sessions, over all workers. At the limit, the session that is away for the longest time is
    /// forgotten. If clients have all of them, a further client gets none. 0: no limit.
    pub max_sessions: u32,

    /// The minimum interval between two pings that ask a client with a session which messages it has got. At least 1 ms.
    pub ack_interval: Duration,

    /// The compression of messages for clients that offer permessage-deflate.
    pub compression: Compression,

    /// The shortest message that is compressed, in bytes. Shorter messages are sent plain.
    pub compression_threshold: u32,

    /// The memory limit for the compression windows of all clients, in bytes. Once this memory is used up, further
    /// clients get compression without context takeover. 0: no client gets context takeover.
    pub context_memory: u32,

    /// The number of bytes of past messages that a room keeps for clients that join. 0: no history.
    /// [`App::history`](crate::app::App::history) decides how many messages are kept.
    pub history_bytes: u32,

    /// The time that a room's history is kept after its last member has left.
    pub history_seconds: Duration,

    /// The memory limit for the history of all rooms, in bytes. Over this limit, the least recently used history is
    /// dropped, that of empty rooms first.
    pub history_memory: u64,

    /// The limit for the memory that the server holds for its clients, in bytes, over all workers: at least 16 MiB a
    /// worker. Near the limit, the server receives less. Over it, the clients that hold most are closed with 1013. 0:
    /// half of the memory that the process may use.
    pub memory_limit: u64,

    /// The time limit for a message, from its first bytes on. An incomplete message closes the connection with 1008. A
    /// byte rate adds the time that it needs for the longest message. At least 1 ms.
    pub message_seconds: Duration,

    /// The time limit for a client's HTTP request, from the accept of the connection on, or from the first byte of a
    /// later request on. At least 1 ms.
    pub handshake_seconds: Duration,

    /// The time for which a connection without a WebSocket stays open after the response to its last HTTP request. 0:
    /// every response ends its connection.
    pub keep_alive_seconds: Duration,

    /// The time without input from a client after which the server sends the client a ping. At least 1 ms.
    pub ping_seconds: Duration,

    /// The time limit for the answer to a ping. A client that does not answer is closed with 1008. At least 1 ms.
    pub pong_seconds: Duration,

    /// The time limit for the closing handshake, and for sending the end of an HTTP response. At least 1 ms.
    pub close_seconds: Duration,

    /// The drain delay: the time after [`Control::stop`](crate::server::Control::stop) during which the server goes on
    /// as before.
    pub drain_delay: Duration,

    /// The drain time: the time after the drain delay over which all clients are closed, evenly spread.
    pub drain_seconds: Duration,

    /// The number of receive buffers of each worker, a power of two. For tests: fewer buffers simulate load.
    #[doc(hidden)]
    pub receive_buffers: u16,

    /// The address of the admin listener with metrics, health checks and the live page. Without
    /// [`Options::admin_token_file`], only operators should reach this address.
    #[cfg(feature = "admin")]
    pub admin: Option<std::net::SocketAddr>,

    /// The token that the admin listener asks for, as `Authorization: Bearer TOKEN` or in the form of the live page.
    /// Requests for `/metrics` and `/` without it get 401; the health checks need no token. `None`: no authentication.
    #[cfg(feature = "admin")]
    pub admin_token_file: Option<super::AdminToken>,

    /// The URLs of webhooks: servers that are told what happens in rooms, with signed requests. Empty: no webhooks. A
    /// change from empty needs a restart.
    #[cfg(feature = "outgoing")]
    pub webhook: Vec<super::Url>,

    /// The secret that signs the requests of webhooks (HMAC-SHA256).
    #[cfg(feature = "outgoing")]
    pub webhook_secret_file: Option<Secret>,

    /// The kinds of events that webhooks are told. By default all kinds.
    #[cfg(feature = "outgoing")]
    pub webhook_events: Vec<super::WebhookEvent>,

    /// The rooms whose messages webhooks are told.
    #[cfg(feature = "outgoing")]
    pub webhook_messages: Vec<super::RoomPattern>,

    /// Certificate authorities that the server trusts when it connects to other servers, besides those of the system.
    #[cfg(feature = "outgoing")]
    pub ca_file: Option<super::CaFile>,
}

impl Default for Options {
    /// Returns the defaults of all options.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            listen: vec![Endpoint::Tcp(([127, 0, 0, 1], 8000).into())],
            takeover: Takeover::Off,
            tls_cert: None,
            tls_key: None,
            backend: BackendName::Auto,
            workers: None,
            max_connections: 0,
            max_connections_per_ip: 0,
            connection_rate: 0,
            max_handshakes: 0,
            allowed_origins: Vec::new(),
            server_names: Vec::new(),
            trusted_proxies: Vec::new(),
            proxy_protocol: false,
            auth_hmac_secret_file: None,
            auth_jwks: None,
            auth_issuer: None,
            auth_audience: Vec::new(),
            api_keys: None,
            max_message: 1 << 20,
            max_request_body: 1 << 20,
            message_rate: None,
            byte_rate: None,
            max_rooms_per_connection: 1_000,
            lag_window: 1 << 20,
            lag_policy: LagPolicy::Close,
            session_seconds: Duration::from_secs(120),
            max_sessions: 100_000,
            ack_interval: Duration::from_millis(250),
            compression: Compression::Shared,
            compression_threshold: 128,
            context_memory: 64 << 20,
            history_bytes: 64 << 10,
            history_seconds: seconds(600),
            history_memory: 128 << 20,
            memory_limit: 0,
            message_seconds: seconds(60),
            handshake_seconds: seconds(10),
            keep_alive_seconds: seconds(75),
            ping_seconds: seconds(30),
            pong_seconds: seconds(10),
            close_seconds: seconds(5),
            drain_delay: Duration::ZERO,
            drain_seconds: seconds(5),
            receive_buffers: 256,
            #[cfg(feature = "admin")]
            admin: None,
            #[cfg(feature = "admin")]
            admin_token_file: None,
            #[cfg(feature = "outgoing")]
            webhook: Vec::new(),
            #[cfg(feature = "outgoing")]
            webhook_secret_file: None,
            #[cfg(feature = "outgoing")]
            webhook_events: super::WebhookEvent::ALL.to_vec(),
            #[cfg(feature = "outgoing")]
            webhook_messages: Vec::new(),
            #[cfg(feature = "outgoing")]
            ca_file: None,
        }
    }
}

impl From<&Self> for Options {
    fn from(options: &Self) -> Self {
        options.clone()
    }
}

/// The error for options that contradict each other or are out of range. The message is one line and says what to
/// change.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Conflict {
    /// The long names of the options in the conflict, without `--`.
    pub(super) options: &'static [&'static str],
    pub(super) message: String,
}

impl Options {
    /// Checks that each option is in its range and that no options contradict each other.
    ///
    /// # Errors
    /// Returns the first option out of range or the first contradiction.
    pub fn check(&self) -> Result<(), Conflict> {
        self.check_on(&[])
    }

    /// Checks the options of a server that listens on `passed` sockets instead of [`Options::listen`], unless `passed`
    /// is empty.
    ///
    /// # Errors
    /// Returns the first option out of range or the first contradiction.
    pub fn check_on(&self, passed: &[Endpoint]) -> Result<(), Conflict> {
        for (at, second) in self.listen.iter().enumerate() {
            if let Some(first) = self.listen[..at].iter().find(|first| first.overlaps(second)) {
                let message = format!(
                    "--listen {first} and --listen {second} overlap; leave one of them out or choose another port"
                );
                return Err(Conflict { options: &["listen"], message });
            }
        }
        self.check_ranges()?;
        if self.history_bytes > self.lag_window / 2 {
            let message = format!(
                "--history-bytes {} is more than half of --lag-window {}, so a client that joins would lag at once; \
                 lower --history-bytes or raise --lag-window",
                self.history_bytes, self.lag_window
            );
            return Err(Conflict { options: &["history-bytes", "lag-window"], message });
        }
        let endpoints = if passed.is_empty() { &self.listen } else { passed };
        let has_path = endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
        let has_proxies = !self.trusted_proxies.is_empty() || has_path;
        if self.proxy_protocol && !has_proxies {
            let message = "--proxy-protocol is true, but no proxy is trusted; name the proxies with --trusted-proxies, \
                           listen on a path for them (--listen unix:PATH), or leave --proxy-protocol out";
            return Err(Conflict {
                options: &["proxy-protocol", "trusted-proxies"],
                message: message.into(),
            });
        }
        self.check_tls()?;
        self.check_auth()?;
        #[cfg(feature = "admin")]
        self.check_admin()?;
        #[cfg(feature = "outgoing")]
        self.check_webhooks()?;
        Ok(())
    }

    /// Checks that webhooks have URLs and a secret, or neither.
    #[cfg(feature = "outgoing")]
    fn check_webhooks(&self) -> Result<(), Conflict> {
        let options = &["webhook", "webhook-secret-file", "webhook-messages"];
        let conflict = |message| Err(Conflict { options, message });
        match (&self.webhook[..], &self.webhook_secret_file) {
            ([first, ..], None) => conflict(format!(
                "--webhook {} needs a secret, with which its requests are signed; write one with openssl rand -hex 32 and \
                 name the file with --webhook-secret-file FILE",
                first.origin()
            )),
            ([], Some(secret)) => conflict(format!(
                "--webhook-secret-file {} is set, but there is no webhook; add --webhook URL, or leave \
                 --webhook-secret-file out",
                secret.path().display()
            )),
            ([], None) if !self.webhook_messages.is_empty() => conflict(format!(
                "--webhook-messages {} is set, but there is no webhook; add --webhook URL, or leave --webhook-messages out",
                self.webhook_messages[0]
            )),
            (urls, _) => match (1..urls.len()).find(|at| urls[..*at].contains(&urls[*at])) {
                Some(at) => {
                    let origin = urls[at].origin();
                    conflict(format!("--webhook names one URL of {origin} twice; leave one of them out"))
                }
                None => Ok(()),
            },
        }
    }

    #[cfg(feature = "admin")]
    fn check_admin(&self) -> Result<(), Conflict> {
        if let Some(admin) = self.admin.filter(|admin| {
            admin.port() != 0 && self.listen.iter().any(|endpoint| endpoint.tcp() == Some(*admin))
        }) {
            let message =
                format!("--admin {admin} is also an address of --listen; choose another port for --admin");
            return Err(Conflict { options: &["admin", "listen"], message });
        }
        if let (None, Some(token)) = (self.admin, &self.admin_token_file) {
            let message = format!(
                "--admin-token-file {} is set, but there is no admin listener; add --admin ADDR:PORT, or leave \
                 --admin-token-file out",
                token.path().display()
            );
            return Err(Conflict { options: &["admin-token-file", "admin"], message });
        }
        Ok(())
    }

    /// Checks the range of each option by itself. The command line also checks these ranges when it parses options.
    fn check_ranges(&self) -> Result<(), Conflict> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let ranges: [(&'static [&'static str], u64, RangeInclusive<u64>); 11] = [
            (&["workers"], self.workers.map_or(1, u64::from), 1..=1024),
            (&["max-message"], self.max_message.into(), 1..=1 << 30),
            (&["max-request-body"], self.max_request_body.into(), 0..=1 << 30),
            (&["max-rooms-per-connection"], self.max_rooms_per_connection.into(), 1..=1_000_000),
            (&["lag-window"], self.lag_window.into(), 1024..=1 << 30),
            (&["message-seconds"], ms(self.message_seconds), 1..=u64::MAX),
            (&["handshake-seconds"], ms(self.handshake_seconds), 1..=u64::MAX),
            (&["ack-interval"], ms(self.ack_interval), 1..=u64::MAX),
            (&["ping-seconds"], ms(self.ping_seconds), 1..=u64::MAX),
            (&["pong-seconds"], ms(self.pong_seconds), 1..=u64::MAX),
            (&["close-seconds"], ms(self.close_seconds), 1..=u64::MAX),
        ];
        for (options, value, range) in ranges {
            if !range.contains(&value) {
                let unit = if options[0].ends_with("-seconds") || options[0].ends_with("-interval") {
                    " milliseconds"
                } else {
                    ""
                };
                let (name, low) = (options[0], range.start());
                let message = match *range.end() {
                    u64::MAX => format!("{name} is {value}{unit}; use at least {low}{unit}"),
                    high => format!("{name} is {value}; use {low} to {high}"),
                };
                return Err(Conflict { options, message });
            }
        }
        if !self.receive_buffers.is_power_of_two() {
            let message = format!("receive-buffers is {}; use a power of two", self.receive_buffers);
            return Err(Conflict { options: &["receive-buffers"], message });
        }
        Ok(())
    }

    /// Checks that the options about tokens have a secret or keys that verify tokens.
    fn check_auth(&self) -> Result<(), Conflict> {
        if self.auth_hmac_secret_file.is_some() || self.auth_jwks.is_some() {
            return Ok(());
        }
        let name = match (&self.auth_issuer, &self.auth_audience[..]) {
            (None, []) => return Ok(()),
            (Some(_), _) => "auth-issuer",
            (None, _) => "auth-audience",
        };
        let message = format!(
            "--{name} is set, but nothing verifies tokens; add --auth-jwks FILE or --auth-hmac-secret-file FILE, or leave \
             --{name} out"
        );
        Err(Conflict { options: &["auth-issuer", "auth-audience"], message })
    }

    fn check_tls(&self) -> Result<(), Conflict> {
        let tls = self.listen.iter().find(|endpoint| endpoint.has_tls());
        let message = match (tls, &self.tls_cert, &self.tls_key) {
            (None, None, None) | (Some(_), Some(_), Some(_)) => return Ok(()),
            (_, Some(cert), None) => {
                format!("--tls-cert {} needs its private key; name it with --tls-key FILE", cert.display())
            }
            (_, None, Some(key)) => {
                format!("--tls-key {} needs its certificate; name it with --tls-cert FILE", key.display())
            }
            (Some(endpoint), None, None) => format!(
                "--listen {endpoint} needs a certificate and its private key; name them with --tls-cert FILE and \
                 --tls-key FILE"
            ),
            (None, Some(cert), Some(_)) => format!(
                "--tls-cert {} is set, but no listener speaks TLS; add one, like --listen tls:0.0.0.0:8443, or leave \
                 --tls-cert and --tls-key out",
                cert.display()
            ),
        };
        Err(Conflict { options: &["listen", "tls-cert", "tls-key"], message })
    }

    /// Returns the memory limit in bytes, and an explanation for people of where it comes from:
    /// [`Options::memory_limit`] if that is set, else half of the memory that the process may use.
    pub fn memory_limit_bytes(&self) -> (u64, String) {
        if self.memory_limit > 0 {
            return (self.memory_limit, "--memory-limit".into());
        }
        let machine = machine::memory();
        (machine.bytes / 2, format!("half of {}", machine.source))
    }

    /// Returns the number of worker threads: [`Options::workers`] if set, else the number of CPU cores up to 1024.
    pub fn worker_count(&self) -> u16 {
        self.workers.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            u16::try_from(cores).unwrap_or(u16::MAX).min(1024)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_used() {
        assert!(Options::default().check().is_ok());
    }

    #[test]
    fn values_out_of_their_range_are_refused_with_the_range() {
        let usual = Options::default;
        for (options, text) in [
            (Options { workers: Some(0), ..usual() }, "workers is 0; use 1 to 1024"),
            (Options { workers: Some(1025), ..usual() }, "workers is 1025; use 1 to 1024"),
            (Options { max_message: 0, ..usual() }, "max-message is 0; use 1 to 1073741824"),
            (Options { lag_window: 1023, ..usual() }, "lag-window is 1023; use 1024 to 1073741824"),
            (
                Options { ping_seconds: Duration::ZERO, ..usual() },
                "ping-seconds is 0 milliseconds; use at least 1 milliseconds",
            ),
            (Options { receive_buffers: 3, ..usual() }, "receive-buffers is 3; use a power of two"),
        ] {
            let error = options.check().expect_err(text);
            assert_eq!(error.to_string(), text);
        }
    }
}
