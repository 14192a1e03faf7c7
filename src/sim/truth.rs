//! What really happened: the order of each room, as its home shard gave it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::resume_unwind;
use std::rc::Rc;

use crate::app::{App, ClientId, Context, Incoming, Kind, Note};

/// A text at which the application's handler panics.
pub(super) const BOOM: &[u8] = b"!boom";
/// A text at which it panics when the message is to be ordered, so that nobody hears it.
pub(super) const HUSH: &[u8] = b"!hush";

/// The messages of one room, in order.
#[derive(Debug, Default)]
pub(super) struct Order {
    pub(super) ids: Vec<u64>,
    positions: HashMap<u64, usize>,
}

impl Order {
    pub(super) fn position(&self, id: u64) -> Option<usize> {
        self.positions.get(&id).copied()
    }
}

/// All rooms by name.
pub(super) type Truth = Rc<RefCell<HashMap<String, Order>>>;

/// The payload of a message: its id, then bytes that follow from it.
pub(super) fn payload(id: u64) -> Vec<u8> {
    let len = match id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56 {
        short @ 0..200 => short as usize / 4,
        long => long as usize * 8,
    };
    let mut bytes = format!("{id:016x}").into_bytes();
    bytes.resize(16 + len, b'a' + (id % 26) as u8);
    bytes
}

/// The id of a payload, if it is one of ours and whole.
pub(super) fn id_of(bytes: &[u8]) -> Option<u64> {
    let id = u64::from_str_radix(str::from_utf8(bytes.get(..16)?).ok()?, 16).ok()?;
    (payload(id) == bytes).then_some(id)
}

/// An application that takes notes of what another one does.
pub(super) struct Watch {
    pub(super) inner: Box<dyn App>,
    pub(super) truth: Truth,
}

impl App for Watch {
    fn history(&self) -> u32 {
        self.inner.history()
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, room: &str) {
        self.inner.on_open(context, client, room);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        if message.payload == BOOM {
            // Like a panic, but without a word on stderr.
            resume_unwind(Box::new("boom"));
        }
        self.inner.on_message(context, client, message);
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        self.inner.on_close(context, client);
    }

    fn on_publish(&mut self, room: &str, kind: Kind, payload: &[u8]) -> bool {
        if payload == HUSH {
            resume_unwind(Box::new("hush"));
        }
        if let Some(id) = id_of(payload) {
            let mut truth = self.truth.borrow_mut();
            let order = truth.entry(room.to_owned()).or_default();
            let before = order.positions.insert(id, order.ids.len());
            assert_eq!(before, None, "message {id:x} is ordered once");
            order.ids.push(id);
        }
        self.inner.on_publish(room, kind, payload)
    }

    fn on_lag(&mut self, context: &mut Context<'_>, client: ClientId, missed: u64) {
        self.inner.on_lag(context, client, missed);
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        self.inner.on_ask(context, note);
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        self.inner.on_tell(context, note);
    }
}

/// A message as the application sends it; used to keep the two kinds apart by id.
pub(super) fn kind_of(id: u64) -> Kind {
    if id.is_multiple_of(3) { Kind::Binary } else { Kind::Text }
}
