//! The command line of the program, with the environment variables.
//!
//! Each option is defined once, as a field of [`Config`] with clap's attributes. The default of an option is that of
//! [`Options`], unless the engine does not have the option.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgAction, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{
    AdminToken, ApiKeys, BackendName, CaFile, Compression, Conflict, Endpoint, Jwks, LagPolicy, Network,
    Options, Origin, PusherAppsFile, RoomPattern, Secret, ServerName, Takeover, Url, WebhookEvent,
};

/// Help heading of the options that cannot change while the server runs.
pub(super) const AT_START: &str = "Options that need a restart to change";

/// A WebSocket chat and broadcast server: thread per core, on io_uring or epoll.
#[derive(Debug, Parser)]
#[command(name = "uproar", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: CommandLine,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (the default).
    Serve(CommandLine),
    /// Print each setting and its source, or the first error in them, without starting the server.
    Check(CommandLine),
}

#[derive(Args, Debug)]
pub(super) struct CommandLine {
    /// Settings file (TOML) with one key for each option. Read again on SIGHUP.
    #[arg(long, env = "UPROAR_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: Config,
}

impl Cli {
    /// Returns the settings of the server to run or to check.
    pub fn into_config(self) -> Config {
        self.options().settings
    }

    pub(super) fn options(self) -> CommandLine {
        match self.command {
            Some(Command::Serve(options) | Command::Check(options)) => options,
            None => self.options,
        }
    }
}

/// The application that the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AppName {
    /// The chat and its web page.
    Chat,
    /// Sends every message verbatim to everyone in the room.
    Relay,
    /// Sends every message back to its sender.
    Echo,
    /// Speaks the Pusher protocol with stock client and server libraries.
    Pusher,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The settings of the server. Each is a flag, a variable `UPROAR_…` and a key of the settings file, in this order of
/// precedence.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Endpoint to listen on: `ADDR:PORT`, `tls:ADDR:PORT` for TLS, or `unix:PATH` for a proxy on the same host. Port 0
    /// is any free port. Repeat the option for several.
    #[arg(long, env = "UPROAR_LISTEN", help_heading = AT_START,
          value_name = "ENDPOINT", default_values_t = defaults().listen, value_delimiter = ',')]
    pub listen: Vec<Endpoint>,

    /// Whether to take over from a running server. With `on` both servers of the same user listen on the address until
    /// the old one is told to end. With `off` an address in use is an error.
    #[arg(long, env = "UPROAR_TAKEOVER", help_heading = AT_START, value_name = "MODE",
          value_enum, default_value_t = defaults().takeover)]
    pub takeover: Takeover,

    /// Certificate chain (PEM) for the TLS listeners: the server's certificate first, then its issuers. Read again on
    /// SIGHUP.
    #[arg(long, env = "UPROAR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key (PEM, not encrypted) of the certificate. Read again on SIGHUP.
    #[arg(long, env = "UPROAR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Application to run.
    #[arg(long, env = "UPROAR_APP", help_heading = AT_START, value_name = "APP",
          value_enum, default_value_t = AppName::Chat)]
    pub app: AppName,

    /// System interface for network I/O.
    #[arg(long, env = "UPROAR_BACKEND", help_heading = AT_START,
          value_name = "BACKEND", value_enum, default_value_t = defaults().backend)]
    pub backend: BackendName,

    /// Number of worker threads, 1 to 1024. Default: one for each CPU core.
    #[arg(long, env = "UPROAR_WORKERS", help_heading = AT_START, value_name = "N",
          value_parser = whole(1..=1024_u16))]
    pub workers: Option<u16>,

    /// Limit of open connections, over all workers. A connection over it gets 503. 0: as many as the descriptor limit
    /// allows.
    #[arg(long, env = "UPROAR_MAX_CONNECTIONS", value_name = "N", default_value_t = defaults().max_connections,
          value_parser = whole(0..=u32::MAX))]
    pub max_connections: u32,

    /// Limit of open connections from one IP address (IPv6: one /64 network). A connection over it gets 429. 0: no
    /// limit.
    #[arg(long, env = "UPROAR_MAX_CONNECTIONS_PER_IP", value_name = "N",
          default_value_t = defaults().max_connections_per_ip,
          value_parser = whole(0..=u32::MAX))]
    pub max_connections_per_ip: u32,

    /// Limit of new connections per second from one IP address (IPv6: one /64 network), with a burst of 4 seconds' worth.
    /// A connection over it gets 429, or a reset on a TLS listener. 0: no limit.
    #[arg(long, env = "UPROAR_CONNECTION_RATE", value_name = "N", default_value_t = defaults().connection_rate,
          value_parser = whole(0..=u32::MAX))]
    pub connection_rate: u32,

    /// Limit of connections that have not finished their HTTP request; each worker has an equal part of it. At the
    /// limit, a new connection closes the oldest unfinished one of the IP address with the most. 0: half of the
    /// connection limit, at least 1024.
    #[arg(long, env = "UPROAR_MAX_HANDSHAKES", value_name = "N", default_value_t = defaults().max_handshakes,
          value_parser = whole(0..=u32::MAX))]
    pub max_handshakes: u32,

    /// Origins whose pages may open a WebSocket: `https://example.org`, `https://*.example.org` for all subdomains,
    /// `capacitor://localhost`, `file://`, `null`, or `*` for all. Others get 403. Default: pages served under the host
    /// name that they connect to. Clients without an Origin header (anything but a browser) are always allowed; web
    /// views of apps do send one.
    #[arg(long, env = "UPROAR_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub allowed_origins: Vec<Origin>,

    /// Host names of the server: `chat.example.org`, `*.example.org` for all subdomains, or `*` for all. A request for
    /// another name gets 421. IP addresses, `localhost` and requests through a trusted proxy or a Unix socket are
    /// always allowed. Default: the names of --allowed-origins on listeners with a loopback or private address, all
    /// names on others.
    #[arg(long, env = "UPROAR_SERVER_NAMES", value_name = "NAME", value_delimiter = ',')]
    pub server_names: Vec<ServerName>,

    /// IP addresses or networks (`10.0.0.0/8`) of trusted proxies. The server takes the client's address from their
    /// X-Forwarded-For or Forwarded header. Unix-socket peers are always trusted.
    #[arg(long, env = "UPROAR_TRUSTED_PROXIES", value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,

    /// Whether each connection of a trusted proxy begins with a PROXY protocol header (version 1 or 2). Connections
    /// from other addresses never do.
    #[arg(long, env = "UPROAR_PROXY_PROTOCOL", help_heading = AT_START, value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true", default_value_t = defaults().proxy_protocol)]
    pub proxy_protocol: bool,

    /// File with the secret that signs access tokens (JWT, HS256). If set, a client needs a token to open a WebSocket,
    /// as `?token=TOKEN` or `Authorization: Bearer TOKEN`; others get 401. Read again on SIGHUP.
    #[arg(long, env = "UPROAR_AUTH_HMAC_SECRET_FILE", value_name = "FILE")]
    pub auth_hmac_secret_file: Option<Secret>,

    /// File or `https://` URL with the public keys (JWKS) of an identity provider, which verify access tokens (JWT,
    /// RS256, ES256 or EdDSA). Clients then need a token. With --auth-hmac-secret-file as well, either kind is valid.
    /// Read again on SIGHUP, a URL also at intervals and for an unknown key.
    #[arg(long, env = "UPROAR_AUTH_JWKS", value_name = "FILE")]
    pub auth_jwks: Option<Jwks>,

    /// Issuer that access tokens must name in their claim `iss`. Default: any.
    #[arg(long, env = "UPROAR_AUTH_ISSUER", value_name = "ISSUER", value_parser = NonEmptyStringValueParser::new())]
    pub auth_issuer: Option<String>,

    /// Audiences, of which access tokens must name one in their claim `aud`. Default: a token with `aud` is refused.
    #[arg(long, env = "UPROAR_AUTH_AUDIENCE", value_name = "NAME", value_delimiter = ',',
          value_parser = NonEmptyStringValueParser::new())]
    pub auth_audience: Vec<String>,

    /// File with the keys of the HTTP API below `/api/`: one line `NAME SCOPES KEY` for each key, with the scopes read,
    /// publish or admin. Without it there is no API. Read again on SIGHUP; turning the API on needs a restart.
    #[arg(long, env = "UPROAR_API_KEYS", value_name = "FILE")]
    pub api_keys: Option<ApiKeys>,

    /// File with the applications of a Pusher server: one table `[[app]]` with id, key and secret for each. Default: one
    /// application with random credentials, which are printed. Read again on SIGHUP. Needs --app pusher.
    #[arg(long, env = "UPROAR_PUSHER_APPS", value_name = "FILE")]
    pub pusher_apps: Option<PusherAppsFile>,

    /// Longest message that a client may send. A longer one closes the connection with 1009.
    #[arg(long, env = "UPROAR_MAX_MESSAGE", value_name = "BYTES", default_value_t = defaults().max_message,
          value_parser = whole(1..=1_u32 << 30))]
    pub max_message: u32,

    /// Longest body of an HTTP request. A longer one gets 413. 0: requests have no body.
    #[arg(long, env = "UPROAR_MAX_REQUEST_BODY", value_name = "BYTES", default_value_t = defaults().max_request_body,
          value_parser = whole(0..=1_u32 << 30))]
    pub max_request_body: u32,

    /// Longest private message of the chat (`/msg`). Every connection of its reader gets it.
    #[arg(long, env = "UPROAR_MAX_PRIVATE_MESSAGE", help_heading = AT_START, value_name = "BYTES",
          default_value_t = 8 << 10, value_parser = whole(1..=1_u32 << 20))]
    pub max_private_message: u32,

    /// Messages and control frames that a client may send per second, with a burst of 4 seconds' worth. A faster client
    /// is paused; nothing is lost. 0: no limit. Default: 20 for the chat, 0 for other applications.
    #[arg(long, env = "UPROAR_MESSAGE_RATE", value_name = "N", value_parser = whole(0..=u32::MAX))]
    pub message_rate: Option<u32>,

    /// Bytes that a client may send per second, with a burst of 4 seconds' worth. Compressed messages count
    /// decompressed, short ones as 128 bytes, and the history of a joined room counts, too. A faster client is paused;
    /// nothing is lost. 0: no limit. Default: 262144 for the chat, 0 for other applications.
    #[arg(long, env = "UPROAR_BYTE_RATE", value_name = "BYTES", value_parser = whole(0..=u32::MAX))]
    pub byte_rate: Option<u32>,

    /// Rooms that a connection may be in at a time. The application decides what a client hears that wants more.
    #[arg(long, env = "UPROAR_MAX_ROOMS_PER_CONNECTION", value_name = "N",
          default_value_t = defaults().max_rooms_per_connection, value_parser = whole(1..=1_000_000_u32))]
    pub max_rooms_per_connection: u32,

    /// Bytes that a client may fall behind in a room, or leave unread of its own answers, before the lag policy
    /// applies.
    #[arg(long, env = "UPROAR_LAG_WINDOW", value_name = "BYTES", default_value_t = defaults().lag_window,
          value_parser = whole(1024..=1_u32 << 30))]
    pub lag_window: u32,

    /// Policy for a client that reads too slowly.
    #[arg(long, env = "UPROAR_LAG_POLICY", value_name = "POLICY",
          value_enum, default_value_t = defaults().lag_policy)]
    pub lag_policy: LagPolicy,

    /// Time for which a client with a session (`?session=ID`) may be gone and continue where it stopped. Its rooms keep
    /// their messages for that time, at most --lag-window bytes each. 0: no sessions.
    #[arg(long, env = "UPROAR_SESSION_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().session_seconds),
          value_parser = parse_seconds)]
    pub session_seconds: Duration,

    /// Limit of sessions, over all workers. At the limit, the session that is away for the longest time is forgotten.
    /// 0: no limit.
    #[arg(long, env = "UPROAR_MAX_SESSIONS", value_name = "N", default_value_t = defaults().max_sessions,
          value_parser = whole(0..=u32::MAX))]
    pub max_sessions: u32,

    /// Shortest interval between two pings that ask a client with a session which messages it has got. Messages since
    /// the last answer come twice if the client is gone.
    #[arg(long, env = "UPROAR_ACK_INTERVAL", value_name = "SECONDS",
          default_value = shown_seconds(defaults().ack_interval),
          value_parser = parse_some_seconds)]
    pub ack_interval: Duration,

    /// Compression of messages for clients that offer permessage-deflate.
    #[arg(long, env = "UPROAR_COMPRESSION", value_name = "MODE",
          value_enum, default_value_t = defaults().compression)]
    pub compression: Compression,

    /// Shortest message that is compressed. Shorter ones are sent plain.
    #[arg(long, env = "UPROAR_COMPRESSION_THRESHOLD", value_name = "BYTES",
          default_value_t = defaults().compression_threshold,
          value_parser = whole(0..=u32::MAX))]
    pub compression_threshold: u32,

    /// Memory limit for compression windows, over all clients. When it is used up, further clients get compression
    /// without context takeover.
    #[arg(long, env = "UPROAR_CONTEXT_MEMORY", value_name = "BYTES", default_value_t = defaults().context_memory,
          value_parser = whole(0..=u32::MAX))]
    pub context_memory: u32,

    /// Bytes of past messages that a room keeps for clients that join the chat. They see at most the last 50 messages.
    /// 0: no history.
    #[arg(long, env = "UPROAR_HISTORY_BYTES", value_name = "BYTES", default_value_t = defaults().history_bytes,
          value_parser = whole(0..=u32::MAX))]
    pub history_bytes: u32,

    /// Time that a room's history is kept after its last member has left.
    #[arg(long, env = "UPROAR_HISTORY_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().history_seconds),
          value_parser = parse_seconds)]
    pub history_seconds: Duration,

    /// Memory limit for the history of all rooms. Over it, the least recently used history is dropped, that of empty
    /// rooms first. 0: no limit.
    #[arg(long, env = "UPROAR_HISTORY_MEMORY", value_name = "BYTES", default_value_t = defaults().history_memory,
          value_parser = whole(0..=u64::MAX))]
    pub history_memory: u64,

    /// Limit for the memory that the server holds for its clients: room logs, unread and unfinished messages. Near it
    /// the server receives less; over it the clients that hold most are closed with 1013. At least 16 MiB for each
    /// worker. 0: half of the memory that the process may use.
    #[arg(long, env = "UPROAR_MEMORY_LIMIT", value_name = "BYTES", default_value_t = defaults().memory_limit,
          value_parser = whole(0..=u64::MAX))]
    pub memory_limit: u64,

    /// Time limit for a message, from its first bytes on. An incomplete one closes the connection with 1008. With a
    /// byte rate, the time that it needs for the longest message is added.
    #[arg(long, env = "UPROAR_MESSAGE_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().message_seconds),
          value_parser = parse_some_seconds)]
    pub message_seconds: Duration,

    /// Time limit for a client's HTTP request, from the accept on. On a connection that is used again, from the first
    /// byte of the request on.
    #[arg(long, env = "UPROAR_HANDSHAKE_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().handshake_seconds),
          value_parser = parse_some_seconds)]
    pub handshake_seconds: Duration,

    /// Time for which a connection stays open for another HTTP request. 0: every response ends its connection.
    #[arg(long, env = "UPROAR_KEEP_ALIVE_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().keep_alive_seconds),
          value_parser = parse_seconds)]
    pub keep_alive_seconds: Duration,

    /// Silence after which the server sends a client a ping.
    #[arg(long, env = "UPROAR_PING_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().ping_seconds),
          value_parser = parse_some_seconds)]
    pub ping_seconds: Duration,

    /// Time limit for the answer to a ping. A client without one is closed with 1008.
    #[arg(long, env = "UPROAR_PONG_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().pong_seconds),
          value_parser = parse_some_seconds)]
    pub pong_seconds: Duration,

    /// Time limit for the closing handshake, and for sending the end of an HTTP response.
    #[arg(long, env = "UPROAR_CLOSE_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().close_seconds),
          value_parser = parse_some_seconds)]
    pub close_seconds: Duration,

    /// On SIGTERM or SIGINT, time during which the server goes on as before while /readyz fails. Set it to the time
    /// that the load balancer needs to notice.
    #[arg(long, env = "UPROAR_DRAIN_DELAY", value_name = "SECONDS",
          default_value = shown_seconds(defaults().drain_delay),
          value_parser = parse_seconds)]
    pub drain_delay: Duration,

    /// After the drain delay, time over which the clients are closed, evenly spread.
    #[arg(long, env = "UPROAR_DRAIN_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().drain_seconds),
          value_parser = parse_seconds)]
    pub drain_seconds: Duration,

    /// Receive buffers of each worker. For tests: fewer buffers simulate load.
    #[arg(long, hide = true, value_name = "N",
          default_value_t = defaults().receive_buffers, value_parser = parse_buffers)]
    pub receive_buffers: u16,

    /// Address of the admin listener with metrics, health checks and the live page. Only operators should reach it
    /// unless --admin-token-file is set.
    #[arg(long, env = "UPROAR_ADMIN", value_name = "ADDR:PORT", value_parser = parse_address, help_heading = AT_START)]
    pub admin: Option<SocketAddr>,

    /// File with the token of the admin listener: `/metrics` and the live page then need `Authorization: Bearer TOKEN`,
    /// or the token in the page's form; others get 401. `/healthz` and `/readyz` need none. Read again on SIGHUP.
    #[arg(long, env = "UPROAR_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub admin_token_file: Option<AdminToken>,

    /// URL of a webhook: a server that is told what happens in rooms, with signed POST requests. Repeat the option for
    /// several. Needs --webhook-secret-file. Read again on SIGHUP; the first webhook needs a restart.
    #[arg(long, env = "UPROAR_WEBHOOK", value_name = "URL", value_delimiter = ',', hide_env_values = true)]
    pub webhook: Vec<Url>,

    /// File with the secret that signs the requests of webhooks (HMAC-SHA256): at least 32 bytes. Read again on SIGHUP.
    #[arg(long, env = "UPROAR_WEBHOOK_SECRET_FILE", value_name = "FILE")]
    pub webhook_secret_file: Option<Secret>,

    /// Events that webhooks are told.
    #[arg(long, env = "UPROAR_WEBHOOK_EVENTS", value_name = "EVENT", value_enum, value_delimiter = ',',
          default_values_t = defaults().webhook_events)]
    pub webhook_events: Vec<WebhookEvent>,

    /// Rooms whose messages webhooks are told, too: `garden`, `shop-*` for all rooms that begin with `shop-`, or `*`.
    /// Default: none.
    #[arg(long, env = "UPROAR_WEBHOOK_MESSAGES", value_name = "ROOM", value_delimiter = ',')]
    pub webhook_messages: Vec<RoomPattern>,

    /// File with certificates (PEM) of authorities that the server trusts, besides those of the system, when it sends
    /// requests to other servers. Read again on SIGHUP.
    #[arg(long, env = "UPROAR_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<CaFile>,

    /// Format of the log on stderr.
    #[arg(long, env = "UPROAR_LOG_FORMAT", value_name = "FORMAT",
          value_enum, default_value_t = LogFormat::Text, help_heading = AT_START)]
    pub log_format: LogFormat,

    /// Log filter: a level (error, warn, info, debug, trace) or directives like `info,uproar::shard=debug`.
    #[arg(long, env = "UPROAR_LOG", value_name = "FILTER", default_value = "info", value_parser = parse_log)]
    pub log: String,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Self {
            listen: config.listen.clone(),
            takeover: config.takeover,
            tls_cert: config.tls_cert.clone(),
            tls_key: config.tls_key.clone(),
            backend: config.backend,
            workers: config.workers,
            max_connections: config.max_connections,
            max_connections_per_ip: config.max_connections_per_ip,
            connection_rate: config.connection_rate,
            max_handshakes: config.max_handshakes,
            allowed_origins: allowed_origins(config),
            server_names: config.server_names.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
            auth_hmac_secret_file: config.auth_hmac_secret_file.clone(),
            auth_jwks: config.auth_jwks.clone(),
            auth_issuer: config.auth_issuer.clone(),
            auth_audience: config.auth_audience.clone(),
            api_keys: config.api_keys.clone(),
            max_message: config.max_message,
            max_request_body: config.max_request_body,
            message_rate: config.message_rate,
            byte_rate: config.byte_rate,
            max_rooms_per_connection: config.max_rooms_per_connection,
            lag_window: config.lag_window,
            lag_policy: config.lag_policy,
            session_seconds: config.session_seconds,
            max_sessions: config.max_sessions,
            ack_interval: config.ack_interval,
            compression: config.compression,
            compression_threshold: config.compression_threshold,
            context_memory: config.context_memory,
            history_bytes: config.history_bytes,
            history_seconds: config.history_seconds,
            history_memory: config.history_memory,
            memory_limit: config.memory_limit,
            message_seconds: config.message_seconds,
            handshake_seconds: config.handshake_seconds,
            keep_alive_seconds: config.keep_alive_seconds,
            ping_seconds: config.ping_seconds,
            pong_seconds: config.pong_seconds,
            close_seconds: config.close_seconds,
            drain_delay: config.drain_delay,
            drain_seconds: config.drain_seconds,
            receive_buffers: config.receive_buffers,
            admin: config.admin,
            admin_token_file: config.admin_token_file.clone(),
            webhook: config.webhook.clone(),
            webhook_secret_file: config.webhook_secret_file.clone(),
            webhook_events: config.webhook_events.clone(),
            webhook_messages: config.webhook_messages.clone(),
            ca_file: config.ca_file.clone(),
        }
    }
}

impl Default for Config {
    /// Returns the default settings. Ignores environment variables.
    fn default() -> Self {
        let command =
            Self::augment_args(clap::Command::new("uproar")).mut_args(|option| option.env(None::<&str>));
        let matches = command.get_matches_from(["uproar"]);
        Self::from_arg_matches(&matches)
            .expect("every option has a default that its parser takes, or is not required")
    }
}

impl Config {
    /// Checks that the options of an application are not given for another one.
    pub(super) fn check_app(&self) -> Result<(), Conflict> {
        match &self.pusher_apps {
            Some(file) if self.app != AppName::Pusher => {
                let message = format!(
                    "--pusher-apps {} is set, but the application is another one; add --app pusher, or leave \
                     --pusher-apps out",
                    file.path().display()
                );
                Err(Conflict { options: &["pusher-apps", "app"], message })
            }
            _ => Ok(()),
        }
    }

    /// Checks that the settings do not contradict each other.
    ///
    /// # Errors
    /// Returns the first contradiction between settings.
    pub fn check(&self) -> Result<(), Conflict> {
        Options::from(self).check()
    }
}

/// Returns the origins whose pages may connect. Pages of all origins use a Pusher server, unless the settings say
/// otherwise.
fn allowed_origins(config: &Config) -> Vec<Origin> {
    match config.app {
        AppName::Pusher if config.allowed_origins.is_empty() => vec![Origin::Any],
        _ => config.allowed_origins.clone(),
    }
}

/// Returns the defaults of the options that the engine shares with the command line.
fn defaults() -> Options {
    Options::default()
}

/// Returns a time as a number of seconds, in the form that [`parse_seconds`] parses.
fn shown_seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}

/// Returns a parser of whole numbers in `range`, both ends included. The parser's errors name the range.
fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

fn parse_log(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => {
            Err(format!("{error}; expected a level like info, or directives like uproar::shard=debug"))
        }
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an address and a port, like 127.0.0.1:8000 or [::1]:8000".into())
}

fn parse_buffers(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|count: &u16| count.is_power_of_two());
    count.ok_or_else(|| "expected a power of two, up to 32768".into())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|time| time.as_secs() <= 1_000_000)
        .ok_or_else(|| "expected seconds from 0 to 1000000, like 10 or 0.5".into())
}

fn parse_some_seconds(text: &str) -> Result<Duration, String> {
    let longer = |time: Duration| (time >= Duration::from_millis(1)).then_some(time);
    longer(parse_seconds(text)?).ok_or_else(|| "expected at least 0.001 seconds".into())
}
