//! The command line of the program, with the environment variables.
//!
//! An option is defined once, as a field of [`Config`] with clap's attributes. Its default is that of
//! [`Options`], unless the engine does not have the option.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{
    BackendName, Compression, Conflict, Endpoint, LagPolicy, Network, Options, Origin, Secret, Takeover,
};

/// Heading, in the help, of the options that keep their value until the server starts again.
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
    /// Print the settings and where each comes from, or what is wrong with them; run nothing.
    Check(CommandLine),
}

#[derive(Args, Debug)]
pub(super) struct CommandLine {
    /// File with settings (TOML), one key for each option; read again on SIGHUP.
    #[arg(long, env = "UPROAR_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) settings: Config,
}

impl Cli {
    /// The settings of the server to run, or to check.
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

/// What the server does with its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AppName {
    /// The chat, with its page.
    Chat,
    /// Every message goes verbatim to everyone in the room.
    Relay,
    /// Every message goes back to its sender.
    Echo,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object each.
    Json,
}

/// Settings of the server. Each is a flag, a variable `UPROAR_…` and a key of the file; the first of them wins.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where to listen: ADDR:PORT, tls:ADDR:PORT, or unix:PATH for a proxy on the same host. May be given several
    /// times.
    #[arg(long, env = "UPROAR_LISTEN", help_heading = AT_START,
          value_name = "ENDPOINT", default_values_t = defaults().listen, value_delimiter = ',')]
    pub listen: Vec<Endpoint>,

    /// Whether to take over from another server of this user that listens there: both listen until that one is told to
    /// end. Off, such an address is one in use.
    #[arg(long, env = "UPROAR_TAKEOVER", help_heading = AT_START, value_name = "MODE",
          value_enum, default_value_t = defaults().takeover)]
    pub takeover: Takeover,
    /// Certificate of the listeners with TLS, then those of its issuers (PEM); read again on SIGHUP.
    #[arg(long, env = "UPROAR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of that certificate (PEM); read again on SIGHUP.
    #[arg(long, env = "UPROAR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// What to run.
    #[arg(long, env = "UPROAR_APP", help_heading = AT_START, value_name = "APP",
          value_enum, default_value_t = AppName::Chat)]
    pub app: AppName,

    /// How to talk to the kernel.
    #[arg(long, env = "UPROAR_BACKEND", help_heading = AT_START,
          value_name = "BACKEND", value_enum, default_value_t = defaults().backend)]
    pub backend: BackendName,

    /// Worker threads, one a core by default.
    #[arg(long, env = "UPROAR_WORKERS", help_heading = AT_START, value_name = "N",
          value_parser = whole(1..=1024_u16))]
    pub workers: Option<u16>,

    /// Most connections at a time over all workers; further ones get 503. 0: as many as there are descriptors.
    #[arg(long, env = "UPROAR_MAX_CONNECTIONS", value_name = "N", default_value_t = defaults().max_connections,
          value_parser = whole(0..=u32::MAX))]
    pub max_connections: u32,

    /// Most connections at a time from one address (IPv6: one /64); further ones get 429. 0: no limit.
    #[arg(long, env = "UPROAR_MAX_CONNECTIONS_PER_IP", value_name = "N",
          default_value_t = defaults().max_connections_per_ip,
          value_parser = whole(0..=u32::MAX))]
    pub max_connections_per_ip: u32,

    /// Most connections at a time that have not finished their request; further ones get 503. 0: half of what
    /// --max-connections comes to, but at least 1024.
    #[arg(long, env = "UPROAR_MAX_HANDSHAKES", value_name = "N", default_value_t = defaults().max_handshakes,
          value_parser = whole(0..=u32::MAX))]
    pub max_handshakes: u32,

    /// Origins whose pages may open a WebSocket, like `https://example.org` or `https://*.example.org`; * for all.
    /// Others get 403. Without it only pages of the host that they connect to. Clients that are no browsers name no
    /// origin and may.
    #[arg(long, env = "UPROAR_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    pub allowed_origins: Vec<Origin>,

    /// Proxies whose word on where their clients are from is taken: addresses, or networks like 10.0.0.0/8. From them
    /// X-Forwarded-For and Forwarded are read. Whoever comes by a Unix socket is one always.
    #[arg(long, env = "UPROAR_TRUSTED_PROXIES", value_name = "CIDR", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,

    /// Connections of trusted proxies begin with a PROXY protocol header, version 1 or 2, and those of others do not.
    #[arg(long, env = "UPROAR_PROXY_PROTOCOL", help_heading = AT_START, value_name = "BOOL", action = ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true", default_value_t = defaults().proxy_protocol)]
    pub proxy_protocol: bool,

    /// File with the secret of the tokens (JWT, HS256) that clients must show to open a WebSocket, as `?token=` or
    /// `Authorization: Bearer`; read again on SIGHUP. Others get 401. Without it nobody needs one.
    #[arg(long, env = "UPROAR_AUTH_HMAC_SECRET_FILE", value_name = "FILE")]
    pub auth_hmac_secret_file: Option<Secret>,

    /// Longest message that a client may send; a longer one closes it with 1009.
    #[arg(long, env = "UPROAR_MAX_MESSAGE", value_name = "BYTES", default_value_t = defaults().max_message,
          value_parser = whole(1..=1_u32 << 30))]
    pub max_message: u32,

    /// Longest private message of the chat (`/msg`). Every connection of its reader gets it.
    #[arg(long, env = "UPROAR_MAX_PRIVATE_MESSAGE", help_heading = AT_START, value_name = "BYTES",
          default_value_t = 8 << 10, value_parser = whole(1..=1_u32 << 20))]
    pub max_private_message: u32,

    /// Messages and control frames a second that a client may send, 4 s of it at once; a faster one is not received
    /// from until it has waited. 0: no limit. The chat has 20 if nothing is said, other applications 0.
    #[arg(long, env = "UPROAR_MESSAGE_RATE", value_name = "N", value_parser = whole(0..=u32::MAX))]
    pub message_rate: Option<u32>,

    /// Bytes a second that a client may send, as with --message-rate. The chat has 262144 if nothing is said.
    #[arg(long, env = "UPROAR_BYTE_RATE", value_name = "BYTES", value_parser = whole(0..=u32::MAX))]
    pub byte_rate: Option<u32>,

    /// How far a client may fall behind in a room, or leave answers unread, before it has lagged.
    #[arg(long, env = "UPROAR_LAG_WINDOW", value_name = "BYTES", default_value_t = defaults().lag_window,
          value_parser = whole(1024..=1_u32 << 30))]
    pub lag_window: u32,

    /// What happens to a client that has lagged.
    #[arg(long, env = "UPROAR_LAG_POLICY", value_name = "POLICY",
          value_enum, default_value_t = defaults().lag_policy)]
    pub lag_policy: LagPolicy,

    /// How messages are compressed for clients that offer permessage-deflate.
    #[arg(long, env = "UPROAR_COMPRESSION", value_name = "MODE",
          value_enum, default_value_t = defaults().compression)]
    pub compression: Compression,

    /// Messages shorter than this are sent plain.
    #[arg(long, env = "UPROAR_COMPRESSION_THRESHOLD", value_name = "BYTES",
          default_value_t = defaults().compression_threshold,
          value_parser = whole(0..=u32::MAX))]
    pub compression_threshold: u32,

    /// Most memory for what compression refers back to, over all clients; further ones do without context takeover.
    #[arg(long, env = "UPROAR_CONTEXT_MEMORY", value_name = "BYTES", default_value_t = defaults().context_memory,
          value_parser = whole(0..=u32::MAX))]
    pub context_memory: u32,

    /// How much of a room's past is kept for newcomers to the chat, who see its last 50 messages. 0: nothing.
    #[arg(long, env = "UPROAR_HISTORY_BYTES", value_name = "BYTES", default_value_t = defaults().history_bytes,
          value_parser = whole(0..=u32::MAX))]
    pub history_bytes: u32,

    /// How long a room's past is kept after its last member left.
    #[arg(long, env = "UPROAR_HISTORY_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().history_seconds),
          value_parser = parse_seconds)]
    pub history_seconds: Duration,

    /// Bytes that the past of all rooms may take. Beyond them the past of rooms without members goes, then that of
    /// others, always of the least recently used first. 0: no limit.
    #[arg(long, env = "UPROAR_HISTORY_MEMORY", value_name = "BYTES", default_value_t = defaults().history_memory,
          value_parser = whole(0..=u64::MAX))]
    pub history_memory: u64,

    /// How long a client may take for its request.
    #[arg(long, env = "UPROAR_HANDSHAKE_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().handshake_seconds),
          value_parser = parse_some_seconds)]
    pub handshake_seconds: Duration,

    /// A client that was silent for so long is sent a ping.
    #[arg(long, env = "UPROAR_PING_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().ping_seconds),
          value_parser = parse_some_seconds)]
    pub ping_seconds: Duration,

    /// A client that answers no ping for so long is closed with 1008.
    #[arg(long, env = "UPROAR_PONG_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().pong_seconds),
          value_parser = parse_some_seconds)]
    pub pong_seconds: Duration,

    /// How long the closing handshake, or the end of a response, may take.
    #[arg(long, env = "UPROAR_CLOSE_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().close_seconds),
          value_parser = parse_some_seconds)]
    pub close_seconds: Duration,

    /// On SIGTERM or SIGINT, the time for which clients are served and accepted as before, while /readyz says that the
    /// server ends: as long as it takes until nobody sends new clients here.
    #[arg(long, env = "UPROAR_DRAIN_DELAY", value_name = "SECONDS",
          default_value = shown_seconds(defaults().drain_delay),
          value_parser = parse_seconds)]
    pub drain_delay: Duration,

    /// After that, the time over which clients are closed, evenly.
    #[arg(long, env = "UPROAR_DRAIN_SECONDS", value_name = "SECONDS",
          default_value = shown_seconds(defaults().drain_seconds),
          value_parser = parse_seconds)]
    pub drain_seconds: Duration,

    /// Receive buffers of each worker. For tests: fewer of them mean load, and nothing else.
    #[arg(long, hide = true, value_name = "N",
          default_value_t = defaults().receive_buffers, value_parser = parse_buffers)]
    pub receive_buffers: u16,

    /// Address of metrics, health and the live page for those who run the server, and for nobody else: nothing
    /// there asks who is asking.
    #[arg(long, env = "UPROAR_ADMIN", value_name = "ADDR:PORT", value_parser = parse_address, help_heading = AT_START)]
    pub admin: Option<SocketAddr>,

    /// How lines of the log are written: for people, or as one JSON object each.
    #[arg(long, env = "UPROAR_LOG_FORMAT", value_name = "FORMAT",
          value_enum, default_value_t = LogFormat::Text, help_heading = AT_START)]
    pub log_format: LogFormat,

    /// What to log, to stderr: a level, or directives like `uproar::shard=debug`.
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
            max_handshakes: config.max_handshakes,
            allowed_origins: config.allowed_origins.clone(),
            trusted_proxies: config.trusted_proxies.clone(),
            proxy_protocol: config.proxy_protocol,
            auth_hmac_secret_file: config.auth_hmac_secret_file.clone(),
            max_message: config.max_message,
            message_rate: config.message_rate,
            byte_rate: config.byte_rate,
            lag_window: config.lag_window,
            lag_policy: config.lag_policy,
            compression: config.compression,
            compression_threshold: config.compression_threshold,
            context_memory: config.context_memory,
            history_bytes: config.history_bytes,
            history_seconds: config.history_seconds,
            history_memory: config.history_memory,
            handshake_seconds: config.handshake_seconds,
            ping_seconds: config.ping_seconds,
            pong_seconds: config.pong_seconds,
            close_seconds: config.close_seconds,
            drain_delay: config.drain_delay,
            drain_seconds: config.drain_seconds,
            receive_buffers: config.receive_buffers,
            admin: config.admin,
        }
    }
}

impl Default for Config {
    /// Returns the defaults of all options. Ignores environment variables.
    fn default() -> Self {
        let command =
            Self::augment_args(clap::Command::new("uproar")).mut_args(|option| option.env(None::<&str>));
        let matches = command.get_matches_from(["uproar"]);
        Self::from_arg_matches(&matches)
            .expect("every option has a default that its parser takes, or is not required")
    }
}

impl Config {
    /// Checks that the settings do not contradict each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), Conflict> {
        Options::from(self).check()
    }
}

/// Returns the defaults of the options that the engine shares with the command line.
fn defaults() -> Options {
    Options::default()
}

/// Returns a time in the form that [`parse_seconds`] takes.
fn shown_seconds(time: Duration) -> String {
    time.as_secs_f64().to_string()
}

/// Takes whole numbers of a range; what it refuses, it answers with the range.
fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("want a whole number from {} to {}", range.start(), range.end()))
    }
}

fn parse_log(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("{error}; want a level like info, or directives like uproar::shard=debug")),
    }
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "want an address and a port, like 127.0.0.1:8000 or [::1]:8000".into())
}

fn parse_buffers(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|count: &u16| count.is_power_of_two());
    count.ok_or_else(|| "want a power of two, up to 32768".into())
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.filter(|time| time.as_secs() <= 1_000_000).ok_or_else(|| "want seconds, like 10 or 0.5".into())
}

fn parse_some_seconds(text: &str) -> Result<Duration, String> {
    let longer = |time: Duration| (time >= Duration::from_millis(1)).then_some(time);
    longer(parse_seconds(text)?).ok_or_else(|| "want more than 0 seconds".into())
}
