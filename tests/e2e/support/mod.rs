//! Test support: servers to test, and clients that connect to the servers.
//!
//! The test suites `hostile` and `costs` include this module by its path.

/// Makes two tests of each listed function: one on io_uring and one on epoll. On a kernel without io_uring, the
/// io_uring test fails instead of being skipped.
macro_rules! on_both_backends {
    ($($name:ident),+ $(,)?) => {
        mod io_uring {
            $(#[test] fn $name() { super::$name(uproar::config::BackendName::IoUring); })+
        }
        mod epoll {
            $(#[test] fn $name() { super::$name(uproar::config::BackendName::Epoll); })+
        }
    };
}

pub(crate) mod chat_user;
pub(crate) mod client;
pub(crate) mod client_churn;
pub(crate) mod many_clients;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod receiver;
pub(crate) mod seccomp;
pub(crate) mod service_manager;
pub(crate) mod tls;
pub(crate) mod token;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use uproar::app::App;
use uproar::config::{AppName, BackendName, Config, Endpoint};
use uproar::server::Server;

/// Longest time that a test waits for an expected event. A long limit only delays failing tests.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// Returns settings of a server on a port that the kernel chooses.
pub(crate) fn config(backend: BackendName, app: AppName, workers: u16) -> Config {
    Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        app,
        backend,
        workers: Some(workers),
        drain_seconds: Duration::ZERO,
        ..Config::default()
    }
}

/// Returns `config` with an additional listener on the Unix socket at `path`.
pub(crate) fn with_unix_listener(path: &Path, mut config: Config) -> Config {
    config.listen.push(Endpoint::Unix(path.into()));
    config
}

/// A server inside the test process. Dropping the value asserts that the server has released all connections.
pub(crate) struct TestServer {
    server: Server,
}

impl TestServer {
    pub(crate) fn start(config: &Config) -> Self {
        Self { server: Server::start(config).expect("the server starts") }
    }

    /// Starts a server with an application that `make` creates, once for each worker.
    pub(crate) fn start_app<F>(config: &Config, make: F) -> Self
    where
        F: Fn(u16) -> Box<dyn App> + Send + Sync + 'static,
    {
        Self { server: Server::start_app(config, make).expect("the server starts") }
    }

    /// Starts a relay server with default settings.
    pub(crate) fn relay(backend: BackendName, workers: u16) -> Self {
        Self::start(&config(backend, AppName::Relay, workers))
    }

    /// Starts an echo server with default settings and two workers.
    pub(crate) fn echo(backend: BackendName) -> Self {
        Self::start(&config(backend, AppName::Echo, 2))
    }

    /// Returns the address of the server's first listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.endpoints()[0].tcp().expect("a TCP listener")
    }
}

impl Deref for TestServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has already failed: a failed assertion here would hide its message.
            return self.server.stop();
        }
        wait_until("all connections are released", || self.server.connections() == (0, 0));
        self.server.stop();
        self.server.join();
        let totals = self.server.totals();
        assert_eq!(totals.accepted, totals.closed, "{totals:?}");
    }
}

/// Writes zeros to `stream` until the server resets the connection. Returns the number of bytes sent.
pub(crate) fn send_until_closed(mut stream: TcpStream) -> usize {
    let chunk = vec![0; 64 << 10];
    (0..4096).take_while(|_| stream.write_all(&chunk).is_ok()).count() * chunk.len()
}

/// Polls `condition` until it returns true; panics after `TIMEOUT`. For events that a test cannot block on.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
