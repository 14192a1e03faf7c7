//! The common part of the compared servers: command line, listener and start.

#[cfg(feature = "tokio")]
pub mod rooms;
#[cfg(feature = "tokio")]
pub mod runtime;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::exit;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

/// Length of the listener's accept queue, in connections.
const BACKLOG: i32 = 4096;

/// The application that a compared server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Echo: the server returns each message to its sender.
    Echo,
    /// Relay: the server sends each message to all clients in the room that the path names, including the sender.
    Relay,
}

/// The command-line arguments of a compared server.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The listen address, from `--listen ADDR:PORT`.
    pub listen: SocketAddr,
    /// The application, from `--app echo|relay`.
    pub app: App,
    /// The number of worker threads, from `--workers N`.
    pub workers: usize,
}

impl Arguments {
    /// Parses the command line of this process. A wrong command line ends the process with an explanation.
    #[must_use]
    pub fn parse() -> Self {
        Self::read(std::env::args().skip(1)).unwrap_or_else(|message| {
            eprintln!("{message}; usage: --listen ADDR:PORT --app echo|relay --workers N");
            exit(2)
        })
    }

    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self { listen: ([127, 0, 0, 1], 8000).into(), app: App::Relay, workers: 1 };
        while let Some(name) = words.next() {
            let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
            let wrong = || format!("{name} {value} makes no sense");
            match (name.as_str(), value.as_str()) {
                ("--listen", _) => arguments.listen = value.parse().map_err(|_| wrong())?,
                ("--app", "echo") => arguments.app = App::Echo,
                ("--app", "relay") => arguments.app = App::Relay,
                ("--workers", _) => {
                    let workers = value.parse().ok().filter(|&workers| workers > 0);
                    arguments.workers = workers.ok_or_else(wrong)?;
                }
                _ => return Err(wrong()),
            }
        }
        Ok(arguments)
    }
}

/// Raises the soft descriptor limit to the hard limit. Returns the hard limit.
///
/// # Errors
/// Returns an error if the kernel refuses the new limit.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Creates a nonblocking listener on `address` and prints one line about it. Accepted connections have `TCP_NODELAY`.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}
