//! Simulated clients, each with one of several characters. Each client checks the messages that it gets.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::app::Kind;

use super::deflate::{Extension, Offer, RSV1, bomb};
use super::fault::Fault;
use super::frames::{self, Frame};
use super::hearing::Hearing;
use super::lodge::{CLOSED, Stays};
use super::lounge::{self, Subscriptions};
use super::net::{NARROW, Net};
use super::outside::{self, Outside};
use super::returns::{Returns, SessionRules};
use super::truth::{Application, BOOM, HUSH, Line, Truth, kind_of, payload};
use super::users::{OUTCAST, USERS};

/// Character of a simulated client: how it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Character {
    /// Lively client: sends and reads messages.
    Lively,
    /// Slow client: reads only now and then.
    Slow,
    /// Silent client: reads, and sends no messages.
    Silent,
    /// Deaf client: sends messages and never reads.
    Deaf,
    /// Rude client: breaks the protocol.
    Rude,
    /// Fickle client: closes with a close frame, and connects again.
    Fickle,
    /// Rough client: resets the connection, and connects again.
    Rough,
    /// Half-closing client: ends its direction of the stream with FIN, and connects again.
    Half,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    Away,
    /// Client that has sent its opening request and waits for the response.
    Request,
    Open,
    /// Client that got a close frame or an error response and waits for the end of the server's stream.
    Told,
}

/// Facts about a run that all of its clients know.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) shards: usize,
    pub(super) rooms: Vec<String>,
    pub(super) application: Application,
    pub(super) addresses: usize,
    /// Whether the lag policy is `skip`: a client that lags misses messages and gets a report, instead of being closed.
    pub(super) skips: bool,
    /// Whether the clock jumps, so that the server may close clients that still answer pings.
    pub(super) jumps: bool,
    /// Whether the server soon ends connections without a request.
    pub(super) ends_idle: bool,
    /// Whether shards have so small a part of the memory limit that they pause clients, and close those that hold most.
    pub(super) has_little_memory: bool,
    /// Whether the server shuts down and accepts no new connections.
    pub(super) is_stopping: bool,
    /// The rules for sessions. `None` in a run without sessions.
    pub(super) sessions: Option<SessionRules>,
}

pub(super) struct Client {
    character: Character,
    state: ClientState,
    conn: Option<usize>,
    /// Number of the client's connection among the connections of all clients.
    serial: u64,
    hearing: Option<Hearing>,
    /// The client's rooms, with [`Application::Lodge`] instead of `hearing`.
    stays: Stays,
    /// The client's channels, with [`Application::Pusher`] instead of `hearing`.
    subscriptions: Subscriptions,
    out: VecDeque<u8>,
    input: Vec<u8>,
    said: u64,
    /// The client's compression offer, until the response answers the offer.
    offer: Option<Offer>,
    /// State of the agreed compression. `None` without compression.
    extension: Option<Extension>,
    ended: bool,
    broke_rules: bool,
    boomed: bool,
    said_goodbye: bool,
    visits: usize,
    /// The client's session, in a run with sessions.
    returns: Option<Returns>,
}

impl Client {
    /// Makes a client with a session, which is number `client` of all clients.
    pub(super) fn returning(character: Character, client: usize) -> Self {
        Self { returns: Some(Returns::new(client)), ..Self::new(character) }
    }

    pub(super) fn new(character: Character) -> Self {
        Self {
            returns: None,
            character,
            state: ClientState::Away,
            conn: None,
            serial: 0,
            hearing: None,
            stays: Stays::default(),
            subscriptions: Subscriptions::default(),
            out: VecDeque::new(),
            input: Vec::new(),
            said: 0,
            offer: None,
            extension: None,
            ended: false,
            broke_rules: false,
            boomed: false,
            said_goodbye: false,
            visits: 0,
        }
    }

    /// Lets the client take at most one step. Returns whether it did something. A calm client starts nothing new and
    /// reads everything, unless it is deaf.
    pub(super) fn step(&mut self, net: &mut Net, rules: &Rules, truth: &Truth, calm: bool) -> bool {
        let Some(conn) = self.conn else {
            return !calm && net.random.once_in(8) && self.connect(net, rules);
        };
        match net.random.below(8) {
            0 if !calm => self.act(net, rules, conn),
            0..=3 => self.write(net, conn) || self.read(net, conn, rules, truth, calm),
            _ => self.read(net, conn, rules, truth, calm) || self.write(net, conn),
        }
    }

    /// Ends the client's connection in the way of its character.
    pub(super) fn leave(&mut self, net: &mut Net) {
        let Some(conn) = self.conn else { return };
        match self.character {
            Character::Deaf | Character::Rough | Character::Rude => self.reset(net, conn),
            Character::Half => self.end(net, conn),
            _ => self.say_goodbye(net),
        }
    }

    fn connect(&mut self, net: &mut Net, rules: &Rules) -> bool {
        let most = if rules.sessions.is_some() { 20 } else { 4 };
        if self.visits == most {
            return false;
        }
        let room = net.random.below(rules.rooms.len());
        self.go_to(net, rules, &rules.rooms[room]);
        true
    }

    /// Connects the client to a random shard, with a request for `room`.
    pub(super) fn go_to(&mut self, net: &mut Net, rules: &Rules, room: &str) {
        let visits = self.visits + 1;
        let mut returns = self.returns.take();
        if let (Some(returns), Some(hearing)) = (&mut returns, self.hearing.take()) {
            returns.keep(hearing, net.now_ms);
        }
        *self = Self { visits, returns, ..Self::new(self.character) };
        let address = net.random.below(rules.addresses) as u8;
        let peer = SocketAddr::from(([10, 0, 0, address], 1_000 + net.conns.len() as u16));
        let shard = net.random.below(rules.shards);
        self.conn = Some(net.connect(shard, peer));
        self.serial = net.conns.len() as u64;
        let serial = self.serial;
        let returned = self.returns.as_mut().and_then(|returns| returns.take(room, serial));
        self.hearing = Some(returned.unwrap_or_else(|| Hearing::new(rules.application, serial, room)));
        self.state = ClientState::Request;
        self.offer = net.random.once_in(2).then(|| Offer::any(&mut net.random));
        let extensions = self.offer.map_or(String::new(), Offer::header);
        let rude = self.character == Character::Rude && net.random.once_in(3);
        self.broke_rules = rude;
        let line = if rude { net.random.pick(&["\u{1}\u{2}", "POST / HTTP/1.1\r\n", "GET"]) } else { "" };
        let path = match rules.application {
            Application::Pusher => lounge::PATH.to_owned(),
            _ => match &self.returns {
                Some(returns) => format!("/room/{room}?session={}", returns.id()),
                None => format!("/room/{room}"),
            },
        };
        let request = format!(
            "{line}GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extensions}\r\n",
        );
        self.out.extend(request.bytes());
    }

    /// Lets the client act according to its character. Returns whether it did something.
    fn act(&mut self, net: &mut Net, rules: &Rules, conn: usize) -> bool {
        if self.state != ClientState::Open {
            if self.character == Character::Rough && net.random.once_in(16) {
                self.reset(net, conn);
            }
            return false;
        }
        if self.ended || self.said_goodbye || self.out.len() > 4_000 {
            return false;
        }
        if self.returns.is_some() && net.random.once_in(10) {
            self.drop_out(net, conn);
            return true;
        }
        match self.character {
            Character::Silent => return false,
            Character::Fickle if net.random.once_in(8) => self.say_goodbye(net),
            Character::Rough if net.random.once_in(8) => self.reset(net, conn),
            Character::Half if net.random.once_in(8) => self.end(net, conn),
            Character::Rude if net.random.once_in(4) => self.be_rude(net),
            _ => self.speak(net, rules),
        }
        true
    }

    /// Ends the connection in any way. The client returns with its session.
    fn drop_out(&mut self, net: &mut Net, conn: usize) {
        match net.random.below(4) {
            0 => self.say_goodbye(net),
            1 => self.end(net, conn),
            2 => self.reset(net, conn),
            // The server notices when a ping is not answered, or when the client returns.
            _ => self.forget(),
        }
    }

    fn speak(&mut self, net: &mut Net, rules: &Rules) {
        let is_chat = rules.application == Application::Chat;
        if is_chat && net.random.once_in(2) {
            return self.command(net, rules);
        }
        if net.random.once_in(60) {
            self.boomed = true;
            return self.say(net, 1, BOOM);
        }
        if rules.application == Application::Pusher {
            for _ in 0..net.random.pick(&[1, 1, 2, 6]) {
                if let Some(message) = self.subscriptions.act(&mut net.random, self.serial) {
                    self.say(net, 1, message.as_bytes());
                }
            }
            return;
        }
        if rules.application != Application::Echo && net.random.once_in(30) {
            let is_lodge = rules.application == Application::Lodge;
            let room = if is_lodge { format!("={} ", rules.rooms[0]) } else { String::new() };
            self.say(net, 1, &[room.as_bytes(), HUSH].concat());
        }
        if rules.application == Application::Lodge {
            return self.visit(net, rules);
        }
        for _ in 0..net.random.between(1, 4) {
            let id = self.serial << 32 | self.said;
            self.said += 1;
            let opcode = if is_chat || kind_of(id) == Kind::Text { 1 } else { 2 };
            self.say(net, opcode, &payload(id));
        }
    }

    /// Joins and leaves rooms, speaks in them, and asks who is there.
    fn visit(&mut self, net: &mut Net, rules: &Rules) {
        let any = |net: &mut Net| rules.rooms[net.random.below(rules.rooms.len())].clone();
        match net.random.below(16) {
            0 | 1 => {
                for _ in 0..net.random.pick(&[1, 1, 5, 40]) {
                    let room = any(net);
                    self.say(net, 1, format!("+{room}").as_bytes());
                }
            }
            2 => {
                let chosen = net.random.below(rules.rooms.len());
                if let Some(room) = self.stays.pick(chosen).map(|room| format!("-{room}")) {
                    self.say(net, 1, room.as_bytes());
                }
            }
            3 | 4 => {
                let room = any(net);
                self.say(net, 1, format!("?{room}").as_bytes());
            }
            8..11 => {
                let user = net.random.pick(&["", USERS[0], USERS[1], USERS[2], OUTCAST]);
                self.say(net, 1, format!("@{user}").as_bytes());
            }
            11..16 => self.meet_user(net),
            _ => {
                for _ in 0..net.random.between(1, 4) {
                    let id = self.serial << 32 | self.said;
                    self.said += 1;
                    let chosen = net.random.below(rules.rooms.len());
                    let own = self.stays.pick(chosen).filter(|_| !chosen.is_multiple_of(4)).map(String::from);
                    let room = own.unwrap_or_else(|| any(net));
                    let opcode = if kind_of(id) == Kind::Text { 1 } else { 2 };
                    self.say(net, opcode, &[format!("={room} ").as_bytes(), &payload(id)].concat());
                }
            }
        }
    }

    /// Sends to a user, asks for its clients, closes them, or bans it.
    fn meet_user(&mut self, net: &mut Net) {
        let user = match net.random.once_in(2) {
            true => self.stays.user.known().unwrap_or(USERS[0]),
            false => net.random.pick(&USERS),
        };
        match net.random.below(40) {
            0 => self.say(net, 1, format!("x{user}").as_bytes()),
            1 => self.say(net, 1, format!("b{OUTCAST}").as_bytes()),
            2..18 => self.say(net, 1, format!("w{user}").as_bytes()),
            _ => {
                for _ in 0..net.random.between(1, 3) {
                    let message = self.stays.user.say(self.serial, user);
                    self.say(net, 1, format!("!{user} {message}").as_bytes());
                }
            }
        }
    }

    /// Sends a random command of the chat.
    fn command(&mut self, net: &mut Net, rules: &Rules) {
        let number = net.random.below(6);
        let line = match net.random.below(4) {
            0 => format!("/nick n{number}"),
            1 => format!("/join {}", rules.rooms[net.random.below(rules.rooms.len())]),
            2 => format!("/msg n{number} psst"),
            _ => "/who".to_owned(),
        };
        self.say(net, 1, line.as_bytes());
    }

    /// Sends a message, sometimes compressed if compression was agreed.
    fn say(&mut self, net: &mut Net, opcode: u8, message: &[u8]) {
        let random = &mut net.random;
        let bytes = match &mut self.extension {
            Some(extension) if random.once_in(2) => {
                net.deflated += 1;
                let compressed = extension.deflate(message, random.once_in(8));
                frames::encode_message(random, opcode | RSV1, &compressed)
            }
            _ => frames::encode_message(random, opcode, message),
        };
        self.out.extend(bytes);
    }

    fn be_rude(&mut self, net: &mut Net) {
        self.broke_rules = true;
        let random = &mut net.random;
        let bytes = match random.below(9) {
            0 => frames::encode(random, 3, true, b"no such opcode"),
            1 => vec![0x81, 2, b'n', b'o'],
            2 => frames::encode(random, 1, true, b"\xff\xfe"),
            3 => vec![0x82, 0xff, 0, 0, 0, 0, 0xff, 0, 0, 0, 1, 2, 3, 4],
            4 => frames::encode(random, 8, true, &[3]),
            5 => frames::encode(random, 1 | RSV1, true, b"\xff\xff no block begins so"),
            6 => frames::encode(random, 2 | RSV1, true, &bomb(100_000)),
            7 => frames::encode(random, 9 | RSV1, true, b"no control frame is compressed"),
            // The noise has a reserved bit set. Otherwise other clients could get a valid frame.
            _ => (0..20).map(|at| random.next() as u8 | u8::from(at == 0) << 5).collect(),
        };
        self.out.extend(bytes);
    }

    fn say_goodbye(&mut self, net: &mut Net) {
        if self.state == ClientState::Open && !self.said_goodbye {
            self.said_goodbye = true;
            self.out.extend(frames::encode(&mut net.random, 8, true, &[0x03, 0xe8]));
        } else if self.state != ClientState::Open
            && let Some(conn) = self.conn
        {
            self.end(net, conn);
        }
    }

    fn reset(&mut self, net: &mut Net, conn: usize) {
        net.note("client resets", [conn, 0, 0]);
        net.conns[conn].broken = true;
        net.conns[conn].to_server.bytes.clear();
        self.forget();
    }

    /// Schedules FIN after the bytes that are not written yet.
    fn end(&mut self, net: &mut Net, conn: usize) {
        net.note("client ends", [conn, 0, 0]);
        self.ended = true;
    }

    fn forget(&mut self) {
        self.conn = None;
        self.state = ClientState::Away;
    }

    fn write(&mut self, net: &mut Net, conn: usize) -> bool {
        if net.conns[conn].server_gone {
            self.out.clear();
        }
        let (left, room) = (self.out.len(), net.conns[conn].to_server.room());
        if left == 0 && self.ended && !net.conns[conn].to_server.ended {
            net.conns[conn].to_server.ended = true;
            return true;
        }
        if left == 0 || room == 0 {
            return false;
        }
        let count = net.random.between(1, left.min(room));
        net.conns[conn].to_server.bytes.extend(self.out.drain(..count));
        net.note("client writes", [conn, count, 0]);
        true
    }

    fn read(&mut self, net: &mut Net, conn: usize, rules: &Rules, truth: &Truth, calm: bool) -> bool {
        match self.character {
            Character::Deaf if !net.conns[conn].server_reset => return false,
            Character::Slow if !calm && !net.random.once_in(20) => return false,
            _ => {}
        }
        let available = net.conns[conn].to_client.bytes.len();
        if available == 0 {
            if net.conns[conn].to_client.ended {
                self.stream_ended(net, conn, rules);
                return true;
            }
            return false;
        }
        let count = net.random.between(1, available);
        let bytes = net.conns[conn].to_client.take(count);
        self.input.extend(bytes);
        net.note("client reads", [conn, count, 0]);
        self.parse(net, rules, truth);
        true
    }

    fn parse(&mut self, net: &mut Net, rules: &Rules, truth: &Truth) {
        if self.state == ClientState::Request {
            let Some(at) = self.input.windows(4).position(|end| end == b"\r\n\r\n") else { return };
            let head: Vec<u8> = self.input.drain(..at + 4).collect();
            let head = str::from_utf8(&head).expect("a response is text");
            if head.starts_with("HTTP/1.1 101 ") {
                self.state = ClientState::Open;
                self.agree(head, net.fault);
                if let (Some(returns), Some(sessions)) = (&self.returns, rules.sessions)
                    && returns.may_be_forgotten(net.now_ms, sessions)
                    && let Some(hearing) = &mut self.hearing
                {
                    hearing.forget();
                }
            } else {
                let is_error = head.starts_with("HTTP/1.1 4") || head.starts_with("HTTP/1.1 5");
                assert!(is_error, "a response: {head:?}");
                self.state = ClientState::Told;
                self.input.clear();
            }
        }
        if self.state == ClientState::Told {
            // Drops the body of an error response.
            self.input.clear();
        }
        while self.state == ClientState::Open {
            let is_compressed = self.input.first().is_some_and(|first| first & RSV1 != 0);
            match frames::decode(&mut self.input, self.extension.as_mut()) {
                Ok(Some(frame)) => {
                    net.inflated += u64::from(is_compressed);
                    self.take(net, rules, truth, frame);
                }
                Ok(None) => return,
                Err(problem) => panic!("connection {}: {problem}", self.serial),
            }
        }
    }

    /// Reads the agreed compression from the response to the opening request.
    fn agree(&mut self, head: &str, fault: Option<Fault>) {
        let agreed = match self.offer.take() {
            Some(offer) => offer.agreed(head, fault),
            None if head.contains("Sec-WebSocket-Extensions") => Err("an extension, unasked".into()),
            None => Ok(None),
        };
        self.extension = agreed.unwrap_or_else(|problem| panic!("connection {}: {problem}", self.serial));
    }

    fn take(&mut self, net: &mut Net, rules: &Rules, truth: &Truth, frame: Frame) {
        match frame {
            Frame::Close(code, reason) => self.told(net, rules, code, &reason),
            Frame::Ping(payload) if !self.ended && !self.said_goodbye => {
                self.out.extend(frames::encode(&mut net.random, 10, true, &payload));
            }
            Frame::Ping(_) | Frame::Pong => {}
            Frame::Text(bytes) => self.heard_text(net, rules, truth, bytes),
            Frame::Binary(bytes) => self.heard(net, rules, truth, Line { kind: Kind::Binary, bytes }),
        }
    }

    fn heard_text(&mut self, net: &mut Net, rules: &Rules, truth: &Truth, bytes: Vec<u8>) {
        let hearing = self.hearing.as_mut().expect("made with the connection");
        let text = str::from_utf8(&bytes).expect("a text message is UTF-8");
        if rules.application == Application::Pusher {
            let before = self.subscriptions.lists;
            self.subscriptions.hear(&truth.borrow(), self.serial, text);
            net.lists += self.subscriptions.lists - before;
            net.heard += 1;
            return;
        }
        let notice = text.strip_prefix("* ").unwrap_or_default();
        let missed = notice.strip_suffix(" messages missed").and_then(|count| count.parse().ok());
        if rules.application == Application::Lodge && !notice.is_empty() {
            return match missed {
                Some(_) => self.stays.miss(),
                None => self.stays.notice(notice, self.said),
            };
        }
        if rules.application == Application::Lodge && text.starts_with('~') {
            net.to_users += 1;
            return self.stays.user.hear(self.serial, rules.skips, text);
        }
        if let Some(count) = missed {
            return hearing.miss(count);
        }
        if notice == "messages missed" {
            return hearing.forget();
        }
        // A change of name is a message of the room, not a notice.
        if rules.application != Application::Chat || notice.is_empty() || notice.contains(" is now ") {
            return self.heard(net, rules, truth, Line { kind: Kind::Text, bytes });
        }
        let welcomed = notice.strip_prefix("welcome to ").and_then(|rest| rest.split(", ").next());
        if let Some(room) = welcomed.or_else(|| notice.strip_prefix("you are in ")) {
            hearing.enter(room, self.said);
        }
    }

    fn heard(&mut self, net: &mut Net, rules: &Rules, truth: &Truth, line: Line) {
        // `Truth` does not contain the random bytes that a rude client sent to itself.
        let is_own_noise = rules.application == Application::Echo && self.broke_rules;
        if is_own_noise && rules.application.id_of(&line.bytes).is_none() {
            return;
        }
        match rules.application {
            Application::Lodge => self.stays.hear(&truth.borrow(), self.serial, &line),
            _ => {
                let hearing = self.hearing.as_mut().expect("made with the connection");
                hearing.hear(&truth.borrow(), rules.skips, line);
            }
        }
        net.heard += 1;
    }

    /// Handles a close frame from the server and checks that its close code is allowed.
    fn told(&mut self, net: &mut Net, rules: &Rules, code: Option<u16>, reason: &str) {
        let reads = !matches!(self.character, Character::Slow | Character::Deaf);
        let allowed = match code {
            None | Some(1000) => self.said_goodbye || self.broke_rules,
            Some(4001) if let Some(sessions) = rules.sessions => {
                self.told_missed(reason);
                sessions.is_lossy
            }
            Some(1001) => rules.is_stopping,
            Some(1002 | 1007 | 1009) => self.broke_rules,
            Some(1008) if reason == "banned" => self.stays.user.may_be(OUTCAST) || rules.skips,
            Some(1008) => !reads || self.broke_rules || rules.jumps,
            Some(code) if code == CLOSED.0 => {
                self.stays.user.may_be(reason) || rules.skips || self.broke_rules
            }
            Some(1011) => self.boomed,
            Some(1013) => reason == "lagged" || rules.has_little_memory,
            Some(_) => self.broke_rules,
        };
        assert!(
            allowed,
            "connection {} ({:?}) was closed with {code:?} {reason}",
            self.serial, self.character
        );
        assert!(self.input.is_empty(), "connection {} got something after a close frame", self.serial);
        self.state = ClientState::Told;
        if !self.said_goodbye && !self.ended {
            let code = code.unwrap_or(1000).to_be_bytes();
            self.out.extend(frames::encode(&mut net.random, 8, true, &code));
        }
        self.ended = true;
    }

    /// Handles the report that the client has missed messages, in a close frame.
    fn told_missed(&mut self, reason: &str) {
        let Some(hearing) = &mut self.hearing else { return };
        match reason.strip_prefix("missed ").and_then(|count| count.parse().ok()) {
            Some(count) => hearing.miss(count),
            None => hearing.forget(),
        }
    }

    fn stream_ended(&mut self, net: &mut Net, conn: usize, rules: &Rules) {
        let reset = net.conns[conn].server_reset;
        let reads = !matches!(self.character, Character::Slow | Character::Deaf);
        // A client with a send in flight gets no close frame when the server frees memory.
        let made_room = rules.has_little_memory && reset;
        let excused = self.broke_rules || self.ended || rules.jumps || made_room;
        // Over the narrowest links the close frame does not arrive within the close timeout.
        let reads = reads && net.conns[conn].to_client.capacity > NARROW;
        let who = (self.serial, self.character, self.state);
        // At the limit of unfinished handshakes the server resets one.
        let turned_away = self.state == ClientState::Request && (rules.is_stopping || reset);
        if self.state != ClientState::Told && !turned_away {
            assert!(excused || reset && !reads, "{who:?} was closed without a close frame (reset: {reset})");
            assert!(reset || self.input.is_empty() || self.broke_rules, "{who:?}: its last frame is torn");
        }
        net.note("client sees the end", [conn, usize::from(reset), 0]);
        // The client closes its socket and drops its unwritten bytes.
        net.conns[conn].to_server.ended = true;
        self.forget();
    }

    /// Panics if a client that reads lacks messages.
    pub(super) fn check_current(&self, truth: &Truth, application: Application, outside: &Outside) {
        let is_meant =
            self.state == ClientState::Open && self.character != Character::Deaf && !self.broke_rules;
        let Some(hearing) = self.hearing.as_ref().filter(|_| is_meant) else { return };
        let truth = truth.borrow();
        if application == Application::Lodge {
            self.stays.check_current(&truth, self.serial);
            if !self.boomed && !self.ended && !self.said_goodbye {
                let is_banned = outside.is_banned(OUTCAST);
                let accepted = |user: &str| outside.sent_to(user);
                self.stays.user.check_current(self.serial, outside::SERIAL, accepted, is_banned);
            }
        } else if application == Application::Pusher {
            if !self.boomed && !self.ended && !self.said_goodbye {
                self.subscriptions.check_current(&truth, self.serial);
            }
        } else {
            hearing.check_current(&truth);
        }
        if !self.boomed && !self.ended && !self.said_goodbye {
            let arrived = truth.said(self.serial, 0, None) as u64;
            let who = (self.serial, self.character);
            assert_eq!((arrived, self.out.len()), (self.said, 0), "messages of {who:?} did not arrive");
        }
    }

    /// Returns the stream that the client follows, if the client is certainly connected.
    pub(super) fn attends(&self) -> Option<&Hearing> {
        let leaves = self.ended || self.said_goodbye || self.broke_rules || self.character == Character::Deaf;
        self.hearing.as_ref().filter(|_| self.state == ClientState::Open && !leaves)
    }

    /// Panics if the client got no notice that the server shuts down, although the notice had time to arrive. A clock
    /// that jumps leaves no such time.
    pub(super) fn check_told(&self, rules: &Rules) {
        let waits = !rules.jumps
            && self.state == ClientState::Open
            && self.character != Character::Deaf
            && !self.broke_rules;
        assert!(!waits, "{:?} was not told that the server shuts down", (self.serial, self.character));
    }
}
