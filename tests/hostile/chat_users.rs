//! The well-behaved chat users who talk during an attack.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::support::TIMEOUT;
use crate::support::many_clients::ManyClients;
use crate::support::raw::{TEXT, frame};

/// Number of chat users.
pub(crate) const USERS: usize = 200;
/// Names of the chat users' rooms. User `n` is in room `n % ROOMS.len()`.
pub(crate) const ROOMS: [&str; 4] = ["kitchen", "garden", "attic", "cellar"];
/// Time between two messages of the conversation. The users take turns.
const INTERVAL: Duration = Duration::from_millis(10);
/// Number of conversation messages before the attack.
const MESSAGES_BEFORE: usize = 50;
/// Minimum number of conversation messages during the attack.
const MIN_MESSAGES_DURING: usize = 80;

/// Delivery times of messages.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    micros: Vec<u32>,
}

/// Measurements of a conversation: delivery times and message counts.
#[derive(Debug, Default)]
pub(crate) struct Measurements {
    pub(crate) before: Latencies,
    pub(crate) during: Latencies,
    /// Number of messages sent by all users together.
    pub(crate) sent: usize,
    /// Number of messages received by all users together.
    pub(crate) received: usize,
}

impl Latencies {
    /// Adds a delivery time.
    pub(crate) fn add(&mut self, time: Duration) {
        self.micros.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// Returns the delivery time, in microseconds, that `permille` of 1000 deliveries do not exceed.
    pub(crate) fn permille(&mut self, permille: usize) -> u32 {
        self.micros.sort_unstable();
        let at = (self.micros.len() * permille / 1000).min(self.micros.len().saturating_sub(1));
        self.micros.get(at).copied().unwrap_or_default()
    }
}

/// A summary of the messages that one user has received.
#[derive(Clone, Debug, Default)]
struct Received {
    count: usize,
    /// Hash of the received messages in their order of arrival.
    order_hash: u64,
    /// Number of the last message received from each sender, by the sender's index.
    last: Vec<usize>,
}

/// A received message of the conversation, parsed.
struct ChatMessage {
    sender: usize,
    /// Position among the sender's messages, counted from 1.
    number: usize,
    /// The intended send time, in microseconds since the start of the conversation.
    due_us: u64,
    /// Whether the message was sent before the attack.
    is_before: bool,
}

/// A running conversation of the chat users.
struct Conversation {
    clients: ManyClients,
    received: Vec<Received>,
    measurements: Measurements,
    /// Number of messages sent by each user, by the user's index.
    sent: Vec<usize>,
    start: Instant,
}

/// Runs a conversation: sends some messages, notifies `attack_can_start`, then sends more until `is_attack_over` is
/// set. Returns when every user has received every message of its room. Panics when a message is missing.
pub(crate) fn converse(
    address: SocketAddr,
    attack_can_start: &Sender<()>,
    is_attack_over: &Arc<AtomicBool>,
) -> Measurements {
    let mut conversation = Conversation::start(address);
    let mut sent_during = 0;
    while sent_during < MIN_MESSAGES_DURING || !is_attack_over.load(Ordering::Relaxed) {
        let is_before = conversation.measurements.sent < MESSAGES_BEFORE;
        conversation.send_next(is_before);
        if conversation.measurements.sent == MESSAGES_BEFORE {
            let _ = attack_can_start.send(());
        }
        sent_during += usize::from(!is_before);
        let next = conversation.start + due(conversation.measurements.sent);
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            conversation.receive_for(left);
        }
        conversation.receive_for(Duration::ZERO);
    }
    conversation.finish()
}

/// Returns the intended send time of message `number`, since the start of the conversation.
fn due(number: usize) -> Duration {
    INTERVAL * u32::try_from(number).expect("a short conversation")
}

impl Conversation {
    /// Connects all chat users and waits until each is a member of its room.
    fn start(address: SocketAddr) -> Self {
        let mut clients = ManyClients::connect(address, ROOMS.into_iter().cycle().take(USERS));
        for index in 0..USERS {
            clients.send(index, &frame(TEXT, format!("here {index}").as_bytes()));
        }
        let mut here = [false; USERS];
        while here.contains(&false) {
            clients.poll(|index, _, payload| {
                here[index] |= payload.ends_with(format!("here {index}").as_bytes())
            });
        }
        let received = Received { last: vec![0; USERS], ..Received::default() };
        Self {
            clients,
            received: vec![received; USERS],
            measurements: Measurements::default(),
            sent: vec![0; USERS],
            start: Instant::now(),
        }
    }

    /// Sends the next message of the conversation. Its delivery time counts from its intended send time.
    fn send_next(&mut self, is_before: bool) {
        let index = self.measurements.sent % USERS;
        self.sent[index] += 1;
        let due_us = due(self.measurements.sent).as_micros();
        let text = format!("talk {index} {} {due_us} {}", self.sent[index], u8::from(is_before));
        self.clients.send(index, &frame(TEXT, text.as_bytes()));
        self.measurements.sent += 1;
    }

    fn receive_for(&mut self, timeout: Duration) {
        let Self { clients, received, measurements, start, .. } = self;
        clients.poll_for(timeout, |index, first, payload| {
            assert_ne!(first, 0x88, "user {index} was closed: {}", payload.escape_ascii());
            let Some(message) = ChatMessage::parse(first, payload) else { return };
            assert_eq!(message.sender % ROOMS.len(), index % ROOMS.len(), "received in another room");
            received[index].add(&message);
            let now_us = start.elapsed().as_micros() as u64;
            let latencies =
                if message.is_before { &mut measurements.before } else { &mut measurements.during };
            latencies.add(Duration::from_micros(now_us.saturating_sub(message.due_us)));
            measurements.received += 1;
        });
    }

    /// Waits for the remaining messages, then asserts that all members of a room have received equal messages in one
    /// order.
    fn finish(mut self) -> Measurements {
        let deadline = Instant::now() + TIMEOUT;
        let room_size = USERS / ROOMS.len();
        while self.measurements.received < self.measurements.sent * room_size {
            assert!(
                Instant::now() < deadline,
                "messages are missing: {} sent to {room_size} users each, {} received by all",
                self.measurements.sent,
                self.measurements.received
            );
            self.receive_for(Duration::from_millis(100));
        }
        for (index, received) in self.received.iter().enumerate() {
            let first = &self.received[index % ROOMS.len()];
            assert_eq!(
                (received.count, received.order_hash),
                (first.count, first.order_hash),
                "two members of a room received different messages"
            );
            for sender in (index % ROOMS.len()..USERS).step_by(ROOMS.len()) {
                assert_eq!(
                    received.last[sender], self.sent[sender],
                    "user {index} has not received all messages of user {sender}"
                );
            }
        }
        self.measurements
    }
}

impl Received {
    fn add(&mut self, message: &ChatMessage) {
        let ChatMessage { sender, number, .. } = *message;
        assert_eq!(
            number,
            self.last[sender] + 1,
            "a message of user {sender} is missing, duplicated or out of order"
        );
        self.last[sender] = number;
        self.count += 1;
        // One step of an FNV-1a hash, with a whole message as its unit instead of a byte.
        let message = (sender as u64) << 32 | number as u64;
        self.order_hash = (self.order_hash ^ message).wrapping_mul(0x0100_0000_01b3);
    }
}

impl ChatMessage {
    /// Parses a received frame. Returns `None` for frames that are not part of the conversation. The chat puts the name
    /// of the sender before the text, a relay nothing.
    fn parse(first: u8, payload: &[u8]) -> Option<Self> {
        if first != TEXT {
            return None;
        }
        let (name, text) = str::from_utf8(payload).expect("the chat sends text").split_once("talk ")?;
        assert!(name.is_empty() || name.starts_with("User #") && name.ends_with(": "), "{name}");
        let mut words = text.split(' ');
        let mut next = || words.next()?.parse::<u64>().ok();
        let (sender, number, due_us, is_before) = (next()?, next()?, next()?, next()?);
        Some(Self { sender: sender as usize, number: number as usize, due_us, is_before: is_before == 1 })
    }
}
