//! A model of one shard with the relay: clients served by `Protocol` and `Hub`, with every delivery checked.

use std::collections::VecDeque;

use uproar::hub::{Hub, HubOptions, Message, Request, Slot};
use uproar::protocol::frame::encode_header;
use uproar::protocol::{Kind, Protocol, ProtocolEvent, Reader};

use super::{HANDSHAKE, limits};

const CLIENTS: usize = 4;
const ROOMS: [&str; 2] = ["a", "b"];
const MAX_MESSAGE: usize = 2_000;
/// Size of the lag window in bytes. Small, so that clients lag, but twice the size of the longest message.
const LAG_WINDOW: usize = 4_096;

/// A fuzzed connection, with the frames that its client must still receive.
struct Client {
    protocol: Protocol,
    /// Index of the client's room in `ROOMS`; `None` outside any room.
    room: Option<usize>,
    /// Frames published to the client's room that the hub has not sent to the client.
    pending: VecDeque<Vec<u8>>,
    /// Number of frames that the hub skipped: it sent a later frame of the room first.
    skipped: u64,
    /// Number of missed frames that the hub has reported for this client.
    missed: u64,
}

impl Client {
    /// Checks the bytes of one send: `messages` whole data frames, each room's frames in the room's order.
    fn receive_sent(&mut self, mut bytes: &[u8], messages: u64) {
        let mut received = 0;
        while !bytes.is_empty() {
            let (frame, rest) = bytes.split_at(frame_len(bytes));
            bytes = rest;
            if frame[0] & 0x08 != 0 {
                continue;
            }
            received += 1;
            let at = self.pending.iter().position(|pending| pending == frame).expect("a pending message");
            self.pending.drain(..=at);
            self.skipped += at as u64;
        }
        assert_eq!(received, messages, "the send's number of messages is wrong");
    }
}

/// All fuzzed clients, and the hub that serves them.
pub struct Clients {
    hub: Hub,
    clients: Vec<Option<Client>>,
    /// Whether a send to the client in each slot is in flight.
    sending: [bool; CLIENTS],
    now_ms: u64,
}

impl Clients {
    /// Creates the hub, without clients.
    #[expect(clippy::new_without_default, reason = "created once for each input")]
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
            max_rooms: 1_000,
            occupancy: true,
            member_reports: false,
            session_ms: 0,
            ack_ms: 0,
            max_sessions: 0,
        });
        Self { hub, clients: (0..CLIENTS).map(|_| None).collect(), sending: [false; CLIENTS], now_ms: 0 }
    }

    /// Runs `input` as commands. A command is one byte with its kind and its client's slot, followed by its data. At
    /// the end all clients read everything. Panics if a client neither received a message of its room nor was told that
    /// the message was missed.
    pub fn run(&mut self, mut input: &[u8]) {
        while let Some((&command, rest)) = input.split_first() {
            input = rest;
            let slot = usize::from(command >> 3) % CLIENTS;
            match command & 7 {
                0 | 1 => input = self.receive(slot, input),
                2 => self.connect(slot),
                3 => self.deliver_mail(),
                4 => self.start_sends(1 + usize::from(command >> 5)),
                5 => self.complete(slot),
                6 => self.pass_time(1 << (command >> 4)),
                _ => self.disconnect(slot, command & 0x80 != 0),
            }
        }
        self.drain();
        for client in self.clients.iter().flatten() {
            // Every frame that the client did not receive must be reported as missed.
            assert_eq!(client.skipped + client.pending.len() as u64, client.missed);
        }
        (0..CLIENTS).for_each(|slot| self.disconnect(slot, true));
        self.deliver_mail();
        self.pass_time(1);
        assert_eq!(self.hub.memory(), (0, 0), "memory of rooms without members is not released");
    }

    fn connect(&mut self, slot: usize) {
        if self.clients[slot].is_none() {
            self.hub.open(slot as Slot);
            let protocol = Protocol::new();
            let client = Client { protocol, room: None, pending: VecDeque::new(), skipped: 0, missed: 0 };
            self.clients[slot] = Some(client);
            self.receive_bytes(slot, HANDSHAKE);
        }
    }

    /// Feeds the client one read: a length byte, then that many bytes of `input`. Returns the rest of `input`.
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
                ProtocolEvent::Request(request) if request.upgrade.is_some() => {
                    protocol.upgrade(None);
                    self.enter(slot, slot % ROOMS.len());
                }
                ProtocolEvent::Request(_) => protocol.discard(),
                ProtocolEvent::Continue => panic!("only requests with a body wait for 100 Continue"),
                ProtocolEvent::Message { kind, payload } => self.handle_message(slot, kind, payload),
                ProtocolEvent::Ping(payload) => {
                    let frame = [&[0x8a, payload.len() as u8], payload].concat();
                    self.hub.send_control(slot as Slot, &[&frame]);
                }
                ProtocolEvent::Pong(_) => {}
                ProtocolEvent::Refused(_) | ProtocolEvent::Close(_) | ProtocolEvent::Failed(_) => {
                    self.hub.finish(slot as Slot, true, &[0x88, 0]);
                    self.client(slot).room = None;
                }
            }
        }
        assert!(input.is_empty(), "protocol leaves input unread");
        self.client(slot).protocol = protocol;
    }

    /// Runs a client's message as a command: `join a`, `join b` or `leave`. Publishes any other message to the client's
    /// room.
    fn handle_message(&mut self, slot: usize, kind: Kind, payload: &[u8]) {
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
            // Order all earlier messages now: the client must not receive messages from before its join.
            self.deliver_mail();
            self.hub.join(slot as Slot, ROOMS[room], 0);
            self.deliver_mail();
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
    /// Handles the requests that the shard has sent to itself until none is left.
    fn deliver_mail(&mut self) {
        loop {
            let mut own = std::mem::take(self.hub.outgoing(0));
            assert!(own.deliveries.is_empty(), "a home shard sends itself no deliveries");
            if own.requests.is_empty() {
                return;
            }
            own.requests.drain(|request, room, payload| self.take_request(request, room, payload));
        }
    }

    fn take_request(&mut self, request: Request, name: &str, payload: &[u8]) {
        match request {
            Request::Subscribe { .. } | Request::Unsubscribe { .. } => {
                unreachable!("a home shard does not subscribe to its own rooms")
            }
            Request::Publish { room, kind, .. } => {
                self.hub.order(name, room, Message::new(kind, payload));
                let header = encode_header(kind.opcode(), true, false, payload.len());
                let frame = [header.as_bytes(), payload].concat();
                for client in self.clients.iter_mut().flatten() {
                    if client.room.is_some_and(|room| ROOMS[room] == name) {
                        client.pending.push_back(frame.clone());
                    }
                }
            }
            other => unreachable!("the application sends no {other:?}"),
        }
    }

    fn start_sends(&mut self, mut budget: usize) {
        while let Some(outbound) = self.hub.poll_send(&mut budget) {
            let slot = outbound.slot as usize;
            assert!(!self.sending[slot], "two sends to one client are in flight");
            assert!(!outbound.span.is_empty(), "a send is empty");
            self.client(slot).receive_sent(outbound.span.bytes(), outbound.messages);
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

    fn disconnect(&mut self, slot: usize, is_abrupt: bool) {
        if self.clients[slot].is_none() {
            return;
        }
        if !is_abrupt {
            self.hub.finish(slot as Slot, false, &[]);
        }
        self.complete(slot);
        self.hub.close(slot as Slot);
        self.clients[slot] = None;
    }

    fn drain(&mut self) {
        self.deliver_mail();
        while self.hub.has_more() || self.sending.contains(&true) {
            self.start_sends(1_000);
            (0..CLIENTS).for_each(|slot| self.complete(slot));
            self.deliver_mail();
        }
        for slot in (0..CLIENTS).filter(|slot| self.clients[*slot].is_some()) {
            assert!(self.hub.is_idle(slot as Slot), "a client that reads everything has pending frames");
        }
    }
}

/// Returns the length in bytes of the frame at the start of `bytes`: unmasked and shorter than 64 KiB. RFC 6455 §5.2
fn frame_len(bytes: &[u8]) -> usize {
    match bytes[1] {
        126 => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        len => 2 + usize::from(len),
    }
}
