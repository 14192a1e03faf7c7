//! What the server listens on: sockets of its own, or those that it is given.

use std::net::{SocketAddr, TcpListener};

use tracing::warn;

use super::{Given, StartError};
use crate::config::{Endpoint, Options, Takeover};
use crate::io::path::Pending;
use crate::io::{Listener, listen};

/// What is listened on.
pub(super) struct Listening {
    /// Where that is, with the ports that the kernel chose.
    pub(super) endpoints: Vec<Endpoint>,
    /// What each worker listens on, by worker.
    pub(super) listeners: Vec<Vec<Listener>>,
    /// Those of the sockets that take their paths when everything else has succeeded.
    pub(super) pending: Vec<Pending>,
}

/// Binds every address once for each worker; the kernel spreads connections over them. A path has one socket, which
/// the workers share.
pub(super) fn listen_all(options: &Options, workers: u16) -> Result<Listening, StartError> {
    if options.takeover == Takeover::On && listen::waiting_connections_are_reset() {
        warn!(
            "--takeover on: whoever waits to be accepted when a server ends is reset; \
             set net.ipv4.tcp_migrate_req to 1 (Linux 5.14)"
        );
    }
    let mut listening = Listening::for_workers(workers);
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

/// Has all workers accept from each of the sockets.
pub(super) fn share_all(given: Vec<Given>, workers: u16) -> Result<Listening, StartError> {
    let unusable = |error| StartError::System { what: "use a socket that listens already", error };
    let mut listening = Listening::for_workers(workers);
    for Given { listener, endpoint } in given {
        let own = listener.set_nodelay().and_then(|()| share(listener, workers));
        listening.add(endpoint, own.map_err(unusable)?);
    }
    Ok(listening)
}

impl Listening {
    fn for_workers(workers: u16) -> Self {
        let listeners = (0..workers).map(|_| Vec::new()).collect();
        Self { endpoints: Vec::new(), listeners, pending: Vec::new() }
    }

    /// Gives each worker its own listener of an endpoint.
    fn add(&mut self, endpoint: Endpoint, own: Vec<Listener>) {
        self.endpoints.push(endpoint);
        for (worker, listener) in self.listeners.iter_mut().zip(own) {
            worker.push(listener);
        }
    }
}

/// Has clients come by the paths from now on.
pub(super) fn take_paths(pending: Vec<Pending>) -> Result<(), StartError> {
    let taken = pending.into_iter().try_for_each(Pending::commit);
    taken.map_err(|error| StartError::System { what: "put a socket at its path", error })
}

fn cannot_listen(endpoint: &Endpoint, error: std::io::Error) -> StartError {
    let remedies = if endpoint.tcp().is_some() { &LISTEN } else { &LISTEN_ON_PATH };
    StartError::Listen { endpoint: endpoint.clone(), remedy: remedy(&error, remedies), error }
}

fn listen_on_address(
    address: SocketAddr,
    workers: u16,
    takeover: Takeover,
) -> std::io::Result<Vec<Listener>> {
    // Sockets of one user share a port silently, so ask first whether another server has it.
    if address.port() != 0 && takeover == Takeover::Off {
        drop(TcpListener::bind(address)?);
    }
    let first = Listener::tcp(address)?;
    let actual = first.local_addr().unwrap_or(address);
    let others = (1..workers).map(|_| Listener::tcp(actual));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn share(listener: Listener, workers: u16) -> std::io::Result<Vec<Listener>> {
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

/// What to do about an address that cannot be listened on: when its port is taken, when it is privileged, otherwise.
type Remedies = [&'static str; 3];

const LISTEN: Remedies = [
    "another program has the port: end it, choose another one with --listen, or replace a server with --takeover on",
    "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); choose a higher one with --listen",
    "choose another address with --listen",
];
const LISTEN_ON_PATH: Remedies = [
    "another program listens or starts there, or something else has that name or the same with .new at its end: \
     end or remove it, or choose another path",
    "this user may not make a file there; choose another path, or give the directory to this user",
    "choose another path with --listen unix:PATH, of at most 103 bytes",
];
#[cfg(feature = "admin")]
const ADMIN: Remedies = [
    "another program has the port: end it, or choose another one with --admin",
    "ports below 1024 need a privilege (CAP_NET_BIND_SERVICE); choose a higher one with --admin",
    "choose another address with --admin",
];

fn remedy(error: &std::io::Error, [taken, privileged, other]: &Remedies) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => taken,
        std::io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
        std::io::ErrorKind::PermissionDenied => privileged,
        _ => other,
    }
}
