//! Connections through protocol and hub, as a shard with a relay would serve them, and a model beside it.

use std::collections::VecDeque;

use uproar::hub::{Hub, HubOptions, Message, Request, Slot};
use uproar::protocol::frame::encode_header;
use uproar::protocol::{Event, Kind, Protocol, Reader};

use super::{HANDSHAKE, limits};

const CLIENTS: usize = 4;
const ROOMS: [&str; 2] = ["a", "b"];
const MAX_MESSAGE: usize = 2_000;
/// Small, so that clients lag; twice what a message can take.
const LAG_WINDOW: usize = 4_096;

/// One connection, and what it must still hear.
struct Client {
    protocol: Protocol,
    /// The room that it is a member of.
    room: Option<usize>,
    /// Frames of its rooms that have not been sent to it, and may have been missed.
    owed: VecDeque<Vec<u8>>,
    /// Frames that were passed over when a later one was sent.
    skipped: u64,
    /// Frames that the hub says it missed.
    missed: u64,
}

impl Client {
    /// Checks what is sent: whole frames, of which those of rooms are the next that it is owed.
    fn hears(&mut self, mut bytes: &[u8], messages: u64) {
        let mut heard = 0;
        while !bytes.is_empty() {
            let (frame, rest) = bytes.split_at(frame_len(bytes));
            bytes = rest;
            if frame[0] & 0x08 != 0 {
                continue;
            }
            heard += 1;
            let at = self.owed.iter().position(|owed| owed == frame).expect("a message that it is owed");
            self.owed.drain(..=at);
            self.skipped += at as u64;
        }
        assert_eq!(heard, messages, "the messages in a send are counted");
    }
}

/// All connections, and the hub that serves them.
pub struct Clients {
    hub: Hub,
    clients: Vec<Option<Client>>,
    /// Clients with a send under way.
    sending: [bool; CLIENTS],
    now_ms: u64,
}

impl Clients {
    /// Nobody is connected yet.
    #[expect(clippy::new_without_default, reason = "made once a run")]
    pub fn new() -> Self {
        let hub = Hub::new(HubOptions {
            shard: 0,
            shards: 1,
            lag_window: LAG_WINDOW,
            history: 0,
            history_bytes: 0,
            history_ms: 0,
            history_memory: 0,
            compression_threshold: 128,
        });
        Self { hub, clients: (0..CLIENTS).map(|_| None).collect(), sending: [false; CLIENTS], now_ms: 0 }
    }

    /// Takes `input` for commands: a byte that says what and who, then what the command needs. At the end all
    /// clients read on, and each must have heard, or been told that it missed, every message of its room.
    pub fn run(&mut self, mut input: &[u8]) {
        while let Some((&command, rest)) = input.split_first() {
            input = rest;
            let slot = usize::from(command >> 3) % CLIENTS;
            match command & 7 {
                0 | 1 => input = self.receive(slot, input),
                2 => self.connect(slot),
                3 => self.mail(),
                4 => self.sends(1 + usize::from(command >> 5)),
                5 => self.complete(slot),
                6 => self.pass_time(1 << (command >> 4)),
                _ => self.disconnect(slot, command & 0x80 != 0),
            }
        }
        self.come_to_rest();
        for client in self.clients.iter().flatten() {
            // A message is delivered whole, once and in order, or its loss is said.
            assert_eq!(client.skipped + client.owed.len() as u64, client.missed);
        }
        (0..CLIENTS).for_each(|slot| self.disconnect(slot, true));
        self.mail();
        self.pass_time(1);
        assert_eq!(self.hub.memory(), (0, 0), "rooms are forgotten with their members");
    }

    fn connect(&mut self, slot: usize) {
        if self.clients[slot].is_none() {
            self.hub.open(slot as Slot);
            let protocol = Protocol::new();
            let client = Client { protocol, room: None, owed: VecDeque::new(), skipped: 0, missed: 0 };
            self.clients[slot] = Some(client);
            self.receive_bytes(slot, HANDSHAKE);
        }
    }

    /// A read: a byte with its length, then that many bytes. Gives what follows.
    fn receive<'i>(&mut self, slot: usize, input: &'i [u8]) -> &'i [u8] {
        let Some((&len, rest)) = input.split_first() else { return input };
        let (read, rest) = rest.split_at(rest.len().min(usize::from(len)));
        self.receive_bytes(slot, read);
        rest
    }

    fn receive_bytes(&mut self, slot: usize, read: &[u8]) {
        let Some(client) = &mut self.clients[slot] else { return };
        let mut protocol = std::mem::take(&mut client.protocol);
        let mut read = read.to_vec();
        let mut input = &mut read[..];
        let mut reader = Reader::new(limits(MAX_MESSAGE));
        while let Some(event) = protocol.next(&mut input, &mut reader) {
            match event {
                Event::Request(request) if request.upgrade.is_some() => {
                    protocol.upgrade(None);
                    self.enter(slot, slot % ROOMS.len());
                }
                Event::Request(_) => protocol.discard(),
                Event::Message { kind, payload } => self.said(slot, kind, payload),
                Event::Ping(payload) => {
                    let frame = [&[0x8a, payload.len() as u8], payload].concat();
                    self.hub.send_control(slot as Slot, &[&frame]);
                }
                Event::Pong(_) => {}
                Event::Refused(_) | Event::Close(_) | Event::Failed(_) => {
                    self.hub.finish(slot as Slot, true, &[0x88, 0]);
                    self.client(slot).room = None;
                }
            }
        }
        assert!(input.is_empty(), "what a client sends is consumed");
        self.client(slot).protocol = protocol;
    }

    /// `join a`, `join b` and `leave` are commands; all else goes to the room.
    fn said(&mut self, slot: usize, kind: Kind, payload: &[u8]) {
        match payload {
            b"join a" => self.enter(slot, 0),
            b"join b" => self.enter(slot, 1),
            b"leave" => self.leave(slot),
            _ => self.hub.publish_from(slot as Slot, Message::new(kind, payload)),
        }
    }

    fn enter(&mut self, slot: usize, room: usize) {
        if self.client(slot).room != Some(room) {
            self.leave(slot);
            // What was said before it came is none of its business.
            self.mail();
            self.hub.join(slot as Slot, ROOMS[room], 0);
            self.mail();
            self.client(slot).room = Some(room);
        }
    }

    fn leave(&mut self, slot: usize) {
        if let Some(room) = self.client(slot).room.take() {
            self.hub.leave(slot as Slot, ROOMS[room]);
        }
    }

    fn client(&mut self, slot: usize) -> &mut Client {
        self.clients[slot].as_mut().expect("connected")
    }
}

impl Clients {
    /// Takes the shard's mail to itself until there is none.
    fn mail(&mut self) {
        loop {
            let mut own = std::mem::take(self.hub.outgoing(0));
            assert!(own.deliveries.is_empty(), "a home shard is told nothing of its own rooms");
            if own.requests.is_empty() {
                return;
            }
            own.requests.drain(|request, room, payload| self.take_request(request, room, payload));
        }
    }

    fn take_request(&mut self, request: Request, name: &str, payload: &[u8]) {
        match request {
            Request::Subscribe { .. } | Request::Unsubscribe { .. } => {
                unreachable!("a home shard subscribes to nothing")
            }
            Request::Publish { room, kind, .. } => {
                self.hub.order(name, room, Message::new(kind, payload));
                let header = encode_header(kind.opcode(), true, false, payload.len());
                let frame = [header.as_bytes(), payload].concat();
                for client in self.clients.iter_mut().flatten() {
                    if client.room.is_some_and(|room| ROOMS[room] == name) {
                        client.owed.push_back(frame.clone());
                    }
                }
            }
            Request::Note(_) => unreachable!("nobody writes notes"),
        }
    }

    fn sends(&mut self, mut budget: usize) {
        while let Some(outbound) = self.hub.poll_send(&mut budget) {
            let slot = outbound.slot as usize;
            assert!(!self.sending[slot], "one send at a time");
            assert!(!outbound.span.is_empty(), "a send has bytes");
            self.client(slot).hears(outbound.span.bytes(), outbound.messages);
            self.sending[slot] = true;
        }
        while let Some(lagged) = self.hub.poll_lagged() {
            self.client(lagged.slot as usize).missed += lagged.missed;
        }
    }

    fn complete(&mut self, slot: usize) {
        if std::mem::take(&mut self.sending[slot]) {
            self.hub.sent(slot as Slot);
        }
    }

    fn pass_time(&mut self, ms: u64) {
        self.now_ms += ms;
        self.hub.tick(self.now_ms);
    }

    fn disconnect(&mut self, slot: usize, owed: bool) {
        if self.clients[slot].is_none() {
            return;
        }
        if !owed {
            self.hub.finish(slot as Slot, false, &[]);
        }
        self.complete(slot);
        self.hub.close(slot as Slot);
        self.clients[slot] = None;
    }

    fn come_to_rest(&mut self) {
        self.mail();
        while self.hub.has_more() || self.sending.contains(&true) {
            self.sends(1_000);
            (0..CLIENTS).for_each(|slot| self.complete(slot));
            self.mail();
        }
        for slot in (0..CLIENTS).filter(|slot| self.clients[*slot].is_some()) {
            assert!(self.hub.is_idle(slot as Slot), "a client that reads gets all that it is owed");
        }
    }
}

/// The length of the frame that `bytes` begin with, RFC 6455 §5.2; none of ours is masked or long.
fn frame_len(bytes: &[u8]) -> usize {
    match bytes[1] {
        126 => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        len => 2 + usize::from(len),
    }
}
