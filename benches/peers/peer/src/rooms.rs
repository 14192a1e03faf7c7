//! Rooms for the servers on tokio that bring no publish and subscribe of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast::{Sender, channel};

/// Messages that a client may be behind. One that is further behind is disconnected.
const CAPACITY: usize = 16_384;

/// A broadcast channel for each room, which is what tokio recommends when everybody hears everything.
pub struct Rooms<T>(Mutex<HashMap<String, Sender<T>>>);

impl<T: Clone> Rooms<T> {
    /// No rooms, to be shared by all connections.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(HashMap::new())))
    }

    /// The room that `path` names.
    ///
    /// # Panics
    /// When another thread panicked here.
    #[must_use]
    pub fn enter(&self, path: &str) -> Sender<T> {
        let mut rooms = self.0.lock().expect("nobody panics with the lock");
        rooms.entry(path.to_owned()).or_insert_with(|| channel(CAPACITY).0).clone()
    }
}
