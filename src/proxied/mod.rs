//! PROXY protocol headers between a backend and what is above it: [`Proxied`] is a backend over another one. Neither of
//! them knows.
//!
//! Of a connection of a trusted proxy nothing that arrives is reported before its header is there. Then the source that
//! it names is, and what came behind it. A connection is reported as soon as it is accepted, so that limits and deadlines
//! hold for the header, too.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::chunk::Span;
use crate::config::Network;
use crate::io::{Backend, Buffer, Close, Event, Slot, Usage, Waker, canonical};
use crate::protocol::proxy_header::{MAX_HEADER_LEN, ProxyHeader, Source};

/// A backend that some connections of which begin with a PROXY header.
pub(crate) struct Proxied<B> {
    inner: B,
    /// `None` when no connection does.
    headers: Option<Headers>,
}

/// Whose connections begin with a header, for all shards. It can be replaced.
#[derive(Debug, Default)]
pub(crate) struct Trusted(Mutex<Arc<[Network]>>);

struct Headers {
    trusted: Arc<Trusted>,
    /// What has come of headers that are not whole.
    awaited: HashMap<Slot, Vec<u8>>,
    /// Room for what the inner backend reports.
    reported: Vec<Event>,
}

impl Trusted {
    /// Those who are trusted from the beginning.
    pub(crate) fn new(networks: &[Network]) -> Self {
        Self(Mutex::new(networks.into()))
    }

    /// Holds for connections that come from now on.
    pub(crate) fn replace(&self, networks: &[Network]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = networks.into();
    }

    fn has(&self, address: IpAddr) -> bool {
        let networks = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Network::any_has(&networks, address)
    }
}

impl<B: Backend> Proxied<B> {
    /// The backend with headers before what comes from those who are trusted.
    pub(crate) fn new(inner: B, trusted: Option<Arc<Trusted>>) -> Self {
        let headers =
            trusted.map(|trusted| Headers { trusted, awaited: HashMap::new(), reported: Vec::new() });
        Self { inner, headers }
    }
}

impl Headers {
    /// Passes on what the inner backend reported, as the caller is to see it.
    fn handle(&mut self, inner: &mut impl Backend, event: Event, events: &mut Vec<Event>) {
        match event {
            Event::Accepted { slot, peer, .. } => {
                // Who comes by a path is a proxy.
                if peer.is_none_or(|peer| self.trusted.has(peer.ip())) {
                    self.awaited.insert(slot, Vec::new());
                }
                events.push(event);
            }
            Event::Received { slot, buffer } => match self.awaited.remove(&slot) {
                None => events.push(Event::Received { slot, buffer }),
                Some(part) => self.received(inner, slot, part, buffer, events),
            },
            Event::Closed { slot } => {
                self.awaited.remove(&slot);
                events.push(event);
            }
            other => events.push(other),
        }
    }

    fn received(
        &mut self,
        inner: &mut impl Backend,
        slot: Slot,
        mut part: Vec<u8>,
        mut buffer: Buffer,
        events: &mut Vec<Event>,
    ) {
        let before = part.len();
        let input = buffer.bytes_mut();
        part.extend_from_slice(&input[..input.len().min(MAX_HEADER_LEN - before)]);
        match ProxyHeader::parse(&part) {
            Ok(Some(ProxyHeader { len, source })) => {
                match source {
                    Source::Proxy => {}
                    Source::Hidden => events.push(Event::Proxied { slot, peer: None }),
                    Source::Client(peer) => {
                        events.push(Event::Proxied { slot, peer: Some(canonical(peer)) });
                    }
                }
                buffer.skip(len - before);
                if !buffer.bytes_mut().is_empty() {
                    return events.push(Event::Received { slot, buffer });
                }
            }
            Ok(None) => {
                self.awaited.insert(slot, part);
            }
            Err(why) => events.push(Event::Unproxied { slot, reason: why.0 }),
        }
        inner.recycle(buffer);
    }
}

impl<B: Backend> Backend for Proxied<B> {
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let Some(headers) = &mut self.headers else { return self.inner.poll(timeout, events) };
        let mut reported = std::mem::take(&mut headers.reported);
        self.inner.poll(timeout, &mut reported)?;
        for event in reported.drain(..) {
            headers.handle(&mut self.inner, event, events);
        }
        headers.reported = reported;
        Ok(())
    }

    fn send(&mut self, slot: Slot, span: Span) {
        self.inner.send(slot, span);
    }

    fn send_last(&mut self, slot: Slot, span: Span) {
        self.inner.send_last(slot, span);
    }

    fn pause(&mut self, slot: Slot) {
        self.inner.pause(slot);
    }

    fn resume(&mut self, slot: Slot) {
        self.inner.resume(slot);
    }

    fn shutdown(&mut self, slot: Slot) {
        self.inner.shutdown(slot);
    }

    fn close(&mut self, slot: Slot, how: Close) {
        self.inner.close(slot, how);
    }

    fn recycle(&mut self, buffer: Buffer) {
        self.inner.recycle(buffer);
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
        self.inner.usage()
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }
}
