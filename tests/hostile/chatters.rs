//! The people who just want to talk.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::support::TIMEOUT;
use crate::support::many_clients::ManyClients;
use crate::support::raw::{TEXT, frame};

/// How many there are.
pub(crate) const CHATTERS: usize = 200;
/// Their rooms, by turns.
pub(crate) const ROOMS: [&str; 4] = ["kitchen", "garden", "attic", "cellar"];
/// Time between two messages, of all together: each says something every two seconds.
const INTERVAL: Duration = Duration::from_millis(10);
/// Messages before the attack, and at least so many during it.
const CALM: usize = 50;
const LEAST: usize = 80;

/// How long deliveries took.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    micros: Vec<u32>,
}

/// What the chatters noticed.
#[derive(Debug, Default)]
pub(crate) struct Noticed {
    pub(crate) calm: Latencies,
    pub(crate) attacked: Latencies,
    /// Messages said.
    pub(crate) said: usize,
    /// Messages heard by all of them together.
    pub(crate) heard: usize,
}

impl Latencies {
    /// The latency, in microseconds, that so many of a thousand deliveries do not exceed.
    pub(crate) fn permille(&mut self, permille: usize) -> u32 {
        self.micros.sort_unstable();
        let at = (self.micros.len() * permille / 1000).min(self.micros.len().saturating_sub(1));
        self.micros.get(at).copied().unwrap_or_default()
    }
}

/// What one of them has heard.
#[derive(Clone, Debug, Default)]
struct Ear {
    count: usize,
    /// Depends on each message heard, and on their order.
    order: u64,
    /// Number of the last message of each member of the room that was heard, by index.
    last: Vec<usize>,
}

/// A conversation under way.
struct Talk {
    crowd: ManyClients,
    ears: Vec<Ear>,
    noticed: Noticed,
    /// What each has said.
    said: Vec<usize>,
    begin: Instant,
}

/// Has the chatters talk: some time in peace, of which the end is told to `calm_over`, then until `attack_over` is
/// set. Returns when everybody has heard everything, and panics when somebody has not.
pub(crate) fn talk(address: SocketAddr, calm_over: &Sender<()>, attack_over: &Arc<AtomicBool>) -> Noticed {
    let mut talk = Talk::begin(address);
    let mut attacked = 0;
    while attacked < LEAST || !attack_over.load(Ordering::Relaxed) {
        let is_calm = talk.noticed.said < CALM;
        talk.say_next(is_calm);
        if talk.noticed.said == CALM {
            let _ = calm_over.send(());
        }
        attacked += usize::from(!is_calm);
        let next = talk.begin + INTERVAL * u32::try_from(talk.noticed.said).expect("a short talk");
        while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            talk.listen(left);
        }
        talk.listen(Duration::ZERO);
    }
    talk.end()
}

impl Talk {
    /// All are there, and each knows it of itself.
    fn begin(address: SocketAddr) -> Self {
        let mut crowd = ManyClients::connect(address, ROOMS.into_iter().cycle().take(CHATTERS));
        for index in 0..CHATTERS {
            crowd.send(index, &frame(TEXT, format!("here {index}").as_bytes()));
        }
        let mut here = [false; CHATTERS];
        while here.contains(&false) {
            crowd.poll(|index, _, payload| {
                here[index] |= payload.ends_with(format!(": here {index}").as_bytes())
            });
        }
        let ear = Ear { last: vec![0; CHATTERS], ..Ear::default() };
        Self {
            crowd,
            ears: vec![ear; CHATTERS],
            noticed: Noticed::default(),
            said: vec![0; CHATTERS],
            begin: Instant::now(),
        }
    }

    /// Says the next message; it counts from when it should have been said.
    fn say_next(&mut self, is_calm: bool) {
        let index = self.noticed.said % CHATTERS;
        self.said[index] += 1;
        let due = INTERVAL * u32::try_from(self.noticed.said).expect("a short talk");
        let text = format!("talk {index} {} {} {}", self.said[index], due.as_micros(), u8::from(is_calm));
        self.crowd.send(index, &frame(TEXT, text.as_bytes()));
        self.noticed.said += 1;
    }

    fn listen(&mut self, patience: Duration) {
        let Self { crowd, ears, noticed, begin, .. } = self;
        crowd.poll_for(patience, |index, first, payload| {
            if let Some((who, number, due, is_calm)) = parse(first, payload) {
                assert_eq!(who % ROOMS.len(), index % ROOMS.len(), "heard in another room");
                ears[index].hear(who, number);
                let now = begin.elapsed().as_micros() as u64;
                let latencies = if is_calm { &mut noticed.calm } else { &mut noticed.attacked };
                latencies.micros.push(u32::try_from(now.saturating_sub(due)).unwrap_or(u32::MAX));
                noticed.heard += 1;
            }
        });
    }

    /// Waits for the last words, and compares.
    fn end(mut self) -> Noticed {
        let deadline = Instant::now() + TIMEOUT;
        let room_size = CHATTERS / ROOMS.len();
        while self.noticed.heard < self.noticed.said * room_size {
            assert!(
                Instant::now() < deadline,
                "somebody has not heard everything: {} said, {} heard by all of {room_size}",
                self.noticed.said,
                self.noticed.heard
            );
            self.listen(Duration::from_millis(100));
        }
        for (index, ear) in self.ears.iter().enumerate() {
            let first = &self.ears[index % ROOMS.len()];
            assert_eq!(
                (ear.count, ear.order),
                (first.count, first.order),
                "two of a room heard different things"
            );
            for who in (index % ROOMS.len()..CHATTERS).step_by(ROOMS.len()) {
                assert_eq!(ear.last[who], self.said[who], "{index} has not heard all of {who}");
            }
        }
        self.noticed
    }
}

impl Ear {
    fn hear(&mut self, who: usize, number: usize) {
        assert_eq!(number, self.last[who] + 1, "a message of {who} is missing, doubled or too early");
        self.last[who] = number;
        self.count += 1;
        // FNV-1a over the names of the messages.
        let message = (who as u64) << 32 | number as u64;
        self.order = (self.order ^ message).wrapping_mul(0x0100_0000_01b3);
    }
}

/// Who said it, the how-manieth message of theirs it is, when it was due, and whether that was before the attack.
fn parse(first: u8, payload: &[u8]) -> Option<(usize, usize, u64, bool)> {
    if first != TEXT {
        return None;
    }
    let (label, text) = str::from_utf8(payload).expect("the chat sends text").split_once(": talk ")?;
    assert!(label.starts_with("User #"), "{label}");
    let mut words = text.split(' ');
    let mut number = || words.next()?.parse::<u64>().ok();
    let (who, nth, due, is_calm) = (number()?, number()?, number()?, number()?);
    Some((who as usize, nth as usize, due, is_calm == 1))
}
