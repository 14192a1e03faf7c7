//! TLS between a backend and what is above it: [`Secure`] is a backend over another one. Neither of them knows, and
//! connections of listeners without TLS pass through.
//!
//! What arrives is decrypted where it lies; what it holds goes up in a buffer of its own, and the backend's buffer goes
//! back at once. What is sent is encrypted in pieces, so that a slow reader costs the copy of one. A connection is
//! reported as soon as it is accepted, so that limits and deadlines hold for the TLS handshake; what is sent before
//! that is over waits for it.
//!
//! A ring may report all that a client has sent, as many buffers as there are, and what it costs to decrypt them depends
//! on the client: 16 KiB of the longest records take 3 µs, of records of one byte 110 µs, of messages about new keys
//! 1,300 µs. So a client has a share of each turn, about 64 KiB or 256 records, which comes to 0.7 ms at worst. The rest
//! of what came waits for the next turns, and the client is not received from while that is much.

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
use crate::io::{Backend, Buffer, Close, Event, Slot, Usage, Waker, shorter};

use connection::{NO_HANDSHAKE, Phase, Secured, Sending, Shutdown};
pub use identity::IdentityError;
pub(crate) use identity::{Credentials, Identity};

/// Steps of handshakes in one turn; more of them wait for the next one, after what others sent.
const HANDSHAKES_A_TURN: usize = 16;
/// Bytes that a client may have waiting for its turn before it is no longer received from. The messages of a client's
/// handshake fit in.
const MAX_BACKLOG_LEN: usize = 16 << 10;
/// Longest wait, in milliseconds, for the kernel to take the last record of a connection.
const FAREWELL_MS: u64 = 10;

/// A backend some of whose listeners speak TLS.
pub(crate) struct Secure<B> {
    inner: B,
    /// `None` when no listener does.
    tls: Option<Tls>,
}

/// Which listeners speak TLS, and how.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// By their index.
    pub(crate) listeners: Vec<bool>,
    pub(crate) identity: Arc<Identity>,
}

struct Tls {
    terms: Terms,
    /// By slot; `None` for connections without TLS.
    secured: Vec<Option<Box<Secured>>>,
    /// Room for what the inner backend reports.
    reported: Vec<Event>,
    /// Number of the turn, as far as it fits.
    turn: u8,
    /// Steps of handshakes that are left in this turn.
    steps: usize,
    /// Connections that wait with a step of their handshake.
    waiting: VecDeque<Slot>,
    /// Connections that have had their share of the last turn.
    served: Vec<Slot>,
    /// Connections that could not be written to, to be reported.
    failed: Vec<Slot>,
    /// Connections that are closed after the next poll, in which their last record is sent.
    leaving: Vec<Slot>,
    usage: TlsUsage,
}

/// What the handshakes came to.
#[derive(Clone, Copy, Debug, Default)]
struct TlsUsage {
    handshakes: u64,
    resumed: u64,
}

impl<B: Backend> Secure<B> {
    /// The backend with TLS for some of its listeners.
    pub(crate) fn new(inner: B, terms: Option<Terms>) -> Self {
        let tls = terms.map(|terms| Tls {
            terms,
            secured: Vec::new(),
            reported: Vec::new(),
            turn: 0,
            steps: 0,
            waiting: VecDeque::new(),
            served: Vec::new(),
            failed: Vec::new(),
            leaving: Vec::new(),
            usage: TlsUsage::default(),
        });
        Self { inner, tls }
    }

    /// The TLS side of a connection that has one, and the inner backend.
    fn secured(&mut self, slot: Slot) -> Option<(&mut Tls, &mut B)> {
        let tls = self.tls.as_mut().filter(|tls| tls.has(slot))?;
        Some((tls, &mut self.inner))
    }
}

impl Tls {
    fn has(&self, slot: Slot) -> bool {
        matches!(self.secured.get(slot as usize), Some(Some(_)))
    }

    fn at(&mut self, slot: Slot) -> &mut Secured {
        self.secured[slot as usize].as_mut().expect("checked by the callers")
    }

    fn limit_wait(&self, timeout: Option<Duration>) -> Option<Duration> {
        let has_work = !self.failed.is_empty() || !self.waiting.is_empty() || !self.served.is_empty();
        let farewell_ms = (!self.leaving.is_empty()).then_some(FAREWELL_MS);
        shorter(timeout, if has_work { Some(0) } else { farewell_ms })
    }

    /// Passes on what the inner backend reported, as the caller is to see it.
    fn handle(&mut self, inner: &mut impl Backend, event: Event, events: &mut Vec<Event>) {
        match event {
            Event::Accepted { slot, listener, .. } => {
                self.accepted(slot, listener);
                events.push(event);
            }
            Event::Received { slot, buffer } if self.has(slot) => self.received(inner, slot, buffer, events),
            Event::Sent { slot } if self.has(slot) => self.sent(inner, slot, events),
            Event::Ended { slot } if self.has(slot) => {
                let secured = self.at(slot);
                if secured.backlog.is_empty() {
                    events.extend(secured.end(slot));
                } else {
                    // Behind what waits, or many who say hello and leave would be answered all at once.
                    secured.end_waits = true;
                }
            }
            Event::Failed { slot, .. } if self.has(slot) => {
                let secured = self.at(slot);
                match std::mem::replace(&mut secured.phase, Phase::Gone) {
                    Phase::Open | Phase::Failing(_) => events.push(event),
                    Phase::Leaving(how) => inner.close(slot, how),
                    Phase::Failed | Phase::Gone => {}
                }
            }
            // What it sends counts for nothing, so there will be no handshake.
            Event::Unproxied { slot, .. } if self.has(slot) && self.at(slot).phase == Phase::Open => {
                self.go_plain(inner, slot);
                events.push(event);
            }
            Event::Closed { slot } if self.has(slot) => {
                self.secured[slot as usize] = None;
                events.push(event);
            }
            other => events.push(other),
        }
    }

    fn accepted(&mut self, slot: Slot, listener: u16) {
        if !self.terms.listeners.get(usize::from(listener)).is_some_and(|has_tls| *has_tls) {
            return;
        }
        let index = slot as usize;
        if index >= self.secured.len() {
            self.secured.resize_with(index + 1, || None);
        }
        self.secured[index] = Some(Box::default());
    }

    fn received(
        &mut self,
        inner: &mut impl Backend,
        slot: Slot,
        mut buffer: Buffer,
        events: &mut Vec<Event>,
    ) {
        let secured = self.at(slot);
        let is_first = secured.session.is_none() && secured.backlog.is_empty();
        let input = buffer.bytes_mut();
        if !secured.listens() {
            events.extend(secured.discard(slot, input.len()));
        } else if is_first && is_http(input) {
            self.go_plain(inner, slot);
            events.push(Event::Insecure { slot, is_http: true });
        } else {
            self.arrived(inner, slot, input, events);
        }
        inner.recycle(buffer);
    }

    /// Takes in as much of what arrived as the turn allows; the rest waits for the next one.
    fn arrived(&mut self, inner: &mut impl Backend, slot: Slot, input: &mut [u8], events: &mut Vec<Event>) {
        let steps = self.steps;
        let secured = self.at(slot);
        let is_served = secured.backlog.is_empty() && (secured.is_ready() || steps > 0);
        let taken = if is_served { self.take_in(inner, slot, input, events) } else { 0 };
        let secured = self.at(slot);
        if taken == input.len() || !secured.listens() {
            return;
        }
        let is_new = secured.backlog.is_empty();
        secured.backlog.push(&input[taken..]);
        if secured.backlog.len() > MAX_BACKLOG_LEN {
            secured.hold(inner, slot);
        }
        if is_new {
            self.list(slot);
        }
    }

    /// Has a connection go on in the next turn.
    fn list(&mut self, slot: Slot) {
        if self.at(slot).is_ready() {
            self.served.push(slot);
        } else {
            self.waiting.push_back(slot);
        }
    }

    /// Goes on with what has waited, with handshakes as far as a turn goes.
    fn resume_waiting(&mut self, inner: &mut impl Backend, events: &mut Vec<Event>) {
        self.turn = self.turn.wrapping_add(1);
        self.steps = HANDSHAKES_A_TURN;
        for slot in std::mem::take(&mut self.served) {
            self.take_backlog(inner, slot, events);
        }
        // Who is listed again meanwhile has had its share of this turn.
        let mut left = self.waiting.len();
        while self.steps > 0
            && left > 0
            && let Some(slot) = self.waiting.pop_front()
        {
            left -= 1;
            self.take_backlog(inner, slot, events);
        }
    }

    /// Takes in as much of what has waited as the turn allows.
    fn take_backlog(&mut self, inner: &mut impl Backend, slot: Slot, events: &mut Vec<Event>) {
        // What was listed may be gone.
        let Some(secured) = &mut self.secured[slot as usize] else { return };
        let mut backlog = std::mem::take(&mut secured.backlog);
        if !backlog.is_empty() && secured.listens() {
            let taken = self.take_in(inner, slot, backlog.bytes_mut(), events);
            backlog.advance(taken);
        }
        let secured = self.at(slot);
        if !backlog.is_empty() && secured.listens() {
            secured.backlog = backlog;
            return self.list(slot);
        }
        secured.release(inner, slot);
        if secured.end_waits {
            events.extend(secured.end(slot));
        }
    }

    /// Takes in a share of what arrived. Returns how many bytes that are.
    fn take_in(
        &mut self,
        inner: &mut impl Backend,
        slot: Slot,
        input: &mut [u8],
        events: &mut Vec<Event>,
    ) -> usize {
        let secured = self.secured[slot as usize].as_mut().expect("checked by the callers");
        if !secured.is_ready() {
            self.steps = self.steps.saturating_sub(1);
        }
        let mut plaintext = Vec::new();
        let (taken, result) = secured.receive(&self.terms.identity, self.turn, input, &mut plaintext);
        if secured.is_ready() && !std::mem::replace(&mut secured.counted, true) {
            self.usage.handshakes += 1;
            self.usage.resumed += u64::from(secured.is_resumed());
        }
        if !plaintext.is_empty() {
            events.push(Event::Received { slot, buffer: Buffer::of(plaintext) });
        }
        match result {
            Ok(()) if secured.peer_closed() => events.extend(secured.end(slot)),
            Ok(()) => {}
            Err(error) => events.push(secured.broke(slot, error)),
        }
        self.pump(inner, slot);
        taken
    }

    /// Goes on without TLS, with a client that has not begun it, so that it can be told what it did wrong.
    fn go_plain(&mut self, inner: &mut impl Backend, slot: Slot) {
        let secured = self.secured[slot as usize].take().expect("checked by the caller");
        if let Some(span) = secured.plain {
            inner.send(slot, span);
        }
        if secured.shutdown == Shutdown::Wanted {
            inner.shutdown(slot);
        }
    }

    fn sent(&mut self, inner: &mut impl Backend, slot: Slot, events: &mut Vec<Event>) {
        let secured = self.at(slot);
        let sending = std::mem::replace(&mut secured.sending, Sending::Nothing);
        match secured.phase {
            Phase::Open | Phase::Failed => {
                if sending == Sending::Last {
                    events.push(Event::Sent { slot });
                }
                self.pump(inner, slot);
            }
            Phase::Leaving(how) => {
                secured.phase = Phase::Gone;
                inner.close(slot, how);
            }
            Phase::Failing(_) | Phase::Gone => {}
        }
    }

    /// Sends what can be sent now: what TLS has to say first, then a piece of what the caller sends.
    fn pump(&mut self, inner: &mut impl Backend, slot: Slot) {
        let secured = self.secured[slot as usize].as_mut().expect("checked by the callers");
        if !secured.may_send() {
            return;
        }
        let mut out = secured.take_outgoing();
        let Ok(is_last) = secured.encrypt(&mut out) else {
            return self.fail(slot, "the keys of the TLS connection are used up");
        };
        let is_end = secured.shutdown == Shutdown::Wanted && secured.plain.is_none();
        if is_end {
            secured.say_goodbye(&mut out);
        }
        if is_last || !out.is_empty() {
            secured.sending = if is_last { Sending::Last } else { Sending::Part };
            inner.send(slot, Span::of(out));
        }
        if is_end {
            secured.shutdown = Shutdown::Done;
            inner.shutdown(slot);
        }
    }

    fn close(&mut self, inner: &mut impl Backend, slot: Slot, how: Close) {
        let secured = self.at(slot);
        let mut goodbye = Vec::new();
        match secured.phase {
            // What was wrong is still being told.
            Phase::Open | Phase::Failed if secured.broken && secured.sending != Sending::Nothing => {}
            Phase::Open if how == Close::Graceful && secured.is_silent() => {
                secured.say_goodbye(&mut goodbye);
                if !goodbye.is_empty() {
                    secured.sending = Sending::Part;
                    inner.send(slot, Span::of(goodbye));
                }
            }
            _ => secured.sending = Sending::Nothing,
        }
        if matches!(secured.phase, Phase::Open | Phase::Failed) && secured.sending != Sending::Nothing {
            secured.phase = Phase::Leaving(how);
            self.leaving.push(slot);
        } else {
            secured.phase = Phase::Gone;
            inner.close(slot, how);
        }
    }

    /// Has the connection reported as failed, since what is sent can never be read.
    fn fail(&mut self, slot: Slot, why: &'static str) {
        self.at(slot).phase = Phase::Failing(why);
        self.failed.push(slot);
    }

    /// Reports connections that cannot be written to any more, unless they were closed meanwhile.
    fn report_failed(&mut self, events: &mut Vec<Event>) {
        for slot in std::mem::take(&mut self.failed) {
            let Some(secured) = &mut self.secured[slot as usize] else { continue };
            if let Phase::Failing(why) = secured.phase {
                secured.phase = Phase::Gone;
                events.push(Event::Failed { slot, error: io::Error::other(why) });
            }
        }
    }

    /// Closes those whose last record had its time.
    fn let_go(&mut self, inner: &mut impl Backend, leaving: Vec<Slot>) {
        for slot in leaving {
            let Some(secured) = &mut self.secured[slot as usize] else { continue };
            if let Phase::Leaving(how) = secured.phase {
                secured.phase = Phase::Gone;
                inner.close(slot, how);
            }
        }
    }
}

/// Whether the first bytes of a connection begin a request in plain HTTP: a method, where a type of record should be.
fn is_http(input: &[u8]) -> bool {
    input.first().is_some_and(u8::is_ascii_uppercase)
}

impl<B: Backend> Backend for Secure<B> {
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.inner.poll(timeout, events) };
        let mut reported = std::mem::take(&mut tls.reported);
        self.inner.poll(tls.limit_wait(timeout), &mut reported)?;
        let leaving = std::mem::take(&mut tls.leaving);
        tls.resume_waiting(&mut self.inner, events);
        for event in reported.drain(..) {
            tls.handle(&mut self.inner, event, events);
        }
        tls.reported = reported;
        tls.let_go(&mut self.inner, leaving);
        tls.report_failed(events);
        Ok(())
    }

    fn send(&mut self, slot: Slot, span: Span) {
        let Some((tls, inner)) = self.secured(slot) else { return self.inner.send(slot, span) };
        let secured = tls.at(slot);
        assert!(
            secured.plain.is_none() && secured.sending != Sending::Last,
            "slot {slot} has a send under way"
        );
        if secured.phase != Phase::Open {
            // It has failed, or is being closed.
        } else if secured.broken || secured.ends_early() {
            tls.fail(slot, NO_HANDSHAKE);
        } else {
            secured.plain = Some(span);
            tls.pump(inner, slot);
        }
    }

    fn send_last(&mut self, slot: Slot, span: Span) {
        match self.secured(slot) {
            // The record that says so is still to come.
            Some(_) => self.send(slot, span),
            None => self.inner.send_last(slot, span),
        }
    }

    fn pause(&mut self, slot: Slot) {
        match self.secured(slot) {
            Some((tls, inner)) => tls.at(slot).pause(inner, slot),
            None => self.inner.pause(slot),
        }
    }

    fn resume(&mut self, slot: Slot) {
        match self.secured(slot) {
            Some((tls, inner)) => tls.at(slot).resume(inner, slot),
            None => self.inner.resume(slot),
        }
    }

    fn shutdown(&mut self, slot: Slot) {
        let Some((tls, inner)) = self.secured(slot) else { return self.inner.shutdown(slot) };
        let secured = tls.at(slot);
        if secured.shutdown == Shutdown::No {
            secured.shutdown = Shutdown::Wanted;
            tls.pump(inner, slot);
        }
    }

    fn close(&mut self, slot: Slot, how: Close) {
        match self.secured(slot) {
            Some((tls, inner)) => tls.close(inner, slot, how),
            None => self.inner.close(slot, how),
        }
    }

    fn recycle(&mut self, buffer: Buffer) {
        if !buffer.is_own() {
            self.inner.recycle(buffer);
        }
    }

    fn stop_accepting(&mut self) {
        self.inner.stop_accepting();
    }

    fn has_stopped(&self) -> bool {
        self.inner.has_stopped()
    }

    fn now_ns(&self) -> u64 {
        self.inner.now_ns()
    }

    fn clock_ns(&self) -> u64 {
        self.inner.clock_ns()
    }

    fn usage(&self) -> Usage {
        let own = self.tls.as_ref().map(|tls| tls.usage).unwrap_or_default();
        Usage { tls_handshakes: own.handshakes, tls_resumed: own.resumed, ..self.inner.usage() }
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }
}
