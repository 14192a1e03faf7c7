//! The admin listener: metrics, health checks and the live page.
//!
//! One thread serves it ([`listener`]), apart from the shards, so that it answers while a shard hangs. No client of it
//! can hold up another one: sockets do not block, each connection has deadlines, and at the limit of connections the
//! oldest one is closed.

mod access;
mod answers;
mod connection;
mod guesses;
mod listener;
mod metrics;
mod survey;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket;

use crate::watch::Watch;

/// Stack size of the admin thread, in bytes.
const STACK_BYTES: usize = 512 << 10;

/// Handle of a running admin listener.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
}

impl Admin {
    /// Starts the thread that serves `listener`, with at most `max_connections` connections at a time.
    ///
    /// # Errors
    /// The operating system cannot create the thread or the epoll instance.
    pub(crate) fn start(
        listener: TcpListener,
        watch: &Arc<Watch>,
        max_connections: usize,
    ) -> std::io::Result<Self> {
        let admin =
            Self { address: listener.local_addr()?, listener: Arc::new(listener), stopping: Arc::default() };
        let mut served = listener::Listener::new(
            Arc::clone(&admin.listener),
            Arc::clone(watch),
            Arc::clone(&admin.stopping),
            max_connections,
        )?;
        let builder = std::thread::Builder::new().name("admin".into()).stack_size(STACK_BYTES);
        builder.spawn(move || served.run())?;
        Ok(admin)
    }

    /// Returns the address of the admin listener, with the port that the kernel chose.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting connections. The admin thread ends when its last connection has ended; this call does not wait
    /// for it.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // The shutdown wakes the admin thread. It fails only if the socket no longer listens.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
    }
}
