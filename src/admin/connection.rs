//! One connection of the admin listener: one request, one response, then the end.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;

use crate::protocol::response::CONTINUE;
use crate::protocol::{MessageLimits, Protocol, ProtocolEvent, Reader, Request};

use super::answers::{Answer, Response, late_response, refusal};

/// Time limit for a client to send its whole request, and again to take the whole response.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time limit for a survey of the shards, far above the limits of two surveys in a row. A client that waits for the
/// server does nothing wrong, so a busy machine must not cost it its answer.
const SURVEY_LIMIT: Duration = Duration::from_secs(30);
/// Time limit for a client to end its direction of the stream after the response.
const LINGER: Duration = Duration::from_millis(500);
/// Maximum number of reads from one connection per event, so that a fast sender does not hold up other connections.
const READS_PER_EVENT: usize = 16;

/// A connection of the admin listener.
pub(super) struct AdminConnection {
    stream: TcpStream,
    /// The client's address.
    peer: IpAddr,
    state: State,
    deadline: Instant,
}

enum State {
    /// The client's request is not complete. Holds the parser of the request.
    Reading(Box<(Protocol, Reader)>),
    /// The connection waits for a survey of the shards, on which the response depends.
    Waiting,
    /// The response is being sent. Holds the response and the number of bytes already sent.
    Writing(Response, usize),
    /// The response is sent, and the server's direction of the stream has ended. Further input is discarded, since a
    /// reset would drop the response.
    Lingering,
}

/// The next step of the listener's loop for a connection, after an event or a deadline.
pub(super) enum Next {
    /// Wait for these epoll events on the connection's socket.
    Wait(EpollFlags),
    /// Ask the shards for the data of this answer, then call [`AdminConnection::respond`].
    Ask(Answer),
    /// Drop the connection, which closes its socket.
    Close,
}

impl AdminConnection {
    /// Creates a connection of a client at the address `peer`, whose request may have a body of at most `max_request_body`
    /// bytes.
    pub(super) fn new(stream: TcpStream, peer: IpAddr, max_request_body: usize, now: Instant) -> Self {
        let limits = MessageLimits { max_message: 0, max_request_body };
        let state = State::Reading(Box::new((Protocol::new(), Reader::new(limits))));
        Self { stream, peer, state, deadline: now + PATIENCE }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Reads the request, sends the response that `answer` gives, or discards input, as far as the socket allows
    /// without blocking.
    pub(super) fn proceed(&mut self, answer: impl Fn(&Request<'_>) -> Answer, now: Instant) -> Next {
        match &mut self.state {
            State::Reading(parser) => match read_request(&self.stream, parser, answer) {
                Outcome::Pending => Next::Wait(EpollFlags::EPOLLIN),
                Outcome::Gone => Next::Close,
                Outcome::Answered(Answer::Now(response)) => self.respond(response, now),
                Outcome::Answered(later) => {
                    self.state = State::Waiting;
                    self.deadline = now + SURVEY_LIMIT;
                    Next::Ask(later)
                }
            },
            State::Waiting => Next::Wait(EpollFlags::empty()),
            State::Writing(..) => self.write(now),
            State::Lingering => discard(&self.stream),
        }
    }

    /// Begins to send the response to the client.
    pub(super) fn respond(&mut self, response: Response, now: Instant) -> Next {
        self.state = State::Writing(response, 0);
        self.deadline = now + PATIENCE;
        self.write(now)
    }

    /// Handles the passed deadline: answers a late request with an error, and closes the connection in any other state.
    pub(super) fn expire(&mut self, now: Instant) -> Next {
        match self.state {
            State::Reading(_) => self.respond(late_response(), now),
            State::Waiting | State::Writing(..) | State::Lingering => Next::Close,
        }
    }

    fn write(&mut self, now: Instant) -> Next {
        let State::Writing(response, sent) = &mut self.state else { return Next::Close };
        while *sent < response.len() {
            match (&self.stream).write(&response[*sent..]) {
                Ok(0) => return Next::Close,
                Ok(len) => *sent += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Next::Wait(EpollFlags::EPOLLOUT);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Next::Close,
            }
        }
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return Next::Close;
        }
        self.state = State::Lingering;
        self.deadline = now + LINGER;
        discard(&self.stream)
    }
}

/// The outcome of reading a request from the socket.
enum Outcome {
    /// The head of the request is not complete yet.
    Pending,
    /// The client has ended or broken the connection without a valid request.
    Gone,
    Answered(Answer),
}

fn read_request(
    mut stream: &TcpStream,
    (protocol, reader): &mut (Protocol, Reader),
    answer: impl Fn(&Request<'_>) -> Answer,
) -> Outcome {
    let mut buffer = [0; 1024];
    for _ in 0..READS_PER_EVENT {
        let mut input = match stream.read(&mut buffer) {
            Ok(0) => return Outcome::Gone,
            Ok(len) => &mut buffer[..len],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Outcome::Pending,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return Outcome::Gone,
        };
        match protocol.next(&mut input, reader) {
            Some(ProtocolEvent::Request(request)) => {
                return Outcome::Answered(answer(&request));
            }
            Some(ProtocolEvent::Refused(refused)) => return Outcome::Answered(Answer::Now(refusal(refused))),
            // A client that sends no body before this interim response sends nothing else, so the socket takes it.
            Some(ProtocolEvent::Continue) => match stream.write(CONTINUE) {
                Ok(len) if len == CONTINUE.len() => {}
                _ => return Outcome::Gone,
            },
            // All other events follow an upgrade to a WebSocket, and the admin listener upgrades no connection.
            Some(_) => return Outcome::Gone,
            None => {}
        }
    }
    Outcome::Pending
}

/// Reads and drops further input of a client until the client ends its direction of the stream.
fn discard(mut stream: &TcpStream) -> Next {
    let mut buffer = [0; 1024];
    for _ in 0..READS_PER_EVENT {
        match stream.read(&mut buffer) {
            Ok(0) => return Next::Close,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Next::Close,
        }
    }
    Next::Wait(EpollFlags::EPOLLIN)
}
