//! The layers between a backend and the shard: PROXY headers ([`ProxyLayer`]), and above that TLS ([`TlsLayer`]).
//!
//! A [`Transport`] owns the backend and both layers. The shard makes its requests to the transport, and handles
//! [`Event`]s of the kernel and of the layers. The rules of [`crate::io`] apply to the transport, too.
//!
//! A server without TLS and without PROXY headers has no layers. The backend then writes straight into the list that
//! the shard drains. Requests go straight to the backend.

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use crate::chunk::Span;
use crate::io::clock::NS_PER_MS;
use crate::io::{Backend, Buffer, Close, IoEvent, More, SendProgress, Slot, Usage, Waker};
#[cfg(test)]
use crate::io::{Uring, uring::Kernel};
use crate::proxied::{ProxyEvent, ProxyLayer};
use crate::tls::{TlsEvent, TlsLayer, TlsUsage};

/// A backend and the layers over it.
pub(crate) struct Transport<B> {
    backend: B,
    layers: Option<Layers>,
    /// Time when the last wait ended, in nanoseconds.
    now_ns: u64,
}

/// The layers that the server's options require.
#[derive(Default)]
pub(crate) struct Layers {
    /// The layer that reads PROXY headers. `None` when no connection begins with a PROXY header.
    pub(crate) proxy: Option<ProxyLayer>,
    /// The TLS layer. `None` when no listener speaks TLS.
    pub(crate) tls: Option<TlsLayer>,
}

/// An event that the transport reports to the shard.
#[derive(Debug)]
pub(crate) enum Event {
    /// An event of the backend, or of the TLS layer in place of the backend. The bytes of `Received` are plaintext.
    Io(IoEvent),
    /// An event about a PROXY header.
    Proxy(ProxyEvent),
    /// An event of the TLS layer itself.
    Tls(TlsEvent),
}

impl From<IoEvent> for Event {
    fn from(event: IoEvent) -> Self {
        Self::Io(event)
    }
}

impl From<ProxyEvent> for Event {
    fn from(event: ProxyEvent) -> Self {
        Self::Proxy(event)
    }
}

impl From<TlsEvent> for Event {
    fn from(event: TlsEvent) -> Self {
        Self::Tls(event)
    }
}

/// The list of events of one turn. [`Transport::poll`] fills the list, and the shard drains it.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Events of the backend. Empty after a poll if there are layers, which have handled the events.
    reported: Vec<IoEvent>,
    /// Events from the PROXY layer that the TLS layer has not handled yet.
    unwrapped: Vec<Event>,
    /// Events from the topmost layer, ready for the shard. Empty without layers.
    layered: Vec<Event>,
}

impl Events {
    /// Returns the number of events in the list.
    pub(crate) fn len(&self) -> usize {
        self.reported.len() + self.layered.len()
    }

    /// Drains the list: removes all events and returns the events in order.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Event> {
        self.reported.drain(..).map(Event::Io).chain(self.layered.drain(..))
    }
}

#[cfg(test)]
impl Events {
    /// Makes the list of a turn's events for a test.
    pub(crate) fn of(events: impl IntoIterator<Item = IoEvent>) -> Self {
        Self { reported: events.into_iter().collect(), ..Self::default() }
    }
}

impl<B: Backend> Transport<B> {
    /// Makes a transport from a backend and its layers.
    pub(crate) fn new(backend: B, layers: Layers) -> Self {
        let has_layers = layers.proxy.is_some() || layers.tls.is_some();
        Self { now_ns: backend.now_ns(), backend, layers: has_layers.then_some(layers) }
    }

    /// Polls the backend, and passes its events through the layers to `events`. See [`Backend::poll`].
    ///
    /// # Errors
    /// When the backend's io_uring or epoll instance is broken.
    pub(crate) fn poll(&mut self, timeout: Option<Duration>, events: &mut Events) -> io::Result<()> {
        let timeout = self.layers.as_ref().map_or(timeout, |layers| layers.limit_wait(timeout));
        self.now_ns = self.backend.poll(timeout, &mut events.reported)?;
        if let Some(layers) = &mut self.layers {
            layers.handle(&mut self.backend, events);
        }
        Ok(())
    }

    /// Sends `span` on a connection. See [`Backend::send`].
    pub(crate) fn send(&mut self, slot: Slot, span: Span, more: More) {
        match self.tls(slot) {
            Some((tls, backend)) => tls.send(backend, slot, span),
            None => self.backend.send(slot, span, more),
        }
    }

    /// Returns the progress of the backend's send in flight on a connection. See [`Backend::send_progress`].
    pub(crate) fn send_progress(&self, slot: Slot) -> Option<SendProgress> {
        self.backend.send_progress(slot)
    }

    /// Asks the kernel for the progress of the send in flight on a connection. See [`Backend::nudge`].
    pub(crate) fn nudge(&mut self, slot: Slot) {
        self.backend.nudge(slot);
    }

    /// Stops receiving from a connection. See [`Backend::pause`].
    pub(crate) fn pause(&mut self, slot: Slot) {
        match self.tls(slot) {
            Some((tls, backend)) => tls.pause(backend, slot),
            None => self.backend.pause(slot),
        }
    }

    /// Resumes receiving from a connection. See [`Backend::resume`].
    pub(crate) fn resume(&mut self, slot: Slot) {
        match self.tls(slot) {
            Some((tls, backend)) => tls.resume(backend, slot),
            None => self.backend.resume(slot),
        }
    }

    /// Sends a FIN on a connection after its send in flight. See [`Backend::shutdown`].
    pub(crate) fn shutdown(&mut self, slot: Slot) {
        match self.tls(slot) {
            Some((tls, backend)) => tls.shutdown(backend, slot),
            None => self.backend.shutdown(slot),
        }
    }

    /// Ends a connection. See [`Backend::close`].
    pub(crate) fn close(&mut self, slot: Slot, how: Close) {
        match self.tls(slot) {
            Some((tls, backend)) => tls.close(backend, slot, how),
            None => self.backend.close(slot, how),
        }
    }

    /// Takes a receive buffer back from the shard. See [`Backend::recycle`].
    pub(crate) fn recycle(&mut self, buffer: Buffer) {
        // The TLS layer reports plaintext in buffers that do not belong to the backend.
        if !buffer.is_unowned() {
            self.backend.recycle(buffer);
        }
    }

    /// Closes the listeners. See [`Backend::stop_accepting`].
    pub(crate) fn stop_accepting(&mut self) {
        self.backend.stop_accepting();
    }

    /// Returns whether [`Self::stop_accepting`] is complete. See [`Backend::has_stopped`].
    pub(crate) fn has_stopped(&self) -> bool {
        self.backend.has_stopped()
    }

    /// Returns the time when the last wait ended, in nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Returns the time when the last wait ended, in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ns / NS_PER_MS
    }

    /// Reads the backend's clock, in nanoseconds.
    pub(crate) fn clock_ns(&self) -> u64 {
        self.backend.now_ns()
    }

    /// Returns the backend's counters and sizes.
    pub(crate) fn usage(&self) -> Usage {
        self.backend.usage()
    }

    /// Returns the TLS layer's counters, or zeros without a TLS layer.
    pub(crate) fn tls_usage(&self) -> TlsUsage {
        let tls = self.layers.as_ref().and_then(|layers| layers.tls.as_ref());
        tls.map(TlsLayer::usage).unwrap_or_default()
    }

    /// Returns a handle with which other threads end the wait of a poll. See [`Backend::waker`].
    pub(crate) fn waker(&self) -> Waker {
        self.backend.waker()
    }

    /// Returns whether the connection has TLS and its TLS handshake is not complete.
    pub(crate) fn awaits_handshake(&self, slot: Slot) -> bool {
        let tls = self.layers.as_ref().and_then(|layers| layers.tls.as_ref());
        tls.is_some_and(|tls| tls.awaits_handshake(slot))
    }

    /// Returns the TLS layer and the backend if the connection has TLS, else `None`.
    fn tls(&mut self, slot: Slot) -> Option<(&mut TlsLayer, &mut B)> {
        let tls = self.layers.as_mut()?.tls.as_mut().filter(|tls| tls.has(slot))?;
        Some((tls, &mut self.backend))
    }
}

impl Layers {
    /// Shortens the timeout of a poll when a layer has work that must not wait.
    fn limit_wait(&self, timeout: Option<Duration>) -> Option<Duration> {
        self.tls.as_ref().map_or(timeout, |tls| tls.limit_wait(timeout))
    }

    /// Passes the backend's events through the layers: PROXY headers first, then TLS.
    fn handle(&mut self, backend: &mut impl Backend, events: &mut Events) {
        let Events { reported, unwrapped, layered } = events;
        let out = if self.tls.is_some() { &mut *unwrapped } else { &mut *layered };
        match &mut self.proxy {
            Some(proxy) => reported.drain(..).for_each(|event| proxy.handle(backend, event, out)),
            None => out.extend(reported.drain(..).map(Event::Io)),
        }
        if let Some(tls) = &mut self.tls {
            tls.turn(backend, unwrapped.drain(..), layered);
        }
    }
}

/// Functions for tests and for the simulation.
#[cfg(test)]
impl<B: Backend> Transport<B> {
    /// Makes a transport without layers.
    pub(crate) fn plain(backend: B) -> Self {
        Self::new(backend, Layers::default())
    }

    /// Returns the backend, for a test that drives it.
    pub(crate) fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Returns the TLS layer, for a test that inspects it.
    pub(crate) fn tls_layer(&mut self) -> Option<&mut TlsLayer> {
        self.layers.as_mut()?.tls.as_mut()
    }
}

/// The two halves of a poll. The simulation runs its kernel between the two.
#[cfg(test)]
impl<K: Kernel> Transport<Uring<K>> {
    /// Runs the half of a poll before the wait. Returns the longest allowed wait, or `None` for no limit.
    pub(crate) fn begin(&mut self, timeout: Option<Duration>, events: &mut Events) -> Option<Duration> {
        self.backend.begin(timeout, &mut events.reported)
    }

    /// Runs the half of a poll after the wait.
    ///
    /// # Errors
    /// When the backend's io_uring or epoll instance is broken.
    pub(crate) fn end(&mut self, events: &mut Events) -> io::Result<()> {
        self.now_ns = self.backend.end(&mut events.reported)?;
        Ok(())
    }
}
