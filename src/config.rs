//! The command line and its environment variables.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A WebSocket chat and broadcast server: thread per core, on io_uring or epoll.
#[derive(Debug, Parser)]
#[command(name = "uproar", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: Config,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (the default).
    Serve(Config),
}

impl Cli {
    /// The settings of the server to run.
    pub fn into_config(self) -> Config {
        match self.command {
            Some(Command::Serve(config)) => config,
            None => self.config,
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

/// How the server talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendName {
    /// io_uring where it can be had, else epoll.
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll.
    Epoll,
}

/// What happens to a client that reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LagPolicy {
    /// Close it with code 1013, reason `lagged`.
    Close,
    /// Let it go on with the newest messages and tell it how many it missed.
    Skip,
}

/// In which form clients that offer permessage-deflate are sent their messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compression {
    /// As they are; offers are declined.
    Off,
    /// Compressed without reference to earlier messages, so that one copy serves a whole room.
    Shared,
    /// Compressed for each client alone, which makes them smaller and costs each client's share of work and memory.
    Dedicated,
}

/// Settings of the server. Each is a flag and a variable `UPROAR_…`; the flag wins.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address to listen on; may be given several times.
    #[arg(long, env = "UPROAR_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:8000",
          value_delimiter = ',', value_parser = parse_address)]
    pub listen: Vec<SocketAddr>,

    /// What to run.
    #[arg(long, env = "UPROAR_APP", value_name = "APP", default_value = "chat")]
    pub app: AppName,

    /// How to talk to the kernel.
    #[arg(long, env = "UPROAR_BACKEND", value_name = "BACKEND", default_value = "auto")]
    pub backend: BackendName,

    /// Worker threads, one a core by default.
    #[arg(long, env = "UPROAR_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// Most connections at a time over all workers; further ones get 503. 0: as many as there are descriptors.
    #[arg(long, env = "UPROAR_MAX_CONNECTIONS", value_name = "N", default_value_t = 0)]
    pub max_connections: u32,

    /// Most connections at a time from one address (IPv6: one /64); further ones get 429. 0: no limit.
    #[arg(long, env = "UPROAR_MAX_CONNECTIONS_PER_IP", value_name = "N", default_value_t = 0)]
    pub max_connections_per_ip: u32,

    /// Most connections at a time that have not finished their request; further ones get 503. 0: half of what
    /// --max-connections comes to, but at least 1024.
    #[arg(long, env = "UPROAR_MAX_HANDSHAKES", value_name = "N", default_value_t = 0)]
    pub max_handshakes: u32,

    /// Longest message that a client may send; a longer one closes it with 1009.
    #[arg(long, env = "UPROAR_MAX_MESSAGE", value_name = "BYTES", default_value_t = 1 << 20,
          value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    pub max_message: u32,

    /// Messages and control frames a second that a client may send, 4 s of it at once; a faster one is not received
    /// from until it has waited. 0: no limit. The chat has 20 if nothing is said, other applications 0.
    #[arg(long, env = "UPROAR_MESSAGE_RATE", value_name = "N")]
    pub message_rate: Option<u32>,

    /// Bytes a second that a client may send, as with --message-rate. The chat has 262144 if nothing is said.
    #[arg(long, env = "UPROAR_BYTE_RATE", value_name = "BYTES")]
    pub byte_rate: Option<u32>,

    /// How far a client may fall behind in a room, or leave answers unread, before it has lagged.
    #[arg(long, env = "UPROAR_LAG_WINDOW", value_name = "BYTES", default_value_t = 1 << 20,
          value_parser = clap::value_parser!(u32).range(1024..=1 << 30))]
    pub lag_window: u32,

    /// What happens to a client that has lagged.
    #[arg(long, env = "UPROAR_LAG_POLICY", value_name = "POLICY", default_value = "close")]
    pub lag_policy: LagPolicy,

    /// How messages are compressed for clients that offer permessage-deflate.
    #[arg(long, env = "UPROAR_COMPRESSION", value_name = "MODE", default_value = "shared")]
    pub compression: Compression,

    /// Messages shorter than this are sent plain.
    #[arg(long, env = "UPROAR_COMPRESSION_THRESHOLD", value_name = "BYTES", default_value_t = 128)]
    pub compression_threshold: u32,

    /// Most memory for what compression refers back to, over all clients; further ones do without context takeover.
    #[arg(long, env = "UPROAR_CONTEXT_MEMORY", value_name = "BYTES", default_value_t = 64 << 20)]
    pub context_memory: u32,

    /// How much of a room's past is kept for newcomers to the chat, who see its last 50 messages. 0: nothing.
    #[arg(long, env = "UPROAR_HISTORY_BYTES", value_name = "BYTES", default_value_t = 64 << 10)]
    pub history_bytes: u32,

    /// How long a room's past is kept after its last member left.
    #[arg(long, env = "UPROAR_HISTORY_SECONDS", value_name = "SECONDS", default_value = "600", value_parser = parse_seconds)]
    pub history_seconds: Duration,

    /// Bytes that the past of all rooms may take. Beyond them the past of rooms without members goes, then that of
    /// others, always of the least recently used first. 0: no limit.
    #[arg(long, env = "UPROAR_HISTORY_MEMORY", value_name = "BYTES", default_value_t = 128 << 20)]
    pub history_memory: u64,

    /// How long a client may take for its request.
    #[arg(long, env = "UPROAR_HANDSHAKE_SECONDS", value_name = "SECONDS", default_value = "10", value_parser = parse_some_seconds)]
    pub handshake_seconds: Duration,

    /// A client that was silent for so long is sent a ping.
    #[arg(long, env = "UPROAR_PING_SECONDS", value_name = "SECONDS", default_value = "30", value_parser = parse_some_seconds)]
    pub ping_seconds: Duration,

    /// A client that answers no ping for so long is closed with 1008.
    #[arg(long, env = "UPROAR_PONG_SECONDS", value_name = "SECONDS", default_value = "10", value_parser = parse_some_seconds)]
    pub pong_seconds: Duration,

    /// How long the closing handshake, or the end of a response, may take.
    #[arg(long, env = "UPROAR_CLOSE_SECONDS", value_name = "SECONDS", default_value = "5", value_parser = parse_some_seconds)]
    pub close_seconds: Duration,

    /// On SIGTERM or SIGINT, the time over which clients are closed.
    #[arg(long, env = "UPROAR_DRAIN_SECONDS", value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    pub drain_seconds: Duration,

    /// Receive buffers of each worker. For tests: fewer of them mean load, and nothing else.
    #[arg(long, hide = true, value_name = "N", default_value_t = 256, value_parser = parse_buffers)]
    pub receive_buffers: u16,

    /// Address of metrics, health and the live page for those who run the server, and for nobody else: nothing
    /// there asks who is asking.
    #[arg(long, env = "UPROAR_ADMIN", value_name = "ADDR:PORT", value_parser = parse_address)]
    pub admin: Option<SocketAddr>,

    /// What to log, to stderr: a level, or directives like `uproar::shard=debug`.
    #[arg(long, env = "UPROAR_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

impl Config {
    /// Checks what single values cannot tell, and names the way out.
    ///
    /// # Errors
    /// One line for the person who chose the values.
    pub fn check(&self) -> Result<(), String> {
        if self.history_bytes > self.lag_window / 2 {
            return Err(format!(
                "--history-bytes {} is more than half of --lag-window {}: newcomers would lag at once; \
                 lower the one or raise the other",
                self.history_bytes, self.lag_window
            ));
        }
        if let Some(admin) = self.admin.filter(|admin| admin.port() != 0 && self.listen.contains(admin)) {
            return Err(format!(
                "--admin {admin} is an address of --listen, too; choose another port for it"
            ));
        }
        Ok(())
    }

    /// Number of worker threads.
    pub fn worker_count(&self) -> u16 {
        self.workers.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
            u16::try_from(cores).unwrap_or(u16::MAX).min(1024)
        })
    }
}

impl Default for Config {
    /// The settings of a command line without flags, whatever the environment says.
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 8000))],
            app: AppName::Chat,
            backend: BackendName::Auto,
            workers: None,
            max_connections: 0,
            max_connections_per_ip: 0,
            max_handshakes: 0,
            max_message: 1 << 20,
            message_rate: None,
            byte_rate: None,
            lag_window: 1 << 20,
            lag_policy: LagPolicy::Close,
            compression: Compression::Shared,
            compression_threshold: 128,
            context_memory: 64 << 20,
            history_bytes: 64 << 10,
            history_seconds: seconds(600),
            history_memory: 128 << 20,
            handshake_seconds: seconds(10),
            ping_seconds: seconds(30),
            pong_seconds: seconds(10),
            close_seconds: seconds(5),
            drain_seconds: seconds(5),
            receive_buffers: 256,
            admin: None,
            log: "info".into(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_an_empty_command_line_gives() {
        let parsed = Cli::parse_from(["uproar"]).into_config();
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
        let served = Cli::parse_from(["uproar", "serve"]).into_config();
        assert_eq!(format!("{served:?}"), format!("{parsed:?}"));
    }

    #[test]
    fn several_addresses_can_be_given_in_both_ways() {
        let args = ["uproar", "--listen", "127.0.0.1:1", "--listen", "[::1]:2,127.0.0.1:3"];
        let ports: Vec<u16> =
            Cli::parse_from(args).into_config().listen.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [1, 2, 3]);
    }

    #[test]
    fn a_history_that_makes_newcomers_lag_is_refused() {
        let config = Config { history_bytes: 1024, lag_window: 1024, ..Config::default() };
        assert!(config.check().is_err_and(|line| line.contains("--history-bytes 1024")));
    }

    #[test]
    fn one_address_for_all_and_for_those_who_run_it_is_refused() {
        let config = Config { admin: Some(SocketAddr::from(([127, 0, 0, 1], 8000))), ..Config::default() };
        assert!(config.check().is_err_and(|line| line.contains("--admin 127.0.0.1:8000")));
    }
}
