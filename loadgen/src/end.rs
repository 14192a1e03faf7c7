//! The reasons why a connection ended, each with a hint for the user.

use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;

use crate::tls;
use crate::ws::ProtocolError;

/// The reason why a connection could not be opened, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum End {
    #[error("{0} refused the connection; start the server there or correct --url")]
    Refused(SocketAddr),
    #[error(
        "{0} refused the connection; the load is spread over 127.0.0.0/8, so the server must listen on 0.0.0.0 \
         (or give --destinations 1)"
    )]
    RefusedSpread(SocketAddr),
    #[error("{0} cannot be reached: {1}; correct --url")]
    Unreachable(SocketAddr, String),
    #[error("no address of {host} accepted the connection: {}", refusals.join("; "))]
    NoAddress { host: String, refusals: Vec<String> },
    #[error("no local port is free for {0}; spread the load with --destinations, or wait a minute")]
    PortsExhausted(SocketAddr),
    #[error("the descriptor limit of this process is reached; raise it with `ulimit -n`")]
    Descriptors,
    #[error("the handshake was not answered in time; the server is full or its backlog is too short")]
    TimedOut,
    #[error("{0}")]
    Tls(String),
    #[error("{0}")]
    Protocol(ProtocolError),
    /// The server reported an error of Pusher's protocol.
    #[error(
        "the server answered with an error: {0}; check --pusher-app, --pusher-channel and the server's limits"
    )]
    Pusher(String),
    /// The normal end of a connection: the client sent a close frame and the server answered.
    #[error("the server answered the client's close frame")]
    CloseAnswered,
    #[error("the server closed with code {}{}{reason}", code.map_or("none".to_owned(), |code| code.to_string()),
        if reason.is_empty() { "" } else { ": " })]
    Closed { code: Option<u16>, reason: String },
    #[error("the server ended the connection without a close frame; see its log")]
    Eof,
    #[error("the server reset the connection; see its log")]
    Reset,
    #[error("the server did not answer the client's close frame in time")]
    CloseTimedOut,
    #[error("{0}")]
    Io(String),
}

impl End {
    /// Converts an I/O error of a connection to `address`. `is_spread` says that loadgen chose another address than the
    /// URL's.
    pub(crate) fn from_io(error: &io::Error, address: SocketAddr, is_spread: bool) -> Self {
        if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::Tls(tls::describe(error));
        }
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) if is_spread => Self::RefusedSpread(address),
            Some(Errno::ECONNREFUSED) => Self::Refused(address),
            Some(Errno::EADDRNOTAVAIL) => Self::PortsExhausted(address),
            Some(Errno::EMFILE | Errno::ENFILE) => Self::Descriptors,
            Some(Errno::ECONNRESET | Errno::EPIPE) => Self::Reset,
            Some(Errno::ETIMEDOUT) => Self::TimedOut,
            Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EINVAL | Errno::EAFNOSUPPORT) => {
                Self::Unreachable(address, error.to_string())
            }
            _ => Self::Io(error.to_string()),
        }
    }

    /// Returns whether another address of the target's host may still accept the connection.
    ///
    /// The error "no local port" counts as unreachable, because a machine without IPv6 gives this error for IPv6
    /// addresses.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::RefusedSpread(_)
                | Self::Unreachable(..)
                | Self::PortsExhausted(SocketAddr::V6(_))
                | Self::TimedOut
        )
    }
}
