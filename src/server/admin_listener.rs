//! The admin listener of the feature `admin`. Without the feature, [`bind`] never returns a listener.

use std::net::TcpListener;
use std::sync::Arc;

#[cfg(feature = "admin")]
pub(super) use crate::admin::Admin;
use crate::config::Options;
use crate::watch::Watch;

use super::StartError;
#[cfg(not(feature = "admin"))]
pub(super) use absent::Admin;

/// Binds the address of the admin listener, if the options have one.
#[cfg(feature = "admin")]
pub(super) fn bind(options: &Options) -> Result<Option<TcpListener>, StartError> {
    options.admin.map(|address| super::listening::listen_for_admin(address, options.takeover)).transpose()
}

/// Starts the thread that serves the admin listener.
#[cfg(feature = "admin")]
pub(super) fn start(
    listener: TcpListener,
    watch: &Arc<Watch>,
    max_connections: usize,
) -> Result<Admin, StartError> {
    Admin::start(listener, watch, max_connections).map_err(|error| StartError::System {
        action: "start the thread of the admin listener",
        error,
        remedy: super::THREAD_REMEDY,
    })
}

#[cfg(not(feature = "admin"))]
pub(super) fn bind(_options: &Options) -> Result<Option<TcpListener>, StartError> {
    Ok(None)
}

#[cfg(not(feature = "admin"))]
pub(super) fn start(
    _listener: TcpListener,
    _watch: &Arc<Watch>,
    _max_connections: usize,
) -> Result<Admin, StartError> {
    unreachable!("bind returns no listener")
}

#[cfg(not(feature = "admin"))]
mod absent {
    use std::net::SocketAddr;

    /// Stand-in for the admin listener without the feature `admin`: a type that has no values.
    #[derive(Clone, Debug)]
    pub(crate) enum Admin {}

    impl Admin {
        pub(crate) fn stop(&self) {
            match *self {}
        }

        pub(crate) fn address(&self) -> SocketAddr {
            match *self {}
        }
    }
}
