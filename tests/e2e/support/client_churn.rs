//! Background load for takeover and restart tests: clients that keep connecting, sending a message and leaving.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tungstenite::{Error, Message};

use super::client::Client;
use super::wait_until;

/// Threads whose clients connect to an echo server again and again.
///
/// Each client must receive the echo of its message, or a close with 1001 when the server shuts down. A connection that
/// is reset before its handshake ends is counted and retried. Any other result fails the test.
pub(crate) struct ClientChurn {
    threads: Vec<JoinHandle<()>>,
    served: Arc<AtomicUsize>,
    reset: Arc<AtomicUsize>,
    is_stopping: Arc<AtomicBool>,
}

impl ClientChurn {
    /// Starts `count` threads, each with one client at a time.
    pub(crate) fn start(address: SocketAddr, count: usize) -> Self {
        let (served, reset) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|number| {
            let is_long_lived = number % 4 == 3;
            let (served, reset, is_stopping) =
                (Arc::clone(&served), Arc::clone(&reset), Arc::clone(&is_stopping));
            std::thread::spawn(move || {
                while !is_stopping.load(Ordering::SeqCst) {
                    let Some(mut client) = try_connect(address) else {
                        reset.fetch_add(1, Ordering::SeqCst);
                        continue;
                    };
                    // The client of every fourth thread stays until the server closes it.
                    while echoes(&mut client) && is_long_lived && !is_stopping.load(Ordering::SeqCst) {}
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        Self { threads: threads.collect(), served, reset, is_stopping }
    }

    /// Waits until `count` more clients have been served.
    pub(crate) fn wait_for_served(&self, count: usize) {
        let before = self.served.load(Ordering::SeqCst);
        wait_until("more clients are served", || {
            let has_failed = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!has_failed, "a client was refused");
            self.served.load(Ordering::SeqCst) >= before + count
        });
    }

    /// Stops all threads. Returns the number of clients served and the number of connections reset.
    pub(crate) fn stop(self) -> (usize, usize) {
        self.is_stopping.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no client was refused");
        }
        (self.served.load(Ordering::SeqCst), self.reset.load(Ordering::SeqCst))
    }
}

/// Connects a client. Returns `None` when the connection was reset.
fn try_connect(address: SocketAddr) -> Option<Client> {
    let is_reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
    let stream = match TcpStream::connect(address) {
        Err(error) if is_reset(&error) => return None,
        result => result.expect("a server listens"),
    };
    match Client::try_open(stream, "/") {
        Err(Error::Io(error)) if is_reset(&error) => None,
        result => Some(result.expect("the server accepts the handshake")),
    }
}

/// Sends a message. Returns true when its echo arrives, false after a close with 1001.
fn echoes(client: &mut Client) -> bool {
    // Sending fails when the server has closed already; the close frame can still be read.
    let _ = client.socket.send(Message::text("hello"));
    let mut is_shutting_down = false;
    loop {
        match client.socket.read() {
            Ok(Message::Text(text)) if text.as_str() == "hello" => return true,
            Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1001 => is_shutting_down = true,
            Err(Error::ConnectionClosed) if is_shutting_down => return false,
            other => panic!("expected an echo or a close with 1001, got {other:?}"),
        }
    }
}
