//! Clients that come all the time, say something, and go, whatever the server does meanwhile.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tungstenite::{Error, Message};

use super::client::Client;
use super::until;

/// Each is let in, and either hears the echo of what it says or is told that the server ends (1001). Whoever is reset before
/// it is let in is counted and comes again. Whatever else happens fails the test.
pub(crate) struct Visitors {
    threads: Vec<JoinHandle<()>>,
    served: Arc<AtomicUsize>,
    reset: Arc<AtomicUsize>,
    is_enough: Arc<AtomicBool>,
}

impl Visitors {
    /// Sends visitors of an echo server, `count` at a time.
    pub(crate) fn send(address: SocketAddr, count: usize) -> Self {
        let (served, reset) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let is_enough = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|number| {
            let stays = number % 4 == 3;
            let (served, reset, is_enough) =
                (Arc::clone(&served), Arc::clone(&reset), Arc::clone(&is_enough));
            std::thread::spawn(move || {
                while !is_enough.load(Ordering::SeqCst) {
                    let Some(mut client) = enter(address) else {
                        reset.fetch_add(1, Ordering::SeqCst);
                        continue;
                    };
                    // Every fourth one stays until it is told to go.
                    while hears_itself(&mut client) && stays && !is_enough.load(Ordering::SeqCst) {}
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        Self { threads: threads.collect(), served, reset, is_enough }
    }

    /// Waits until so many more have been served.
    pub(crate) fn wait_for(&self, count: usize) {
        let before = self.served.load(Ordering::SeqCst);
        until("visitors are served", || {
            let is_failed = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!is_failed, "a visitor was refused");
            self.served.load(Ordering::SeqCst) >= before + count
        });
    }

    /// Sends no more. How many were served, and how many times one was reset.
    pub(crate) fn come_home(self) -> (usize, usize) {
        self.is_enough.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no visitor was refused");
        }
        (self.served.load(Ordering::SeqCst), self.reset.load(Ordering::SeqCst))
    }
}

/// A client that is let in, or nobody when the connection was reset.
fn enter(address: SocketAddr) -> Option<Client> {
    let is_reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
    let stream = match TcpStream::connect(address) {
        Err(error) if is_reset(&error) => return None,
        result => result.expect("somebody listens"),
    };
    match Client::try_open(stream, "/") {
        Err(Error::Io(error)) if is_reset(&error) => None,
        result => Some(result.expect("it is let in")),
    }
}

/// Says something, and hears it; or is told that the server ends.
fn hears_itself(client: &mut Client) -> bool {
    // When the server has said farewell already, that is there to be read.
    let _ = client.socket.send(Message::text("hello"));
    let mut is_told = false;
    loop {
        match client.socket.read() {
            Ok(Message::Text(text)) if text.as_str() == "hello" => return true,
            Ok(Message::Close(Some(frame))) if u16::from(frame.code) == 1001 => is_told = true,
            Err(Error::ConnectionClosed) if is_told => return false,
            other => panic!("instead of an echo or a farewell: {other:?}"),
        }
    }
}
