//! The connections of one worker: opened, read, written and closed; what happens is told to a [`Handler`].

use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::mem;

use mio::net::TcpStream;

use crate::clock::now_ns;
use crate::end::End;
use crate::net::{Net, Ready};
use crate::target::Target;
use crate::totals::Wire;
use crate::ws::deflate::{DeflateState, Deflater, Inflater};
use crate::ws::frame::{Opcode, encode, encode_compressed};
use crate::ws::{Agreed, Client, Offer, ProtocolError, WsEvent};

/// Room for one read, in bytes.
const READ_SIZE: usize = 256 * 1024;
/// Room for one read behind a message that has begun, in bytes.
const READ_MORE: usize = 32 * 1024;

/// Hears what happens on the connections. All times are in nanoseconds of [`now_ns`].
///
/// It may queue and close, but not open: a slot must not be used again while its event is handled.
pub(crate) trait Handler {
    /// The handshake succeeded.
    fn on_open(&mut self, connections: &mut Connections, slot: usize, now: u64);
    /// Bytes came that begin with a frame, or a part of one: what of them it knows already.
    fn recognise(&mut self, connections: &mut Connections, slot: usize, input: &[u8], now: u64) -> Repeated;
    /// A message came, text or binary.
    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64);
    /// All that was queued has been written, after it had to wait or there was no room for more.
    fn on_drained(&mut self, connections: &mut Connections, slot: usize);
    /// The connection is gone, or could not be opened. The slot is vacant.
    fn on_end(&mut self, slot: usize, end: End, was_open: bool);
}

/// One whole message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(crate) is_text: bool,
    pub(crate) bytes: &'a [u8],
}

/// The start of some input that a handler has recognised and counted: whole messages of one frame each.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Repeated {
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
    pub(crate) payload_bytes: usize,
}

/// A table of connections in numbered slots.
pub(crate) struct Connections {
    net: Net,
    target: Target,
    slots: Vec<Slot>,
    /// The slots that wait for a handshake or for the answer to a close frame.
    pending: HashSet<usize>,
    /// The slots with something to write that nobody has tried to write.
    dirty: Vec<usize>,
    /// The slots whose connection failed at once, which their handler has not been told.
    stillborn: Vec<(usize, End)>,
    ready: Vec<Ready>,
    buffer: Vec<u8>,
    rng: fastrand::Rng,
    timeout_ns: u64,
    offer: Offer,
    inflation: Inflater,
    deflation: Deflater,
    wire: Wire,
}

#[derive(Default)]
struct Slot {
    /// Chooses the destination.
    id: usize,
    stream: Option<TcpStream>,
    phase: ConnectionState,
    /// Bytes wait for room in the socket, or somebody waits for room in the outbox.
    blocked: bool,
    client: Client,
    /// How what is sent is compressed, and what it refers to.
    agreed: Option<Agreed>,
    context: DeflateState,
    /// The start of what is not whole yet; owns nothing when idle.
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// So much of the outbox is written.
    written: usize,
    /// When the phase began, if it is a pending one.
    since_ns: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    #[default]
    Vacant,
    Opening,
    Open,
    Closing,
}

impl Connections {
    /// An empty table of `slots`; `timeout_ns` limits the handshake and the close handshake.
    pub(crate) fn new(net: Net, target: Target, slots: usize, timeout_ns: u64, offer: Offer) -> Self {
        Self {
            net,
            target,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            pending: HashSet::new(),
            dirty: Vec::new(),
            stillborn: Vec::new(),
            ready: Vec::new(),
            buffer: vec![0; READ_SIZE],
            rng: fastrand::Rng::new(),
            timeout_ns,
            offer,
            inflation: Inflater::default(),
            deflation: Deflater::default(),
            wire: Wire::default(),
        }
    }

    /// What the messages that came took on the wire.
    pub(crate) fn wire(&self) -> Wire {
        self.wire
    }

    /// Whoever connects from now on goes to another server.
    pub(crate) fn redirect(&mut self, target: Target) {
        self.target = target;
    }

    /// Handshakes and close handshakes under way.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn is_open(&self, slot: usize) -> bool {
        self.slots[slot].phase == ConnectionState::Open
    }

    /// Begins to connect the vacant `slot` to the destination of connection `id`.
    pub(crate) fn open(&mut self, slot: usize, id: usize) {
        let mut nonce = [0; 16];
        self.rng.fill(&mut nonce);
        let entry = &mut self.slots[slot];
        entry.id = id;
        entry.phase = ConnectionState::Opening;
        entry.client =
            Client::start(&self.target.host, &self.target.path, nonce, self.offer, &mut entry.outbox);
        entry.since_ns = now_ns();
        self.pending.insert(slot);
        match self.net.connect(slot, self.target.address(id)) {
            Ok(stream) => self.slots[slot].stream = Some(stream),
            Err(error) => self.stillborn.push((slot, self.io_end(id, &error))),
        }
    }

    /// Queues a text message; [`Connections::flush`] writes it.
    pub(crate) fn queue_text(&mut self, slot: usize, payload: &[u8]) {
        self.queue(slot, Opcode::Text, payload);
    }

    /// Whether less than `limit` bytes wait to be written; if not, the handler hears when all of them are.
    pub(crate) fn has_room(&mut self, slot: usize, limit: usize) -> bool {
        let entry = &mut self.slots[slot];
        let has_room = entry.outbox.len() - entry.written < limit;
        entry.blocked |= !has_room;
        has_room
    }

    /// Sends a close frame and waits for the server's.
    pub(crate) fn close(&mut self, slot: usize) {
        self.queue(slot, Opcode::Close, &1000u16.to_be_bytes());
        self.slots[slot].phase = ConnectionState::Closing;
        self.slots[slot].since_ns = now_ns();
        self.pending.insert(slot);
    }

    /// Sends close frames and leaves without waiting.
    pub(crate) fn leave(&mut self, handler: &mut impl Handler) {
        for slot in 0..self.slots.len() {
            if self.is_open(slot) {
                self.queue(slot, Opcode::Close, &1000u16.to_be_bytes());
            }
        }
        self.flush(handler);
        self.slots.clear();
    }

    /// Waits until `until_ns` at the longest and handles everything that has happened.
    ///
    /// `between` runs now and then, so that a long list of events does not make an open loop late.
    pub(crate) fn turn<H: Handler>(
        &mut self,
        until_ns: Option<u64>,
        handler: &mut H,
        mut between: impl FnMut(&mut H, &mut Self),
    ) -> io::Result<()> {
        let mut ready = mem::take(&mut self.ready);
        self.net.wait(until_ns, &mut ready)?;
        for part in ready.chunks(64) {
            for &event in part {
                self.handle(event, handler);
            }
            between(handler, self);
            self.flush(handler);
        }
        self.ready = ready;
        Ok(())
    }

    /// Writes what is queued, as far as the sockets take it.
    pub(crate) fn flush(&mut self, handler: &mut impl Handler) {
        while let Some((slot, end)) = self.stillborn.pop() {
            self.end(slot, end, handler);
        }
        while let Some(slot) = self.dirty.pop() {
            self.write(slot, handler);
        }
    }

    /// Ends the handshakes and close handshakes that take too long.
    pub(crate) fn expire(&mut self, now: u64, handler: &mut impl Handler) {
        let expired = |slot: &&usize| self.slots[**slot].since_ns + self.timeout_ns < now;
        let late: Vec<usize> = self.pending.iter().filter(expired).copied().collect();
        for slot in late {
            let end = if self.slots[slot].phase == ConnectionState::Closing {
                End::CloseTimedOut
            } else {
                End::TimedOut
            };
            self.end(slot, end, handler);
        }
    }

    fn queue(&mut self, slot: usize, opcode: Opcode, payload: &[u8]) {
        let entry = &mut self.slots[slot];
        if entry.outbox.is_empty() {
            self.dirty.push(slot);
        }
        let key = self.rng.u32(..).to_ne_bytes();
        let compressed = match entry.agreed {
            Some(agreed) if !opcode.is_control() => {
                self.deflation.deflate(payload, agreed, &mut entry.context)
            }
            _ => None,
        };
        match compressed {
            Some(compressed) => encode_compressed(&mut entry.outbox, opcode, compressed, key),
            None => encode(&mut entry.outbox, opcode, payload, key),
        }
    }

    fn handle(&mut self, ready: Ready, handler: &mut impl Handler) {
        let Ready { slot, readable, ended, writable } = ready;
        let phase = self.slots[slot].phase;
        if phase == ConnectionState::Vacant {
            return;
        }
        if writable && (phase == ConnectionState::Opening || self.slots[slot].blocked) {
            self.write(slot, handler);
        }
        if readable || ended {
            self.read(slot, ended, handler);
        }
    }

    fn write(&mut self, slot: usize, handler: &mut impl Handler) {
        let entry = &mut self.slots[slot];
        let Some(stream) = &mut entry.stream else { return };
        while entry.written < entry.outbox.len() {
            match stream.write(&entry.outbox[entry.written..]) {
                Ok(count) => entry.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.blocked = true;
                    return;
                }
                // What the server said before it closed is still to be read; the read will see the end.
                Err(_) if entry.phase != ConnectionState::Opening => return,
                Err(error) => {
                    let end = self.io_end(self.slots[slot].id, &error);
                    return self.end(slot, end, handler);
                }
            }
        }
        entry.outbox.clear();
        entry.written = 0;
        if mem::take(&mut entry.blocked) && entry.phase == ConnectionState::Open {
            handler.on_drained(self, slot);
        }
    }

    fn read(&mut self, slot: usize, ended: bool, handler: &mut impl Handler) {
        let mut buffer = mem::take(&mut self.buffer);
        while self.read_once(slot, ended, &mut buffer, handler) {}
        self.buffer = buffer;
    }

    /// Reads once, behind what is kept of an unfinished frame; says whether there may be more.
    fn read_once(&mut self, slot: usize, ended: bool, buffer: &mut [u8], handler: &mut impl Handler) -> bool {
        let entry = &mut self.slots[slot];
        let Some(stream) = &mut entry.stream else { return false };
        let mut inbox = mem::take(&mut entry.inbox);
        let kept = inbox.len();
        let space = if kept == 0 {
            &mut *buffer
        } else {
            inbox.resize(kept + READ_MORE, 0);
            &mut inbox[kept..]
        };
        let space_len = space.len();
        let outcome = stream.read(space);
        inbox.truncate(kept + outcome.as_ref().map_or(0, |&count| if kept == 0 { 0 } else { count }));
        let count = match outcome {
            Ok(0) => {
                let cut = entry.client.end_of_stream(&inbox).err();
                self.end(slot, cut.map_or(End::Eof, End::Protocol), handler);
                return false;
            }
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                entry.inbox = inbox;
                return error.kind() == io::ErrorKind::Interrupted;
            }
            Err(error) => {
                let end = self.io_end(self.slots[slot].id, &error);
                self.end(slot, end, handler);
                return false;
            }
        };
        if kept == 0 {
            let consumed = self.digest(slot, &buffer[..count], handler);
            inbox.extend_from_slice(&buffer[consumed..count]);
        } else {
            let consumed = self.digest(slot, &inbox, handler);
            inbox.drain(..consumed);
        }
        if self.slots[slot].phase != ConnectionState::Vacant && !inbox.is_empty() {
            self.slots[slot].inbox = inbox;
        }
        count == space_len || ended
    }

    /// Handles the whole frames in `input` and says how many bytes they were.
    fn digest(&mut self, slot: usize, input: &[u8], handler: &mut impl Handler) -> usize {
        let mut inflation = mem::take(&mut self.inflation);
        let consumed = self.digest_with(&mut inflation, slot, input, handler);
        self.inflation = inflation;
        consumed
    }

    fn digest_with(
        &mut self,
        inflation: &mut Inflater,
        slot: usize,
        input: &[u8],
        handler: &mut impl Handler,
    ) -> usize {
        let now = now_ns();
        let mut client = mem::take(&mut self.slots[slot].client);
        let mut consumed = 0;
        // The handler may close the connection meanwhile.
        while self.slots[slot].phase != ConnectionState::Vacant {
            if client.is_between_plain_messages() {
                let repeated = handler.recognise(self, slot, &input[consumed..], now);
                self.wire.count_again(repeated);
                consumed += repeated.bytes;
            }
            let step = match client.next(&input[consumed..], inflation) {
                Ok(step) => step,
                Err(error) => {
                    self.fail(slot, error, handler);
                    return input.len();
                }
            };
            consumed += step.consumed;
            match step.event {
                WsEvent::NeedsMore => break,
                WsEvent::Nothing => self.wire.frame_bytes += step.consumed as u64,
                WsEvent::Opened => {
                    self.slots[slot].phase = ConnectionState::Open;
                    self.slots[slot].agreed = client.agreed();
                    if self.slots[slot].outbox.is_empty() {
                        // The request was long; an idle connection shall own no buffer.
                        self.slots[slot].outbox = Vec::new();
                    }
                    self.pending.remove(&slot);
                    handler.on_open(self, slot, now);
                }
                WsEvent::Text(text) => {
                    let message = Payload { is_text: true, bytes: text.as_bytes() };
                    self.wire.count(step.consumed, text.len());
                    handler.on_message(self, slot, message, now);
                }
                WsEvent::Binary(bytes) => {
                    self.wire.count(step.consumed, bytes.len());
                    handler.on_message(self, slot, Payload { is_text: false, bytes }, now);
                }
                WsEvent::Ping(payload) => self.queue(slot, Opcode::Pong, payload),
                WsEvent::Closed { code, reason } => {
                    let end = End::Closed { code, reason: reason.to_owned() };
                    self.finish(slot, code.unwrap_or(1000), end, handler);
                    return input.len();
                }
            }
        }
        if self.slots[slot].phase != ConnectionState::Vacant {
            self.slots[slot].client = client;
        }
        consumed
    }

    /// The server broke the protocol: says so and ends (RFC 6455 §7.1.7).
    fn fail(&mut self, slot: usize, error: ProtocolError, handler: &mut impl Handler) {
        if self.is_open(slot) {
            self.finish(slot, error.close_code(), End::Protocol(error), handler);
        } else {
            self.end(slot, End::Protocol(error), handler);
        }
    }

    /// Sends a last close frame, unless we have sent ours, and ends.
    fn finish(&mut self, slot: usize, code: u16, end: End, handler: &mut impl Handler) {
        if self.is_open(slot) {
            self.queue(slot, Opcode::Close, &code.to_be_bytes());
            self.write(slot, handler);
        }
        self.end(slot, end, handler);
    }

    fn io_end(&self, id: usize, error: &io::Error) -> End {
        End::from_io(error, self.target.address(id), self.target.is_spread(id))
    }

    fn end(&mut self, slot: usize, end: End, handler: &mut impl Handler) {
        let phase = self.slots[slot].phase;
        if phase == ConnectionState::Vacant {
            return;
        }
        self.slots[slot] = Slot::default();
        self.pending.remove(&slot);
        handler.on_end(slot, end, phase != ConnectionState::Opening);
    }
}
