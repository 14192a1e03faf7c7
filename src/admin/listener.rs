//! The loop of the admin thread: accepts connections, serves them as their sockets become ready, and ends those that
//! are too slow.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;
use tracing::warn;

use crate::config::hosts::is_local_address;
use crate::protocol::Request;
use crate::watch::{SURVEY_PATIENCE, TURN_PATIENCE, Watch};

use super::access::{Access, MAX_FORM_LEN};
use super::answers::{Answer, Response, answer, head_of, health_response, metrics_response};
use super::connection::{AdminConnection, Next};
use super::survey::Survey;

/// Epoll token of the listening socket. The tokens of connections are their keys in the slab.
const LISTENER: u64 = u64::MAX;
/// Maximum number of connections accepted in one turn of the loop, before existing connections are served.
const ACCEPTS_PER_TURN: usize = 64;
/// Maximum number of epoll events handled in one turn of the loop.
const EVENTS_PER_TURN: usize = 128;
/// Interval at which the loop checks whether all shards have answered a survey.
const SURVEY_INTERVAL: Duration = Duration::from_millis(1);
/// Delay before the next attempt to accept after the kernel gave no connection, for example for lack of memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The admin listener: the state of the admin thread.
pub(super) struct Listener {
    listener: Arc<TcpListener>,
    watch: Arc<Watch>,
    stopping: Arc<AtomicBool>,
    /// Whether the listener's address is a loopback or private address.
    is_local: bool,
    access: Access,
    max_connections: usize,
    epoll: Epoll,
    connections: Slab<Entry>,
    /// Number for the next accepted connection. Numbers rise in the order of accepting.
    next_number: u64,
    metrics: Survey<Asker>,
    health: Survey<Asker>,
    /// Time at which to accept connections again after an error. `None` without an error.
    retry_at: Option<Instant>,
    is_accepting: bool,
}

struct Entry {
    number: u64,
    connection: AdminConnection,
    interest: EpollFlags,
}

/// A connection that waits for the result of a survey of all shards.
#[derive(Debug)]
struct Asker {
    key: usize,
    /// Number of the connection, which tells it from a later connection with the same key.
    number: u64,
    head_only: bool,
}

impl Listener {
    pub(super) fn new(
        listener: Arc<TcpListener>,
        watch: Arc<Watch>,
        stopping: Arc<AtomicBool>,
        max_connections: usize,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        let address = listener.local_addr()?;
        Ok(Self {
            is_local: is_local_address(address.ip()),
            access: Access::new(address)?,
            listener,
            watch,
            stopping,
            max_connections: max_connections.max(1),
            epoll,
            connections: Slab::new(),
            next_number: 0,
            metrics: Survey::new(SURVEY_PATIENCE),
            health: Survey::new(TURN_PATIENCE),
            retry_at: None,
            is_accepting: true,
        })
    }

    /// Serves connections until the listener is stopped and its last connection has ended.
    pub(super) fn run(&mut self) {
        let mut events = vec![EpollEvent::empty(); EVENTS_PER_TURN];
        while self.is_accepting || !self.connections.is_empty() {
            let timeout = self.timeout();
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    warn!(%error, "the admin listener cannot wait for its connections; trying again");
                    std::thread::sleep(ACCEPT_RETRY);
                    0
                }
            };
            let mut accepts = self.retry_at.is_some_and(|at| at <= Instant::now());
            for event in &events[..count] {
                match event.data() {
                    LISTENER => accepts = true,
                    key => self.ready(key as usize, event.events()),
                }
            }
            if accepts {
                self.accept();
            }
            self.answer_surveys();
            self.expire();
        }
    }

    /// Returns the time until the next deadline, or until the next check of a running survey.
    fn timeout(&self) -> EpollTimeout {
        if self.metrics.is_pending() || self.health.is_pending() {
            return EpollTimeout::try_from(SURVEY_INTERVAL).unwrap_or(EpollTimeout::ZERO);
        }
        let deadlines = self.connections.iter().map(|(_, entry)| entry.connection.deadline());
        let Some(next) = deadlines.chain(self.retry_at).min() else { return EpollTimeout::NONE };
        // Rounded up, so that the deadline has passed when the wait ends.
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
    }

    fn accept(&mut self) {
        if self.retry_at.take().is_some() {
            self.set_listening(EpollFlags::EPOLLIN);
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, peer)) => self.add(stream, peer.ip()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) if self.stopping.load(Ordering::SeqCst) => {
                    self.is_accepting = false;
                    let _ = self.epoll.delete(&*self.listener);
                    return;
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                // No descriptor is left, so the oldest connection was closed to free its descriptor.
                Err(error) if is_out_of_descriptors(&error) && self.close_oldest() => {}
                Err(error) => {
                    warn!(%error, "the admin listener cannot accept a connection; trying again");
                    self.pause_accepting();
                    return;
                }
            }
        }
    }

    /// Stops accepting connections until `retry_at`.
    fn pause_accepting(&mut self) {
        self.set_listening(EpollFlags::empty());
        self.retry_at = Some(Instant::now() + ACCEPT_RETRY);
    }

    fn set_listening(&self, interest: EpollFlags) {
        if let Err(error) = self.epoll.modify(&*self.listener, &mut EpollEvent::new(interest, LISTENER)) {
            warn!(%error, "the admin listener cannot change what it waits for");
        }
    }

    /// Adds an accepted connection, and serves it at once, since its request may have arrived already.
    fn add(&mut self, stream: TcpStream, peer: IpAddr) {
        if self.connections.len() >= self.max_connections {
            self.close_oldest();
        }
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        // A response is written in one piece, so a delay to join small writes would only slow it down.
        let _ = stream.set_nodelay(true);
        // Only the form with the token is a request with a body.
        let max_request_body = if self.watch.admin_token().is_some() { MAX_FORM_LEN } else { 0 };
        let entry = Entry {
            number: self.next_number,
            connection: AdminConnection::new(stream, peer, max_request_body, Instant::now()),
            interest: EpollFlags::EPOLLIN,
        };
        self.next_number += 1;
        let key = self.connections.insert(entry);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key as u64);
        if self.epoll.add(self.connections[key].connection.stream(), event).is_err() {
            return self.remove(key);
        }
        self.proceed(key);
    }

    /// Handles epoll events of the connection with this key.
    fn ready(&mut self, key: usize, events: EpollFlags) {
        // An earlier event of this turn may have closed the connection.
        if !self.connections.contains(key) {
            return;
        }
        let is_waiting = self.connections[key].interest.is_empty();
        if is_waiting && events.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            self.connections.remove(key);
            return;
        }
        self.proceed(key);
    }

    fn proceed(&mut self, key: usize) {
        let connection = &mut self.connections[key].connection;
        let peer = connection.peer();
        let answer = |request: &Request<'_>| answer(request, &self.watch, &self.access, peer, self.is_local);
        let next = connection.proceed(answer, Instant::now());
        self.follow(key, next);
    }

    /// Closes a connection. Its epoll entry goes first: while a process that is being started holds the socket, the kernel
    /// would report events of it under a key that may belong to another connection by then.
    fn remove(&mut self, key: usize) {
        let entry = self.connections.remove(key);
        let _ = self.epoll.delete(entry.connection.stream());
    }

    fn follow(&mut self, key: usize, next: Next) {
        let number = self.connections[key].number;
        match next {
            Next::Close => self.remove(key),
            Next::Wait(interest) => self.set_interest(key, interest),
            Next::Ask(answer) => {
                self.set_interest(key, EpollFlags::empty());
                match answer {
                    Answer::Metrics { head_only } => self.metrics.ask(Asker { key, number, head_only }),
                    Answer::Health { head_only } => self.health.ask(Asker { key, number, head_only }),
                    Answer::Now(_) => {}
                }
            }
        }
    }

    fn set_interest(&mut self, key: usize, interest: EpollFlags) {
        let entry = &mut self.connections[key];
        if entry.interest == interest {
            return;
        }
        entry.interest = interest;
        let mut event = EpollEvent::new(interest, key as u64);
        if self.epoll.modify(entry.connection.stream(), &mut event).is_err() {
            self.connections.remove(key);
        }
    }

    /// Sends the response to all connections whose survey has ended. The connections share one response.
    fn answer_surveys(&mut self) {
        let now = Instant::now();
        let askers = self.metrics.poll(&self.watch, now);
        if !askers.is_empty() {
            let response = metrics_response(&self.watch);
            self.respond_all(askers, &response);
        }
        let askers = self.health.poll(&self.watch, now);
        if !askers.is_empty() {
            let response = health_response(&self.watch);
            self.respond_all(askers, &response);
        }
    }

    fn respond_all(&mut self, askers: Vec<Asker>, response: &Response) {
        for Asker { key, number, head_only } in askers {
            let Some(entry) = self.connections.get_mut(key).filter(|entry| entry.number == number) else {
                continue;
            };
            let response = if head_only { head_of(response) } else { Arc::clone(response) };
            let next = entry.connection.respond(response, Instant::now());
            self.follow(key, next);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let late = self.connections.iter().filter(|(_, entry)| entry.connection.deadline() <= now);
        let late: Vec<usize> = late.map(|(key, _)| key).collect();
        for key in late {
            let next = self.connections[key].connection.expire(now);
            self.follow(key, next);
        }
    }

    /// Closes the connection that was accepted first. Returns whether there was a connection to close.
    fn close_oldest(&mut self) -> bool {
        let oldest = self.connections.iter().min_by_key(|(_, entry)| entry.number).map(|(key, _)| key);
        oldest.is_some_and(|key| self.connections.try_remove(key).is_some())
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EMFILE | Errno::ENFILE))
}
