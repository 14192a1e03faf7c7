//! The connections of one worker: opens, reads, writes and closes sockets, and reports events to a [`Handler`].

mod client;
mod receive;
mod stream;
mod subscribe;

use std::collections::HashSet;
use std::io;
use std::mem;
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::clock::now_ns;
use crate::end::End;
use crate::http;
use crate::net::{Net, Ready};
use crate::post::Post;
use crate::pusher::Session;
use crate::target::Target;
use crate::totals::Wire;
use crate::url::Protocol;
use crate::ws::deflate::{DeflateState, Deflater, Inflater};
use crate::ws::frame::{Opcode, encode, encode_compressed};
use crate::ws::{Agreed, Offer};

use client::Client;
use stream::Stream;
use subscribe::Awaited;

/// Size of the read buffer for connections that hold no incomplete frame, in bytes.
const READ_SIZE: usize = 256 * 1024;

/// The receiver of connection events. All times are in nanoseconds of [`now_ns`].
///
/// A handler may queue messages and close connections. A handler must not open connections, because a slot must not be
/// used again while its event is handled.
pub(crate) trait Handler {
    /// Handles the success of a handshake.
    fn on_open(&mut self, connections: &mut Connections, slot: usize, now: u64);
    /// Recognises and counts known messages at the start of `input`, which begins with a whole or partial frame.
    /// Returns the number of recognised bytes and messages.
    fn recognise(&mut self, connections: &mut Connections, slot: usize, input: &[u8], now: u64) -> Repeated;
    /// Handles a text or binary message.
    fn on_message(&mut self, connections: &mut Connections, slot: usize, message: Payload<'_>, now: u64);
    /// Handles the response to a request that publishes.
    fn on_response(&mut self, connections: &mut Connections, slot: usize, response: Response<'_>, now: u64);
    /// Handles an outbox that is empty again, after the socket was full or [`Connections::has_room`] returned false.
    fn on_drained(&mut self, connections: &mut Connections, slot: usize);
    /// Handles the end of a connection, or a failed connection attempt (`was_open` is false). The slot is vacant.
    fn on_end(&mut self, slot: usize, end: End, was_open: bool);
}

/// The payload of one whole message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a> {
    pub(crate) is_text: bool,
    pub(crate) bytes: &'a [u8],
}

/// A response to an HTTP request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Response<'a> {
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
    pub(crate) body: &'a [u8],
}

/// Input that a handler has recognised and counted: whole messages of one frame each.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Repeated {
    pub(crate) bytes: usize,
    pub(crate) messages: usize,
    pub(crate) payload_bytes: usize,
}

/// The options that all connections of a worker share.
pub(crate) struct ConnectionOptions {
    /// The server that connections are opened to.
    pub(crate) target: Target,
    /// The requests of the connections that publish over HTTP. `None` if there are no such connections.
    pub(crate) post: Option<Post>,
    /// The application and the channels of a Pusher server. `None` with another protocol.
    pub(crate) pusher: Option<Session>,
    /// The TLS configuration, for targets that use TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Longest duration of an opening handshake and of a close handshake, in nanoseconds.
    pub(crate) timeout_ns: u64,
    /// The compression that the client offers in the handshake.
    pub(crate) offer: Offer,
}

/// A table of connections in numbered slots.
pub(crate) struct Connections {
    net: Net,
    options: ConnectionOptions,
    slots: Vec<Slot>,
    /// The slots whose connection is in its opening handshake or close handshake.
    pending: HashSet<usize>,
    /// The slots with queued bytes that were not yet written to the socket.
    dirty: Vec<usize>,
    /// The slots whose connection attempt failed immediately, with the reason. The handler is told by
    /// [`Connections::flush`].
    failed_attempts: Vec<(usize, End)>,
    /// The index of the target's address that accepted the last connection.
    address: usize,
    /// The worker is leaving: after a failed attempt, the target's next address is not tried.
    is_leaving: bool,
    ready: Vec<Ready>,
    buffer: Vec<u8>,
    /// The buffer for received bytes that TLS has to decrypt.
    scratch: Vec<u8>,
    rng: fastrand::Rng,
    inflater: Inflater,
    deflater: Deflater,
    wire: Wire,
    /// A buffer for the event that carries a message.
    event: Vec<u8>,
}

/// A slot of the table: one connection, or vacant.
#[derive(Default)]
struct Slot {
    /// The connection's number in the run, which selects its destination.
    id: usize,
    stream: Option<Stream>,
    state: ConnectionState,
    /// Queued bytes wait for room in the socket, or a caller waits for room in the outbox.
    blocked: bool,
    client: Client,
    /// The next message of a Pusher server that completes the opening of the connection.
    awaited: Awaited,
    /// The identifier that a Pusher server has given to a guest's connection. Empty for other connections.
    socket_id: String,
    /// The negotiated compression of sent messages. `None` means uncompressed.
    agreed: Option<Agreed>,
    deflate_state: DeflateState,
    /// The start of a frame that has not arrived whole. An empty inbox owns no memory.
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// Number of the outbox's bytes that are written to the socket.
    written: usize,
    /// The time when the opening handshake or close handshake started, in nanoseconds.
    since_ns: u64,
    /// The index of the target's address that the connection goes to.
    address: usize,
    /// The addresses that did not accept the connection, each with the reason.
    refusals: Vec<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    #[default]
    Vacant,
    Opening,
    Open,
    /// The client has queued its close frame and waits for the server's close frame.
    Closing,
}

impl ConnectionOptions {
    /// Returns whether connection `id` publishes over HTTP.
    fn publishes(&self, id: usize) -> bool {
        self.post.as_ref().is_some_and(|post| post.publishers.number(id).is_some())
    }

    /// Returns the server of connection `id`.
    fn target(&self, id: usize) -> &Target {
        self.post.as_ref().filter(|_| self.publishes(id)).map_or(&self.target, |post| &post.target)
    }
}

impl Connections {
    /// Returns a table of `slots` vacant slots.
    pub(crate) fn new(net: Net, slots: usize, options: ConnectionOptions) -> Self {
        let uses_tls = options.tls.is_some();
        Self {
            net,
            options,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            pending: HashSet::new(),
            dirty: Vec::new(),
            failed_attempts: Vec::new(),
            address: 0,
            is_leaving: false,
            ready: Vec::new(),
            buffer: vec![0; READ_SIZE],
            scratch: vec![0; if uses_tls { READ_SIZE } else { 0 }],
            rng: fastrand::Rng::new(),
            inflater: Inflater::default(),
            deflater: Deflater::default(),
            wire: Wire::default(),
            event: Vec::new(),
        }
    }

    /// Returns the number and sizes of the messages received so far.
    pub(crate) fn wire(&self) -> Wire {
        self.wire
    }

    /// Sets the server for connections that are opened from now on.
    pub(crate) fn redirect(&mut self, target: Target) {
        self.options.target = target;
        self.address = 0;
    }

    /// Returns the number of connections in their opening handshake or close handshake.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn is_open(&self, slot: usize) -> bool {
        self.slots[slot].state == ConnectionState::Open
    }

    /// Starts to open the connection `id` in the vacant `slot`.
    pub(crate) fn open(&mut self, slot: usize, id: usize) {
        let entry = &mut self.slots[slot];
        entry.id = id;
        entry.state = ConnectionState::Opening;
        entry.since_ns = now_ns();
        entry.address = self.address;
        self.pending.insert(slot);
        self.connect(slot);
    }

    /// Queues a GET request on the connection in `slot`, which speaks HTTP. [`Connections::flush`] writes the request
    /// to the socket.
    pub(crate) fn queue_request(&mut self, slot: usize) {
        let entry = &mut self.slots[slot];
        if entry.outbox.is_empty() {
            self.dirty.push(slot);
        }
        http::write_request(&mut entry.outbox, &self.options.target.host, &self.options.target.resource);
    }

    /// Queues the request that publishes `payload` on the connection in `slot`, which publishes. [`Connections::flush`]
    /// writes the request to the socket.
    pub(crate) fn queue_post(&mut self, slot: usize, payload: &[u8]) {
        let entry = &mut self.slots[slot];
        if entry.outbox.is_empty() {
            self.dirty.push(slot);
        }
        if let Some(post) = &self.options.post {
            post.write(payload, &mut entry.outbox);
        }
    }

    /// Returns whether less than `limit` bytes wait to be written. If not, the handler's `on_drained` is called when
    /// the outbox is empty.
    pub(crate) fn has_room(&mut self, slot: usize, limit: usize) -> bool {
        let entry = &mut self.slots[slot];
        let has_room = entry.outbox.len() - entry.written < limit;
        entry.blocked |= !has_room;
        has_room
    }

    /// Queues a close frame and starts to wait for the server's close frame.
    pub(crate) fn close(&mut self, slot: usize) {
        self.queue_close(slot, 1000);
        self.slots[slot].state = ConnectionState::Closing;
        self.slots[slot].since_ns = now_ns();
        self.pending.insert(slot);
    }

    /// Sends a close frame on every open connection, and drops all connections without waiting for answers.
    pub(crate) fn leave(&mut self, handler: &mut impl Handler) {
        for slot in 0..self.slots.len() {
            if self.is_open(slot) {
                self.queue_close(slot, 1000);
            }
        }
        self.flush(handler);
        for stream in self.slots.iter_mut().filter_map(|slot| slot.stream.as_mut()) {
            stream.close();
        }
        self.slots.clear();
    }

    /// Waits for socket events until `until_ns` at most, and handles the events. Returns the number of sockets with
    /// events.
    ///
    /// `between` runs after every 64 events, so that many events do not delay the messages of an open loop.
    pub(crate) fn turn<H: Handler>(
        &mut self,
        until_ns: Option<u64>,
        handler: &mut H,
        mut between: impl FnMut(&mut H, &mut Self),
    ) -> io::Result<usize> {
        let mut ready = mem::take(&mut self.ready);
        self.net.wait(until_ns, &mut ready)?;
        for part in ready.chunks(64) {
            for &event in part {
                self.handle(event, handler);
            }
            between(handler, self);
            self.flush(handler);
        }
        let count = ready.len();
        self.ready = ready;
        Ok(count)
    }

    /// Writes queued bytes to all sockets, as far as the sockets have room.
    pub(crate) fn flush(&mut self, handler: &mut impl Handler) {
        while let Some((slot, end)) = self.failed_attempts.pop() {
            self.end(slot, end, handler);
        }
        while let Some(slot) = self.dirty.pop() {
            self.write(slot, handler);
        }
    }

    /// Ends the opening handshakes and close handshakes that exceed the timeout.
    pub(crate) fn expire(&mut self, now: u64, handler: &mut impl Handler) {
        let timeout_ns = self.options.timeout_ns;
        let is_late = |slot: &&usize| self.slots[**slot].since_ns + timeout_ns < now;
        let late: Vec<usize> = self.pending.iter().filter(is_late).copied().collect();
        self.give_up(&late, handler);
    }

    /// Ends all unfinished opening handshakes and close handshakes, as if they had exceeded the timeout.
    pub(crate) fn give_up_pending(&mut self, handler: &mut impl Handler) {
        let pending: Vec<usize> = self.pending.iter().copied().collect();
        self.is_leaving = true;
        self.give_up(&pending, handler);
    }

    fn give_up(&mut self, slots: &[usize], handler: &mut impl Handler) {
        for &slot in slots {
            let is_closing = self.slots[slot].state == ConnectionState::Closing;
            let end = if is_closing { End::CloseTimedOut } else { End::TimedOut };
            self.end(slot, end, handler);
        }
    }

    /// Starts a connection attempt of `slot` to the target's address with the slot's address index.
    fn connect(&mut self, slot: usize) {
        let entry = &mut self.slots[slot];
        let id = entry.id;
        let target = self.options.target(id);
        entry.outbox.clear();
        entry.written = 0;
        entry.blocked = false;
        entry.client = if self.options.publishes(id) {
            Client::Publisher { may_end: self.options.post.as_ref().is_some_and(|post| post.reconnects) }
        } else {
            Client::start(target, self.options.offer, &mut self.rng, &mut entry.outbox)
        };
        let address = target.address(entry.address % target.address_count(), id);
        match self.net.connect(slot, address).and_then(|socket| self.stream(socket, id)) {
            Ok(stream) => self.slots[slot].stream = Some(stream),
            Err(error) => {
                let end = self.io_end(slot, &error);
                self.failed_attempts.push((slot, end));
            }
        }
    }

    fn stream(&self, socket: TcpStream, id: usize) -> io::Result<Stream> {
        let target = self.options.target(id);
        match &self.options.tls {
            Some(config) if target.is_secure => {
                let name = ServerName::try_from(target.server_name.clone()).map_err(io::Error::other)?;
                Stream::tls(socket, config.clone(), name)
            }
            _ => Ok(Stream::Plain(socket)),
        }
    }

    /// Queues a close frame with `code`. Does nothing on a connection that speaks HTTP, because HTTP has none.
    fn queue_close(&mut self, slot: usize, code: u16) {
        if self.options.target(self.slots[slot].id).protocol == Protocol::WebSocket {
            self.queue(slot, Opcode::Close, &code.to_be_bytes());
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
                self.deflater.deflate(payload, agreed, &mut entry.deflate_state)
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
        let state = self.slots[slot].state;
        if state == ConnectionState::Vacant {
            return;
        }
        let refusals = self.slots[slot].refusals.len();
        if writable && (state == ConnectionState::Opening || self.slots[slot].blocked) {
            self.write(slot, handler);
        }
        // After a refusal the slot has a new socket, but the event was about the old socket.
        if (readable || ended) && self.slots[slot].refusals.len() == refusals {
            self.read(slot, ended, handler);
        }
        let entry = &self.slots[slot];
        if entry.state == ConnectionState::Opening
            && entry.client.needs_no_handshake()
            && entry.stream.as_ref().is_some_and(Stream::is_established)
        {
            self.opened(slot, None);
            handler.on_open(self, slot, now_ns());
        }
    }

    fn write(&mut self, slot: usize, handler: &mut impl Handler) {
        let entry = &mut self.slots[slot];
        let Some(stream) = &mut entry.stream else { return };
        loop {
            let is_done = entry.written == entry.outbox.len();
            let outcome = if is_done {
                stream.flush()
            } else {
                stream.write(&entry.outbox[entry.written..]).map(|count| entry.written += count)
            };
            match outcome {
                Ok(()) if is_done => break,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    entry.blocked = true;
                    return;
                }
                // The write failed, but the server's last bytes are still to be read. The read will find the end of the
                // stream.
                Err(_) if entry.state != ConnectionState::Opening => return,
                Err(error) => {
                    let end = self.io_end(slot, &error);
                    return self.end(slot, end, handler);
                }
            }
        }
        entry.outbox.clear();
        entry.written = 0;
        if mem::take(&mut entry.blocked) && entry.state == ConnectionState::Open {
            handler.on_drained(self, slot);
        }
    }

    fn io_end(&self, slot: usize, error: &io::Error) -> End {
        let Slot { address, id, .. } = self.slots[slot];
        let target = self.options.target(id);
        let address = address % target.address_count();
        End::from_io(error, target.address(address, id), target.is_spread(address, id))
    }

    /// Frees the slot and reports the end to the handler, unless the target has another address to try.
    fn end(&mut self, slot: usize, mut end: End, handler: &mut impl Handler) {
        let entry = &mut self.slots[slot];
        let target = self.options.target(entry.id);
        let addresses = target.address_count();
        let state = entry.state;
        if state == ConnectionState::Vacant {
            return;
        }
        let has_connected =
            (entry.outbox.is_empty() || entry.written > 0) && !entry.client.needs_no_handshake();
        let was_opening = state == ConnectionState::Opening;
        if was_opening && !has_connected && addresses > 1 && end.is_unreachable() && !self.is_leaving {
            entry.refusals.push(end.to_string());
            if entry.refusals.len() < addresses {
                return self.try_next_address(slot);
            }
            let refusals = mem::take(&mut entry.refusals);
            end = End::NoAddress { host: target.host.clone(), refusals };
        }
        let mut entry = mem::take(&mut self.slots[slot]);
        if let Some(stream) = &mut entry.stream {
            stream.close();
        }
        drop(entry);
        self.pending.remove(&slot);
        handler.on_end(slot, end, !was_opening);
    }

    /// Connects the slot to the host's next address, after the attempt at the previous address has failed.
    ///
    /// RFC 6555 would start the next attempt while the first address is still silent. A load generator can wait.
    fn try_next_address(&mut self, slot: usize) {
        let entry = &mut self.slots[slot];
        entry.stream = None;
        entry.inbox = Vec::new();
        entry.address = (entry.address + 1) % self.options.target(entry.id).address_count();
        entry.since_ns = now_ns();
        self.connect(slot);
    }
}
