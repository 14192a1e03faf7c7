//! Servers to test and clients to test them with.

/// Makes each test of the module one for io_uring and one for epoll. Where io_uring is not to be had, its tests
/// fail: the backend must not go untested unnoticed.
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

pub(crate) mod chatter;
pub(crate) mod client;
pub(crate) mod crowd;
pub(crate) mod manager;
pub(crate) mod metrics;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod seccomp;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod visitors;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::{Duration, Instant};

use uproar::app::App;
use uproar::config::{AppName, BackendName, Config};
use uproar::server::Server;

/// How long a test waits for what must come. Long, since it only delays failures.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Settings of a server on a port that the kernel chooses.
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

/// A server in this process. At its end it must have forgotten all its clients.
pub(crate) struct TestServer {
    server: Server,
}

impl TestServer {
    pub(crate) fn start(config: &Config) -> Self {
        Self { server: Server::start(config).expect("the server starts") }
    }

    pub(crate) fn start_app<F>(config: &Config, make: F) -> Self
    where
        F: Fn(u16) -> Box<dyn App> + Send + Sync + 'static,
    {
        Self { server: Server::start_app(config, make).expect("the server starts") }
    }

    /// A relay with the defaults otherwise.
    pub(crate) fn relay(backend: BackendName, workers: u16) -> Self {
        Self::start(&config(backend, AppName::Relay, workers))
    }

    /// An echo with the defaults otherwise.
    pub(crate) fn echo(backend: BackendName) -> Self {
        Self::start(&config(backend, AppName::Echo, 2))
    }

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
            // The test has failed for a reason of its own.
            return self.server.stop();
        }
        until("every connection is forgotten", || self.server.connections() == (0, 0));
        self.server.stop();
        self.server.join();
        let totals = self.server.totals();
        assert_eq!(totals.accepted, totals.closed, "{totals:?}");
    }
}

/// Sends nothing of sense until the server cuts it off; the bytes that it took.
pub(crate) fn flood(mut stream: TcpStream) -> usize {
    let chunk = vec![0; 64 << 10];
    (0..4096).take_while(|_| stream.write_all(&chunk).is_ok()).count() * chunk.len()
}

/// Waits until `condition` holds; for what nobody tells us about.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
