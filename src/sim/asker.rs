//! Simulated clients that send ordinary HTTP requests: over connections that are used again, in pipelines, with bodies,
//! and for answers that come later.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use crate::app::{Answer, Context, HttpRequest, Responder, Response, Status};

use super::client::Rules;
use super::net::Net;
use super::random::Random;
use super::truth::payload;

/// Number that stands for the clients of this module in the ids of their requests, where other clients have their
/// connection's number.
const SERIAL: u64 = u32::MAX as u64 - 1;

/// A request that waits for its response.
struct Asked {
    id: u64,
    /// Whether the response has no body.
    is_head: bool,
    /// Whether the request breaks a rule, so that its response is an error and the last one.
    is_broken: bool,
    /// Whether the client asks for the end of the connection.
    is_last: bool,
}

pub(super) struct Asker {
    random: Random,
    /// Number of this client among all of this module.
    number: u64,
    conn: Option<usize>,
    asked: u64,
    waiting: VecDeque<Asked>,
    out: VecDeque<u8>,
    input: Vec<u8>,
    /// Whether the client sends nothing more: it has sent FIN or a request that ends the connection.
    has_ended: bool,
    sends_end: bool,
    /// Whether the server has said that it sends nothing more.
    is_told: bool,
    deferred: Deferred,
    /// Number of correct responses that came.
    pub(super) answered: u64,
    /// Number of those responses that were deferred.
    pub(super) answered_later: u64,
}

/// The requests whose answers the application has deferred, and those of them that it has dropped.
#[derive(Debug, Default)]
pub(super) struct Later {
    responders: Vec<(u64, Responder)>,
    deferred: HashSet<u64>,
    dropped: HashSet<u64>,
}

pub(super) type Deferred = Rc<RefCell<Later>>;

impl Later {
    /// Answers a random deferred request, or drops its responder. Returns false when no request waits.
    pub(super) fn answer_one(deferred: &Deferred, random: &mut Random) -> bool {
        let mut later = deferred.borrow_mut();
        if later.responders.is_empty() {
            return false;
        }
        let at = random.below(later.responders.len());
        let (id, responder) = later.responders.swap_remove(at);
        if random.once_in(8) {
            later.dropped.insert(id);
            drop(responder);
        } else {
            responder.answer(Response::new(Status::Ok, "text/plain", payload(id)));
        }
        true
    }
}

/// Answers a request of an [`Asker`]. Returns `None` for other requests.
pub(super) fn answer(
    deferred: &Deferred,
    context: &Context<'_>,
    request: &HttpRequest<'_>,
) -> Option<Answer> {
    let (kind, id) = request.path().strip_prefix('/')?.split_once('/')?;
    let id = u64::from_str_radix(id, 16).ok()?;
    let is_whole = request.method() != "POST" || request.body() == payload(id);
    assert!(is_whole, "the body of request {id:x} came as {:?}", request.body());
    if kind == "later" {
        let (answer, responder) = request.defer(context);
        let mut later = deferred.borrow_mut();
        assert!(later.deferred.insert(id), "request {id:x} came twice");
        later.responders.push((id, responder));
        return Some(answer);
    }
    (kind == "ask").then(|| Response::new(Status::Ok, "text/plain", payload(id)).into())
}

impl Asker {
    pub(super) fn new(number: u64, random: Random, deferred: &Deferred) -> Self {
        Self {
            random,
            number,
            conn: None,
            asked: 0,
            waiting: VecDeque::new(),
            out: VecDeque::new(),
            input: Vec::new(),
            has_ended: false,
            sends_end: false,
            is_told: false,
            deferred: Rc::clone(deferred),
            answered: 0,
            answered_later: 0,
        }
    }

    /// Lets the client take at most one step. Returns whether it did something. A calm client starts nothing new.
    pub(super) fn step(&mut self, net: &mut Net, rules: &Rules, calm: bool) -> bool {
        let Some(conn) = self.conn else {
            return !calm && !rules.is_stopping && self.random.once_in(200) && self.connect(net, rules);
        };
        match self.random.below(8) {
            0 if !calm => self.act(net, conn),
            0..=3 => self.write(net, conn) || self.read(net, conn, rules),
            _ => self.read(net, conn, rules) || self.write(net, conn),
        }
    }

    /// Ends the client's connection.
    pub(super) fn leave(&mut self, net: &mut Net) {
        if let Some(conn) = self.conn {
            match self.random.once_in(2) {
                true => self.reset(net, conn),
                false => self.end(),
            }
        }
    }

    /// Panics if a response has not arrived, although it had time to.
    pub(super) fn check_answered(&self, net: &Net, rules: &Rules) {
        let Some(conn) = self.conn else { return };
        // A server without a free slot accepts no connection.
        let is_accepted = !net.backlogs.iter().any(|backlog| backlog.contains(&conn));
        if is_accepted && !self.is_told && !rules.jumps {
            let ids: Vec<_> = self.waiting.iter().map(|asked| format!("{:x}", asked.id)).collect();
            assert!(self.out.is_empty() && ids.is_empty(), "no response came to {}", ids.join(", "));
        }
    }

    fn connect(&mut self, net: &mut Net, rules: &Rules) -> bool {
        let (random, deferred) = (self.random.clone(), Rc::clone(&self.deferred));
        let (asked, answered, answered_later) = (self.asked, self.answered, self.answered_later);
        *self = Self { asked, answered, answered_later, ..Self::new(self.number, random, &deferred) };
        let address = self.random.below(rules.addresses) as u8;
        let peer = SocketAddr::from(([10, 0, 0, address], 50_000 + self.asked as u16));
        let shard = self.random.below(rules.shards);
        self.conn = Some(net.connect(shard, peer));
        true
    }

    /// Asks for something, or ends the connection.
    fn act(&mut self, net: &mut Net, conn: usize) -> bool {
        if self.random.once_in(40) {
            self.reset(net, conn);
            return true;
        }
        if self.has_ended || self.is_told || self.out.len() > 4_000 {
            return false;
        }
        if self.random.once_in(20) {
            self.end();
            return true;
        }
        for _ in 0..self.random.between(1, 5) {
            if !self.has_ended {
                self.ask();
            }
        }
        true
    }

    fn ask(&mut self) {
        let random = &mut self.random;
        let id = SERIAL << 32 | self.number << 24 | self.asked;
        self.asked += 1;
        let kind = if random.once_in(3) { "later" } else { "ask" };
        let is_last = random.once_in(15);
        let mut fields = "Host: localhost\r\n".to_owned();
        fields.push_str(if is_last { "Connection: close\r\n" } else { "" });
        let body = payload(id);
        let form = random.below(6);
        let is_broken = random.once_in(60);
        let (method, body) = match form {
            0..2 => ("GET", Vec::new()),
            2 => ("HEAD", Vec::new()),
            3 => {
                fields.push_str(&format!("Content-Length: {}\r\n", body.len()));
                fields.push_str(if random.once_in(3) { "Expect: 100-continue\r\n" } else { "" });
                ("POST", body)
            }
            _ => {
                fields.push_str("Transfer-Encoding: chunked\r\n");
                ("POST", in_chunks(random, &body))
            }
        };
        fields.push_str(if is_broken { "Bad field: x\r\n" } else { "" });
        self.out.extend(random.pick(&["", "", "\r\n"]).bytes());
        self.out.extend(format!("{method} /{kind}/{id:x} HTTP/1.1\r\n{fields}\r\n").bytes());
        self.out.extend(body);
        self.waiting.push_back(Asked { id, is_head: method == "HEAD", is_broken, is_last });
        self.has_ended |= is_broken || is_last;
    }

    fn end(&mut self) {
        self.has_ended = true;
        self.sends_end = true;
    }

    fn reset(&mut self, net: &mut Net, conn: usize) {
        net.note("asker resets", [conn, 0, 0]);
        net.conns[conn].broken = true;
        net.conns[conn].to_server.bytes.clear();
        self.conn = None;
    }

    fn write(&mut self, net: &mut Net, conn: usize) -> bool {
        if net.conns[conn].server_gone {
            self.out.clear();
        }
        let (left, room) = (self.out.len(), net.conns[conn].to_server.room());
        if left == 0 && self.sends_end && !net.conns[conn].to_server.ended {
            net.conns[conn].to_server.ended = true;
            return true;
        }
        if left == 0 || room == 0 {
            return false;
        }
        let count = self.random.between(1, left.min(room));
        net.conns[conn].to_server.bytes.extend(self.out.drain(..count));
        net.note("asker writes", [conn, count, 0]);
        true
    }

    fn read(&mut self, net: &mut Net, conn: usize, rules: &Rules) -> bool {
        let available = net.conns[conn].to_client.bytes.len();
        if available == 0 {
            let ends = net.conns[conn].to_client.ended;
            if ends {
                self.see_end(net, conn, rules);
            }
            return ends;
        }
        let count = self.random.between(1, available);
        let bytes = net.conns[conn].to_client.take(count);
        self.input.extend(bytes);
        net.note("asker reads", [conn, count, 0]);
        while self.take_response() {}
        true
    }

    /// Checks the next response, if it has arrived. Returns whether it has.
    fn take_response(&mut self) -> bool {
        let Some(at) = self.input.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
        let head = str::from_utf8(&self.input[..at + 4]).expect("a response is text").to_owned();
        let status: u16 = head[9..12].parse().expect(&head);
        assert!(!self.is_told, "{head:?} came after the last response");
        if status == 100 {
            self.input.drain(..at + 4);
            return true;
        }
        // The server refuses a connection without regard to the method of a request.
        let is_head = matches!(status, 200 | 500) && self.waiting.front().is_some_and(|asked| asked.is_head);
        let (_, len) = head.split_once("Content-Length: ").expect(&head);
        let len: usize = len.split_once("\r\n").expect(&head).0.parse().expect(&head);
        let len = if is_head { 0 } else { len };
        if self.input.len() < at + 4 + len {
            return false;
        }
        let body: Vec<u8> = self.input.drain(..at + 4 + len).skip(at + 4).collect();
        if head.contains("Connection: close") {
            self.is_told = true;
            self.out.clear();
            self.end();
        }
        let Some(asked) = self.waiting.pop_front() else {
            assert!(self.is_told && status >= 400, "{head:?} came unasked");
            return true;
        };
        let later = self.deferred.borrow();
        match status {
            200 => {
                assert!(!asked.is_broken, "a broken request got {head:?}");
                let expected = if asked.is_head { Vec::new() } else { payload(asked.id) };
                assert_eq!(body, expected, "the response to {:x}", asked.id);
                assert!(self.is_told || !asked.is_last, "{head:?} does not end the connection");
                self.answered += 1;
                self.answered_later += u64::from(later.deferred.contains(&asked.id));
            }
            400 => assert!(asked.is_broken && self.is_told, "{head:?} {body:?} to {:x}", asked.id),
            500 => assert!(later.dropped.contains(&asked.id), "{head:?} to {:x}", asked.id),
            408 | 429 | 503 => assert!(self.is_told, "{head:?}"),
            _ => panic!("{head:?} to {:x}", asked.id),
        }
        true
    }

    fn see_end(&mut self, net: &mut Net, conn: usize, rules: &Rules) {
        let reset = net.conns[conn].server_reset;
        // A reset may drop what has arrived. Without one, the client has got all responses up to the last one.
        if !reset && !rules.jumps {
            // A request that the server has not seen may meet the end of an idle connection.
            let is_over = self.is_told || self.waiting.is_empty() || !self.out.is_empty();
            let is_expected = is_over || rules.is_stopping || rules.ends_idle;
            let first = self.waiting.front().map(|asked| asked.id);
            assert!(is_expected, "the connection ended before the response to {first:x?}");
            assert!(self.input.is_empty(), "a response is torn");
        }
        net.note("asker sees the end", [conn, usize::from(reset), 0]);
        net.conns[conn].to_server.ended = true;
        self.conn = None;
    }
}

/// Returns a body in chunks of random lengths.
fn in_chunks(random: &mut Random, body: &[u8]) -> Vec<u8> {
    let (mut rest, mut chunks) = (body, Vec::new());
    while !rest.is_empty() {
        let (chunk, others) = rest.split_at(random.between(1, rest.len()));
        chunks.extend(format!("{:x}{}\r\n", chunk.len(), random.pick(&["", ";a=b"])).bytes());
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
        rest = others;
    }
    chunks.extend(random.pick(&["0\r\n\r\n", "000\r\nTrailer: x\r\n\r\n"]).bytes());
    chunks
}
