//! TLS for connections of TLS listeners, as a layer of the [`crate::transport`].
//!
//! The layer decrypts input in place in the backend's buffer. It reports the plaintext in another buffer and returns
//! the backend's buffer at once. It encrypts output in pieces, so a slow reader costs only a copy of one piece. A
//! connection is reported when it is accepted, so limits and deadlines apply to the TLS handshake, too. Bytes that the
//! caller sends before the handshake is complete wait until then.
//!
//! A backend may report many full buffers of one client in a turn. The client's records determine the cost of
//! decrypting. 16 KiB take 3 µs as one long record, 110 µs as records of one byte, and 1,300 µs as key updates. So each
//! turn decrypts only a share of a client's input: about 64 KiB or 256 records, which costs 0.7 ms at worst. The
//! remaining input waits for the next turns. While much input waits, receiving from the client pauses.

mod backlog;
mod connection;
mod expiry;
mod identity;
mod session;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::chunk::Span;
use crate::io::{Backend, Buffer, Close, IoEvent, More, Slot, shorter};
use crate::proxied::ProxyEvent;
use crate::transport::Event;

use self::connection::{NO_HANDSHAKE, Sending, Shutdown, TlsConnection, TlsState};
pub use self::identity::IdentityError;
pub(crate) use self::identity::{Credentials, Identity};

/// Maximum number of handshake steps in one turn. Further steps wait for the next turn, because many steps delay sends
/// to other connections.
const HANDSHAKES_A_TURN: usize = 16;
/// Length of a client's backlog, in bytes, above which receiving from the client pauses. All messages of a client's
/// handshake fit in this length.
const MAX_BACKLOG_LEN: usize = 16 << 10;
/// Longest wait, in milliseconds, for the kernel to take the last record of a closing connection.
const LAST_RECORD_MS: u64 = 10;

/// The transport layer that decrypts and encrypts the connections of TLS listeners.
pub(crate) struct TlsLayer {
    options: TlsOptions,
    /// The state of each TLS connection, by slot; `None` for connections without TLS.
    connections: Vec<Option<Box<TlsConnection>>>,
    /// Number of the current turn, modulo 256.
    turn: u8,
    /// Number of handshake steps left in this turn.
    steps: usize,
    /// The queue of connections whose next handshake step waits for a turn.
    waiting: VecDeque<Slot>,
    /// Connections with a complete handshake whose backlog waits for the next turn.
    served: Vec<Slot>,
    /// Connections that can no longer be written to. The end of the turn reports each failure to the caller.
    failed: Vec<Slot>,
    /// Connections to close after the next poll, in which the kernel sends the last record.
    leaving: Vec<Slot>,
    usage: TlsUsage,
}

/// The configuration of a TLS layer: the listeners with TLS, and the certificate.
#[derive(Clone, Debug)]
pub(crate) struct TlsOptions {
    /// Whether each listener speaks TLS, by index of the listener.
    pub(crate) listeners: Vec<bool>,
    /// The server's certificate and its private key.
    pub(crate) identity: Arc<Identity>,
}

/// An event of the TLS layer itself. `slot` names the connection.
#[derive(Debug)]
pub(crate) enum TlsEvent {
    /// The client does not speak TLS, or no version of TLS that the server knows.
    ///
    /// `is_http`: the client speaks plain HTTP. The connection continues without TLS, so that the caller can answer.
    /// For any other client, further input is ignored, and a send to the client fails. Such a client gets a TLS alert
    /// when the caller shuts the connection down.
    NoTls { slot: Slot, is_http: bool },
}

/// Counters of TLS handshakes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TlsUsage {
    /// Number of completed handshakes.
    pub(crate) handshakes: u64,
    /// Number of completed handshakes that resumed an earlier session.
    pub(crate) resumed: u64,
}

impl TlsLayer {
    /// Makes a TLS layer without connections.
    pub(crate) fn new(options: TlsOptions) -> Self {
        Self {
            options,
            connections: Vec::new(),
            turn: 0,
            steps: 0,
            waiting: VecDeque::new(),
            served: Vec::new(),
            failed: Vec::new(),
            leaving: Vec::new(),
            usage: TlsUsage::default(),
        }
    }

    /// Returns whether the connection has TLS.
    pub(crate) fn has(&self, slot: Slot) -> bool {
        matches!(self.connections.get(slot as usize), Some(Some(_)))
    }

    /// Returns whether the connection has TLS and its TLS handshake is not complete.
    pub(crate) fn awaits_handshake(&self, slot: Slot) -> bool {
        let connection = self.connections.get(slot as usize).and_then(Option::as_ref);
        connection.is_some_and(|connection| !connection.is_ready())
    }

    /// Returns the counters of TLS handshakes so far.
    pub(crate) fn usage(&self) -> TlsUsage {
        self.usage
    }

    /// Shortens the timeout of a poll when the layer has work for the next turn.
    pub(crate) fn limit_wait(&self, timeout: Option<Duration>) -> Option<Duration> {
        let has_work = !self.failed.is_empty() || !self.waiting.is_empty() || !self.served.is_empty();
        let last_record_ms = (!self.leaving.is_empty()).then_some(LAST_RECORD_MS);
        shorter(timeout, if has_work { Some(0) } else { last_record_ms })
    }

    /// Handles the events that the backend and the PROXY layer reported in one turn. Appends the resulting events to
    /// `events`.
    pub(crate) fn turn(
        &mut self,
        backend: &mut impl Backend,
        from_below: impl Iterator<Item = Event>,
        events: &mut Vec<Event>,
    ) {
        let leaving = std::mem::take(&mut self.leaving);
        self.resume_waiting(backend, events);
        for event in from_below {
            match event {
                Event::Io(event) => self.handle(backend, event, events),
                // The connection has no valid PROXY header and its bytes are ignored, so no TLS handshake can follow.
                Event::Proxy(ProxyEvent::Invalid { slot, .. }) if self.is_open(slot) => {
                    self.continue_without_tls(backend, slot);
                    events.push(event);
                }
                other => events.push(other),
            }
        }
        self.close_leaving(backend, leaving);
        self.report_failed(events);
    }

    /// Encrypts `span` and sends it on a connection.
    ///
    /// # Panics
    /// When the connection has another send in flight.
    pub(crate) fn send(&mut self, backend: &mut impl Backend, slot: Slot, span: Span) {
        let connection = self.at(slot);
        assert!(
            connection.plain.is_none() && connection.sending != Sending::Last,
            "slot {slot} has a send under way"
        );
        if connection.state != TlsState::Open {
            // The connection has failed or is being closed, and the caller may not know that yet.
        } else if connection.is_broken || connection.ends_early() {
            self.fail(slot, NO_HANDSHAKE);
        } else {
            connection.plain = Some(span);
            self.pump(backend, slot);
        }
    }

    /// Stops receiving from a connection.
    pub(crate) fn pause(&mut self, backend: &mut impl Backend, slot: Slot) {
        self.at(slot).pause(backend, slot);
    }

    /// Resumes receiving from a connection after `pause`.
    pub(crate) fn resume(&mut self, backend: &mut impl Backend, slot: Slot) {
        self.at(slot).resume(backend, slot);
    }

    /// Sends close_notify and a FIN on a connection, after its send in flight.
    pub(crate) fn shutdown(&mut self, backend: &mut impl Backend, slot: Slot) {
        let connection = self.at(slot);
        if connection.shutdown == Shutdown::No {
            connection.shutdown = Shutdown::Wanted;
            self.pump(backend, slot);
        }
    }

    /// Ends a connection. A graceful close sends close_notify first when no send is in flight.
    pub(crate) fn close(&mut self, backend: &mut impl Backend, slot: Slot, how: Close) {
        let connection = self.at(slot);
        let mut goodbye = Vec::new();
        match connection.state {
            // The alert about the client's TLS error is still in flight.
            TlsState::Open | TlsState::Failed
                if connection.is_broken && connection.sending != Sending::Nothing => {}
            TlsState::Open if how == Close::Graceful && connection.may_say_goodbye() => {
                connection.encode_close_notify(&mut goodbye);
                if !goodbye.is_empty() {
                    connection.sending = Sending::Part;
                    backend.send(slot, Span::of(goodbye), More::Follows);
                }
            }
            _ => connection.sending = Sending::Nothing,
        }
        let is_usable = matches!(connection.state, TlsState::Open | TlsState::Failed);
        if is_usable && connection.sending != Sending::Nothing {
            connection.state = TlsState::Leaving(how);
            self.leaving.push(slot);
        } else {
            connection.state = TlsState::Gone;
            backend.close(slot, how);
        }
    }

    /// Returns the state of a connection that has TLS.
    fn at(&mut self, slot: Slot) -> &mut TlsConnection {
        self.connections[slot as usize].as_mut().expect("callers check that the connection has TLS")
    }

    fn is_open(&self, slot: Slot) -> bool {
        let connection = self.connections.get(slot as usize).and_then(Option::as_ref);
        connection.is_some_and(|connection| connection.state == TlsState::Open)
    }

    /// Handles an event of the backend. Appends the resulting events to `events`.
    fn handle(&mut self, backend: &mut impl Backend, event: IoEvent, events: &mut Vec<Event>) {
        match event {
            IoEvent::Accepted { slot, listener, .. } => {
                self.accepted(slot, listener);
                events.push(event.into());
            }
            IoEvent::Received { slot, buffer } if self.has(slot) => {
                self.received(backend, slot, buffer, events);
            }
            IoEvent::Sent { slot } if self.has(slot) => self.sent(backend, slot, events),
            IoEvent::Ended { slot } if self.has(slot) => {
                let connection = self.at(slot);
                if connection.backlog.is_empty() {
                    events.extend(connection.end(slot));
                } else {
                    // The end of the stream is handled after the waiting input. Otherwise, one turn would answer all of
                    // many clients that send a hello and leave.
                    connection.end_waits = true;
                }
            }
            IoEvent::Failed { slot, .. } if self.has(slot) => {
                let connection = self.at(slot);
                match std::mem::replace(&mut connection.state, TlsState::Gone) {
                    TlsState::Open | TlsState::Failing(_) => events.push(event.into()),
                    TlsState::Leaving(how) => backend.close(slot, how),
                    TlsState::Failed | TlsState::Gone => {}
                }
            }
            IoEvent::Closed { slot } if self.has(slot) => {
                self.connections[slot as usize] = None;
                events.push(event.into());
            }
            other => events.push(other.into()),
        }
    }

    fn accepted(&mut self, slot: Slot, listener: u16) {
        if !self.options.listeners.get(usize::from(listener)).is_some_and(|has_tls| *has_tls) {
            return;
        }
        let index = slot as usize;
        if index >= self.connections.len() {
            self.connections.resize_with(index + 1, || None);
        }
        self.connections[index] = Some(Box::default());
    }

    fn received(
        &mut self,
        backend: &mut impl Backend,
        slot: Slot,
        mut buffer: Buffer,
        events: &mut Vec<Event>,
    ) {
        let connection = self.at(slot);
        let is_first = connection.session.is_none() && connection.backlog.is_empty();
        let input = buffer.bytes_mut();
        if !connection.is_listening() {
            events.extend(connection.discard(slot, input.len()));
        } else if is_first && is_http(input) {
            self.continue_without_tls(backend, slot);
            events.push(TlsEvent::NoTls { slot, is_http: true }.into());
        } else {
            self.take_input(backend, slot, input, events);
        }
        backend.recycle(buffer);
    }

    /// Decrypts as much new input of a connection as the turn allows. Appends the remaining input to the backlog.
    fn take_input(
        &mut self,
        backend: &mut impl Backend,
        slot: Slot,
        input: &mut [u8],
        events: &mut Vec<Event>,
    ) {
        let has_steps = self.steps > 0;
        let connection = self.at(slot);
        let is_served = connection.backlog.is_empty() && (connection.is_ready() || has_steps);
        let taken = if is_served { self.decrypt(backend, slot, input, events) } else { 0 };
        let connection = self.at(slot);
        if taken == input.len() || !connection.is_listening() {
            return;
        }
        let is_new = connection.backlog.is_empty();
        connection.backlog.push(&input[taken..]);
        if connection.backlog.len() > MAX_BACKLOG_LEN {
            connection.hold(backend, slot);
        }
        if is_new {
            self.enlist(slot);
        }
    }

    /// Lists a connection whose backlog waits for the next turn, in `served` or `waiting`.
    fn enlist(&mut self, slot: Slot) {
        if self.at(slot).is_ready() {
            self.served.push(slot);
        } else {
            self.waiting.push_back(slot);
        }
    }

    /// Begins a turn: decrypts a share of each backlog in `served`, and as many waiting handshakes as a turn allows.
    fn resume_waiting(&mut self, backend: &mut impl Backend, events: &mut Vec<Event>) {
        self.turn = self.turn.wrapping_add(1);
        self.steps = HANDSHAKES_A_TURN;
        for slot in std::mem::take(&mut self.served) {
            self.take_backlog(backend, slot, events);
        }
        // A connection that joins `waiting` again in this loop has had its share of this turn.
        let mut left = self.waiting.len();
        while self.steps > 0
            && left > 0
            && let Some(slot) = self.waiting.pop_front()
        {
            left -= 1;
            self.take_backlog(backend, slot, events);
        }
    }

    /// Decrypts as much of a connection's backlog as the turn allows.
    fn take_backlog(&mut self, backend: &mut impl Backend, slot: Slot, events: &mut Vec<Event>) {
        // The connection may have closed since it was added to the list.
        let Some(connection) = &mut self.connections[slot as usize] else { return };
        let mut backlog = std::mem::take(&mut connection.backlog);
        if !backlog.is_empty() && connection.is_listening() {
            let taken = self.decrypt(backend, slot, backlog.bytes_mut(), events);
            backlog.advance(taken);
        }
        let connection = self.at(slot);
        if !backlog.is_empty() && connection.is_listening() {
            connection.backlog = backlog;
            return self.enlist(slot);
        }
        connection.release(backend, slot);
        if connection.end_waits {
            events.extend(connection.end(slot));
        }
    }

    /// Decrypts input up to the connection's share of the turn, and reports the plaintext. Returns the number of input
    /// bytes that were processed.
    fn decrypt(
        &mut self,
        backend: &mut impl Backend,
        slot: Slot,
        input: &mut [u8],
        events: &mut Vec<Event>,
    ) -> usize {
        let connection =
            self.connections[slot as usize].as_mut().expect("callers check that the connection has TLS");
        if !connection.is_ready() {
            self.steps = self.steps.saturating_sub(1);
        }
        let mut plaintext = Vec::new();
        let (taken, result) = connection.receive(&self.options.identity, self.turn, input, &mut plaintext);
        if connection.is_ready() && !std::mem::replace(&mut connection.is_counted, true) {
            self.usage.handshakes += 1;
            self.usage.resumed += u64::from(connection.is_resumed());
        }
        if !plaintext.is_empty() {
            events.push(IoEvent::Received { slot, buffer: Buffer::of(plaintext) }.into());
        }
        match result {
            Ok(()) if connection.has_peer_closed() => events.extend(connection.end(slot)),
            Ok(()) => {}
            Err(error) => events.push(connection.break_off(slot, error)),
        }
        self.pump(backend, slot);
        taken
    }

    /// Removes TLS from a connection whose client has not started TLS, so that the caller can answer the client.
    fn continue_without_tls(&mut self, backend: &mut impl Backend, slot: Slot) {
        let connection =
            self.connections[slot as usize].take().expect("callers check that the connection has TLS");
        if let Some(span) = connection.plain {
            backend.send(slot, span, More::Follows);
        }
        if connection.shutdown == Shutdown::Wanted {
            backend.shutdown(slot);
        }
    }

    fn sent(&mut self, backend: &mut impl Backend, slot: Slot, events: &mut Vec<Event>) {
        let connection = self.at(slot);
        let sending = std::mem::replace(&mut connection.sending, Sending::Nothing);
        match connection.state {
            TlsState::Open | TlsState::Failed => {
                if sending == Sending::Last {
                    events.push(IoEvent::Sent { slot }.into());
                }
                self.pump(backend, slot);
            }
            TlsState::Leaving(how) => {
                connection.state = TlsState::Gone;
                backend.close(slot, how);
            }
            TlsState::Failing(_) | TlsState::Gone => {}
        }
    }

    /// Starts the connection's next send, if none is in flight: first TLS handshake messages, tickets and alerts, then
    /// the next piece of the caller's send.
    fn pump(&mut self, backend: &mut impl Backend, slot: Slot) {
        let connection = self.at(slot);
        if !connection.may_send() {
            return;
        }
        let mut out = connection.take_outgoing();
        let Ok(is_last) = connection.encrypt(&mut out) else {
            return self.fail(slot, "the keys of the TLS connection are used up");
        };
        let is_end = connection.shutdown == Shutdown::Wanted && connection.plain.is_none();
        if is_end {
            connection.encode_close_notify(&mut out);
        }
        if is_last || !out.is_empty() {
            connection.sending = if is_last { Sending::Last } else { Sending::Part };
            backend.send(slot, Span::of(out), More::Follows);
        }
        if is_end {
            connection.shutdown = Shutdown::Done;
            backend.shutdown(slot);
        }
    }

    /// Marks a connection as failed, because its client can never read the bytes to send.
    fn fail(&mut self, slot: Slot, why: &'static str) {
        self.at(slot).state = TlsState::Failing(why);
        self.failed.push(slot);
    }

    /// Reports the failure of connections that can no longer be written to, unless the caller has closed the
    /// connection.
    fn report_failed(&mut self, events: &mut Vec<Event>) {
        for slot in std::mem::take(&mut self.failed) {
            let Some(connection) = &mut self.connections[slot as usize] else { continue };
            if let TlsState::Failing(why) = connection.state {
                connection.state = TlsState::Gone;
                events.push(IoEvent::Failed { slot, error: io::Error::other(why) }.into());
            }
        }
    }

    /// Closes connections whose last record has had a turn to be sent.
    fn close_leaving(&mut self, backend: &mut impl Backend, leaving: Vec<Slot>) {
        for slot in leaving {
            let Some(connection) = &mut self.connections[slot as usize] else { continue };
            if let TlsState::Leaving(how) = connection.state {
                connection.state = TlsState::Gone;
                backend.close(slot, how);
            }
        }
    }
}

/// Returns whether a connection's first bytes start a plain HTTP request: a method name instead of the type of a TLS
/// record.
fn is_http(input: &[u8]) -> bool {
    input.first().is_some_and(u8::is_ascii_uppercase)
}
