//! Rooms for compared servers on tokio whose library has no publish and subscribe.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast::{Sender, channel};

/// Largest number of messages that a client may be behind. A client that is further behind is disconnected.
const CAPACITY: usize = 16_384;

/// The rooms of a server: one tokio broadcast channel per room, as tokio recommends when all receive everything.
pub struct Rooms<T>(Mutex<HashMap<String, Sender<T>>>);

impl<T: Clone> Rooms<T> {
    /// Creates an empty set of rooms for all connections.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(HashMap::new())))
    }

    /// Returns the sending end of the room that `path` names. Creates the room if there is none.
    ///
    /// # Panics
    /// Panics if another thread has panicked while it held the lock of the rooms.
    #[must_use]
    pub fn enter(&self, path: &str) -> Sender<T> {
        let mut rooms = self.0.lock().expect("no thread panics while it holds the lock");
        rooms.entry(path.to_owned()).or_insert_with(|| channel(CAPACITY).0).clone()
    }
}
