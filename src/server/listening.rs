//! The listening sockets of the server: its own, or given ones.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tracing::warn;

use crate::config::{Endpoint, Options, Takeover};
use crate::io::path::Pending;
use crate::io::{Listener, listen};

use super::{Given, StartError};

/// The listening sockets of a server that is starting.
pub(super) struct BoundListeners {
    /// The addresses and paths of the listeners, with the ports that the kernel chose.
    pub(super) endpoints: Vec<Endpoint>,
    /// The listening sockets of each worker, by worker index.
    pub(super) listeners: Vec<Vec<Listener>>,
    /// Unix sockets that move to their paths when the rest of the start has succeeded.
    pub(super) pending: Vec<Pending>,
}

/// Binds every listen address once for each worker, so that the kernel spreads connections over the workers. A Unix
/// socket path has one socket, which all workers share.
pub(super) fn bind_all(options: &Options, workers: u16) -> Result<BoundListeners, StartError> {
    if options.takeover == Takeover::On && listen::waiting_connections_are_reset() {
        warn!(
            "--takeover on: connections that wait to be accepted are reset when a server ends; \
             set net.ipv4.tcp_migrate_req to 1 (sysctl, Linux 5.14 or later)"
        );
    }
    let mut listening = BoundListeners::for_workers(workers);
    for endpoint in &options.listen {
        let own = match endpoint {
            Endpoint::Tcp(address) | Endpoint::Tls(address) => {
                listen::when_released(|| listen_on_address(*address, workers, options.takeover))
            }
            Endpoint::Unix(path) => {
                let bind = || Pending::bind(path, options.takeover == Takeover::On);
                listen::when_released(bind).and_then(|(listener, pending)| {
                    listening.pending.push(pending);
                    share(listener, workers)
                })
            }
        };
        let own = own.map_err(|error| cannot_listen(endpoint, error))?;
        let bound = own[0].local_addr().map_or_else(|| endpoint.clone(), |address| endpoint.at(address));
        listening.add(bound, own);
    }
    Ok(listening)
}

/// Shares each socket that was passed to the server between all workers.
pub(super) fn share_given(given: Vec<Given>, workers: u16) -> Result<BoundListeners, StartError> {
    let unusable = |error| StartError::System {
        action: "use a listening socket that was passed to the server",
        error,
        remedy: "pass TCP or Unix stream sockets that listen",
    };
    let mut listening = BoundListeners::for_workers(workers);
    for Given { listener, endpoint } in given {
        let own = listener.set_nodelay().and_then(|()| share(listener, workers));
        listening.add(endpoint, own.map_err(unusable)?);
    }
    Ok(listening)
}

impl BoundListeners {
    fn for_workers(workers: u16) -> Self {
        let listeners = (0..workers).map(|_| Vec::new()).collect();
        Self { endpoints: Vec::new(), listeners, pending: Vec::new() }
    }

    /// Adds an endpoint, and hands each worker one of its listeners in `own`.
    fn add(&mut self, endpoint: Endpoint, own: Vec<Listener>) {
        self.endpoints.push(endpoint);
        for (worker, listener) in self.listeners.iter_mut().zip(own) {
            worker.push(listener);
        }
    }
}

/// Moves Unix sockets from `PATH.new` to their paths, where clients find them.
pub(super) fn take_paths(pending: Vec<Pending>) -> Result<(), StartError> {
    let taken = pending.into_iter().try_for_each(Pending::commit);
    taken.map_err(|error| StartError::System {
        action: "move a Unix socket from PATH.new to its path",
        error,
        remedy: "check the permissions of its directory and that nothing else changes the files there",
    })
}

fn cannot_listen(endpoint: &Endpoint, error: io::Error) -> StartError {
    let remedies = if endpoint.tcp().is_some() { &LISTEN } else { &LISTEN_ON_PATH };
    StartError::Listen { endpoint: endpoint.clone(), remedy: remedy(&error, remedies), error }
}

fn listen_on_address(address: SocketAddr, workers: u16, takeover: Takeover) -> io::Result<Vec<Listener>> {
    // SO_REUSEPORT lets sockets of one user share a port, so a plain bind checks first that the port is free.
    if address.port() != 0 && takeover == Takeover::Off {
        drop(TcpListener::bind(address)?);
    }
    let first = Listener::tcp(address)?;
    let actual = first.local_addr().unwrap_or(address);
    let others = (1..workers).map(|_| Listener::tcp(actual));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn share(listener: Listener, workers: u16) -> io::Result<Vec<Listener>> {
    let others: Vec<_> = (1..workers).map(|_| listener.try_clone()).collect::<Result<_, _>>()?;
    Ok(std::iter::once(listener).chain(others).collect())
}

/// Binds the address of the admin listener.
#[cfg(feature = "admin")]
pub(super) fn listen_for_admin(address: SocketAddr, takeover: Takeover) -> Result<TcpListener, StartError> {
    let listener = listen::when_released(|| match takeover {
        Takeover::Off => TcpListener::bind(address),
        Takeover::On => listen::shared(address),
    });
    listener.map_err(|error| StartError::Listen {
        endpoint: address.into(),
        remedy: remedy(&error, &ADMIN),
        error,
    })
}

/// Hints for the user, one for each kind of error when the server cannot listen.
struct Remedies {
    in_use: &'static str,
    denied: &'static str,
    other: &'static str,
}

const LISTEN: Remedies = Remedies {
    in_use: "another program has the port; stop it, choose another port with --listen, or replace a running uproar \
             with --takeover on",
    denied: "use a port above 1023 or grant CAP_NET_BIND_SERVICE",
    other: "choose another address with --listen",
};
const LISTEN_ON_PATH: Remedies = Remedies {
    in_use: "another program listens at the path, or another file has its name or its name with .new; stop the program \
             or remove the file, or choose another path",
    denied: "let the server's user create files in the directory, or choose another path",
    other: "choose another path with --listen unix:PATH, of at most 103 bytes, in an existing directory",
};
#[cfg(feature = "admin")]
const ADMIN: Remedies = Remedies {
    in_use: "another program has the port; stop it, or choose another port with --admin",
    denied: "use a port above 1023 or grant CAP_NET_BIND_SERVICE",
    other: "choose another address with --admin",
};

fn remedy(error: &io::Error, remedies: &Remedies) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => remedies.in_use,
        io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has the address; use one of `ip address`, or 0.0.0.0 for all"
        }
        io::ErrorKind::PermissionDenied => remedies.denied,
        _ => remedies.other,
    }
}
