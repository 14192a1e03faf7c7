//! Clients that come all the time, say something, and go, whatever the server does meanwhile.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tungstenite::{Error, Message};

use super::client::Client;
use super::until;

/// Each is let in, and either hears the echo of what it says or is told that the server ends (1001). Whatever else
/// happens fails the test.
pub(crate) struct Visitors {
    threads: Vec<JoinHandle<()>>,
    served: Arc<AtomicUsize>,
    is_enough: Arc<AtomicBool>,
}

impl Visitors {
    /// Sends visitors of an echo server, `count` at a time.
    pub(crate) fn send(address: SocketAddr, count: usize) -> Self {
        let (served, is_enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let threads = (0..count).map(|number| {
            let stays = number % 4 == 3;
            let (served, is_enough) = (Arc::clone(&served), Arc::clone(&is_enough));
            std::thread::spawn(move || {
                while !is_enough.load(Ordering::SeqCst) {
                    let mut client = Client::open_on(connect(address), "/").expect("it is let in");
                    // Every fourth one stays until it is told to go.
                    while hears_itself(&mut client) && stays && !is_enough.load(Ordering::SeqCst) {}
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
        Self { threads: threads.collect(), served, is_enough }
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

    /// Sends no more; how many there were.
    pub(crate) fn come_home(self) -> usize {
        self.is_enough.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no visitor was refused");
        }
        self.served.load(Ordering::SeqCst)
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).expect("somebody listens")
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
