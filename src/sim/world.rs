//! One simulation run: shards, kernels and clients on one thread, in an order that the seed decides.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::app::App;
use crate::config::{self, Compression, LagPolicy};
use crate::hub::{self, Hub};
use crate::io::{Backend, BackendOptions, Uring};
use crate::protocol::MessageLimits;
use crate::publisher::Publisher;
use crate::shard::admission::{self, Admission};
use crate::shard::memory::MemoryPart;
use crate::shard::{Address, Bounds, Pace, Parts, Settings, Shard, ShardId, Shared, TimeLimits, mailbox_of};
use crate::stats::Totals;
use crate::transport::{Events, Transport};

use super::asker::{Asker, Deferred, Later};
use super::client::{Character, Client, Rules};
use super::fault::{Fault, end_turn};
use super::kernel::{Core, Simulated};
use super::lounge;
use super::net::Net;
use super::outside::Outside;
use super::random::Random;
use super::returns::SessionRules;
use super::truth::{Application, Truth, Watch};

const PING_MS: u64 = 3_000;
const CLOSE_MS: u64 = 500;
const DRAIN_MS: u64 = 400;
/// Maximum size, in bytes, of the history that a room keeps.
const HISTORY_BYTES: usize = 2_000;
/// Maximum number of steps until everything must have come to an end.
const PATIENCE: usize = 400_000;

/// A simulated shard with its kernel.
struct Driver {
    shard: Shard<Uring<Simulated>>,
    core: Rc<RefCell<Core>>,
    events: Events,
    /// End of the shard's wait in milliseconds. `Some(None)` is a wait without end, `None` means that the shard does
    /// not wait.
    wait: Option<Option<u64>>,
    over: bool,
}

impl Driver {
    /// Runs half a turn of the shard, unless it still sleeps. Returns whether the shard ran.
    fn step(&mut self, now_ms: u64, early: bool, admission: &Admission) -> bool {
        if self.over {
            return false;
        }
        let Some(until) = self.wait else {
            let timeout = self.shard.begin_turn(&mut self.events);
            self.core.borrow_mut().submit();
            self.wait = Some(timeout.map(|timeout| now_ms + timeout.as_millis() as u64));
            return true;
        };
        let mut core = self.core.borrow_mut();
        let fault = core.net.borrow().fault;
        if self.shard.waker().was_written() && fault != Some(Fault::LostWake) {
            core.woken();
        }
        let is_due = !core.ready.is_empty() || until.is_some_and(|until| until <= now_ms);
        drop(core);
        if !is_due && !early {
            return false;
        }
        end_turn(&mut self.shard, &mut self.events, admission, fault);
        self.core.borrow_mut().check_heard(|slot| self.shard.listens_to(slot));
        self.wait = None;
        self.over = self.shard.is_finished();
        if self.over {
            self.shard.close_entrance();
        }
        true
    }
}

pub(super) struct World {
    net: Rc<RefCell<Net>>,
    truth: Truth,
    rules: Rules,
    drivers: Vec<Driver>,
    clients: Vec<Client>,
    outside: Outside,
    askers: Vec<Asker>,
    /// Requests of `askers` that wait for their answers.
    deferred: Deferred,
    /// Whether deferred requests get no answers while the server shuts down.
    keeps_answers: bool,
    shared: Arc<Shared>,
    addresses: Vec<Address>,
    random: Random,
    steps: usize,
    /// Index of a shard that gets no turn for a while. `None` while no shard is stalled.
    stalled: Option<usize>,
    /// Whether the server may limit the rate of clients.
    is_paced: bool,
    /// Whether rooms with members keep their history during the whole run.
    keeps_history: bool,
    /// Random source of new settings. `None` if the settings stay as they are during the run.
    reloads: Option<Random>,
}

/// The result of a simulation run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Hash of all events of the run, in order.
    pub(super) trace: u64,
    pub(super) totals: Totals,
    pub(super) heard: u64,
    pub(super) inflated: u64,
    pub(super) deflated: u64,
    pub(super) starved: u64,
    pub(super) paused: u64,
    /// Number of messages from outside that have a place in a room's order.
    pub(super) from_outside: u64,
    /// Number of messages from outside that found the queue of their shard full.
    pub(super) full: u64,
    /// Number of HTTP responses, and of those that were deferred.
    pub(super) answered: u64,
    pub(super) answered_later: u64,
    /// Number of lists of members that were compared with the true members.
    pub(super) compared: u64,
    /// Number of reports that a room is occupied or vacated.
    pub(super) occupancies: u64,
    /// Number of reports about single members of rooms.
    pub(super) member_reports: u64,
    /// Number of messages to users that clients got.
    pub(super) to_users: u64,
    /// Number of lists of members of presence channels that clients got.
    pub(super) lists: u64,
    /// Number of answers with a user's clients that were compared with the true clients.
    pub(super) compared_users: u64,
    /// Number of sessions that were continued, of messages that were sent again for them, and of missed ones.
    pub(super) resumed: u64,
    pub(super) replayed: u64,
    pub(super) missed: u64,
}

/// Runs the simulation with a seed to its end.
///
/// # Panics
/// If a check fails.
pub(super) fn run(seed: u64, verbose: bool) -> Outcome {
    play_out(World::new(seed, verbose, None))
}

/// Runs the simulation with a seed and an injected fault.
///
/// # Panics
/// If a check fails, because of this fault or another bug.
pub(super) fn run_with_fault(seed: u64, fault: Fault) -> Outcome {
    play_out(World::new(seed, false, Some(fault)))
}

/// Runs the simulation with a seed, and with settings that change now and then.
///
/// # Panics
/// If a check fails.
pub(super) fn run_with_reloads(seed: u64) -> Outcome {
    let mut world = World::new(seed, false, None);
    world.reloads = Some(Random::new(seed));
    // The changed settings may have a rate limit.
    world.is_paced = true;
    // The changed settings may have a shorter history.
    world.keeps_history = false;
    // The changed settings may let a client that lags skip messages.
    world.rules.skips = true;
    play_out(world)
}

/// Runs the simulation with a seed, with clients in many rooms, and with an injected fault if there is one.
///
/// # Panics
/// If a check fails.
pub(super) fn run_in_many_rooms(seed: u64, fault: Option<Fault>) -> Outcome {
    let mut world = World::with(seed, false, fault, Some(Application::Lodge));
    // No room keeps a history, which a member would get again when it joins again.
    world.keeps_history = false;
    play_out(world)
}

/// Runs the simulation with a seed, with clients of the Pusher protocol, and with an injected fault if there is one.
///
/// # Panics
/// If a check fails.
pub(super) fn run_pusher(seed: u64, fault: Option<Fault>) -> Outcome {
    play_out(World::with(seed, false, fault, Some(Application::Pusher)))
}

/// Runs the simulation with a seed, with clients that return with their sessions, and with an injected fault if there is
/// one.
///
/// # Panics
/// If a check fails.
pub(super) fn run_with_sessions(seed: u64, fault: Option<Fault>) -> Outcome {
    let mut random = Random::new(seed ^ 0x5e55);
    let is_lossy = random.once_in(2);
    let session_ms = if is_lossy { random.pick(&[500, 5_000]) } else { 60_000 };
    let sessions = SessionRules { session_ms, is_lossy };
    let mut world = World::with_rules(seed, false, fault, Some(Application::Relay), Some(sessions));
    // A room may keep messages that no newcomer gets.
    world.keeps_history = false;
    world.steps = random.between(2_000, 6_000);
    world.clients.truncate(6);
    play_out(world)
}

fn play_out(mut world: World) -> Outcome {
    world.play();
    if world.random.once_in(4) {
        world.stop();
        world.play();
        world.calm();
        world.drain();
        world.truth.borrow().check_handlers();
        return world.outcome();
    }
    world.calm();
    world.check_current();
    world.check_history();
    if world.random.once_in(2) {
        world.empty();
    }
    world.drain();
    world.truth.borrow().check_handlers();
    world.outcome()
}

impl World {
    fn new(seed: u64, verbose: bool, fault: Option<Fault>) -> Self {
        Self::with(seed, verbose, fault, None)
    }

    /// Creates a world with this application. Without it the seed decides.
    fn with(seed: u64, verbose: bool, fault: Option<Fault>, application: Option<Application>) -> Self {
        Self::with_rules(seed, verbose, fault, application, None)
    }

    /// Creates a world in which clients have sessions, if there are rules for them.
    fn with_rules(
        seed: u64,
        verbose: bool,
        fault: Option<Fault>,
        application: Option<Application>,
        sessions: Option<SessionRules>,
    ) -> Self {
        let mut random = Random::new(seed);
        let shards = random.between(1, 3);
        let net = Rc::new(RefCell::new(Net::new(Random::new(random.next()), shards, verbose, fault)));
        let mut rules = Rules {
            shards,
            rooms: (0..random.between(1, 3)).map(|number| format!("room{number}")).collect(),
            application: random.pick(&[
                Application::Relay,
                Application::Relay,
                Application::Relay,
                Application::Chat,
                Application::Echo,
            ]),
            addresses: random.between(1, 4),
            skips: random.once_in(3),
            jumps: random.once_in(8),
            ends_idle: false,
            has_little_memory: false,
            is_stopping: false,
            sessions: None,
        };
        if let Some(application) = application {
            rules.application = application;
            rules.rooms = (0..random.pick(&[3, 30, 300])).map(|number| format!("room{number}")).collect();
        }
        if let Some(sessions) = sessions {
            rules.rooms = (0..random.between(1, 3)).map(|number| format!("room{number}")).collect();
            rules.sessions = Some(sessions);
            // A jump may be longer than a session.
            rules.jumps &= sessions.is_lossy;
        }
        let shared = Arc::new(Shared::new(admission::ConnectionLimits {
            server: random.pick(&[5, 1_000]),
            per_address: random.pick(&[0, 0, 3]),
            handshakes: random.pick(&[2, 1_000]),
            rate: 0,
        }));
        let mut world = Self {
            net,
            truth: Truth::default(),
            rules,
            drivers: Vec::new(),
            clients: Vec::new(),
            outside: Outside::new(Publisher::new(std::iter::empty(), &Arc::default()), Random::new(0)),
            askers: Vec::new(),
            deferred: Deferred::default(),
            keeps_answers: false,
            shared,
            addresses: Vec::new(),
            steps: if random.once_in(40) { 10_000 } else { random.between(300, 3_000) },
            random,
            stalled: None,
            is_paced: false,
            keeps_history: false,
            reloads: None,
        };
        world.add_shards();
        let characters = [
            Character::Lively,
            Character::Lively,
            Character::Slow,
            Character::Silent,
            Character::Deaf,
            Character::Rude,
            Character::Fickle,
            Character::Rough,
            Character::Half,
        ];
        let clients = if world.random.once_in(10) { 40 } else { world.random.between(2, 12) };
        for _ in 0..clients {
            let character = world.random.pick(&characters);
            let number = world.clients.len();
            world.clients.push(match sessions {
                Some(_) => Client::returning(character, number),
                None => Client::new(character),
            });
        }
        world
    }

    fn add_shards(&mut self) {
        // A generator of its own, so that the rest of a seed's run does not depend on what happens outside.
        let mut outside = Random::new(!self.random.clone().next());
        let entries = outside.pick(&[2, 16, 4_096]);
        let keep_alive_ms = outside.pick(&[0, 20, 75_000, 75_000]);
        self.rules.ends_idle = keep_alive_ms == 20;
        self.keeps_answers = outside.once_in(4);
        for number in 0..outside.below(5) as u64 {
            let random = Random::new(outside.next());
            self.askers.push(Asker::new(number, random, &self.deferred));
        }
        let random = &mut self.random;
        let options = BackendOptions {
            buffers: random.pick(&[2, 4, 16]),
            buffer_len: random.pick(&[16, 128, 4_096]),
            slots: random.pick(&[3, 16, 32]),
        };
        let lag_window = random.pick(&[2_000, 20_000, 1 << 20]);
        let lag_policy = if self.rules.skips { LagPolicy::Skip } else { LagPolicy::Close };
        let shards = self.rules.shards as u16;
        let capacity = random.pick(&[1, 2, 64]);
        let bounds = Bounds {
            sends_per_turn: random.pick(&[1, 3, 1_024]),
            stuck_bytes: random.pick(&[0, 1_000, 256 << 10]),
            entries_per_turn: outside.pick(&[1, 3, 128]),
            // Simulated time stands still during a turn, so only limits of zero end the time for input.
            input_time: random.pick(&[
                TimeLimits::default(),
                TimeLimits { work_per_look: 0, buffer_ns: 0, received_ns: 0, held_ns: 0 },
                TimeLimits { work_per_look: 3 << 10, buffer_ns: 0, received_ns: 1, held_ns: 1 },
            ]),
        };
        // With lower rates than these, clients would wait for minutes.
        let pace = Pace { messages: random.pick(&[0, 0, 100]), bytes: random.pick(&[0, 0, 20_000]) };
        self.is_paced = pace.messages > 0 || pace.bytes > 0;
        let history_memory = random.pick(&[0, 3_000, 1 << 20]);
        self.keeps_history = history_memory == 0;
        let compression = random.pick(&[Compression::Off, Compression::Shared, Compression::Dedicated]);
        let context_memory = random.pick(&[0, 40_000, 1 << 20]);
        let compression_threshold = random.pick(&[0, 40, 400]);
        let memory = random.pick(&[48 << 10, 384 << 10, 1 << 30, 1 << 30]);
        let sessions = self.rules.sessions;
        let ack_ms = if sessions.is_some() { random.pick(&[1, 5, 50]) } else { 0 };
        let (lag_window, history_memory, memory) = match sessions {
            Some(SessionRules { is_lossy: false, .. }) => (1 << 20, 0, 1 << 30),
            _ => (lag_window, history_memory, memory),
        };
        self.rules.has_little_memory = memory < 1 << 30;
        let mut backends = Vec::new();
        for shard in 0..self.rules.shards {
            let kernel = Simulated::new(&self.net, shard, &options);
            let core = Rc::clone(&kernel.0);
            backends.push((Uring::on(kernel, &options).expect("a descriptor is left"), core));
        }
        let (addresses, mailboxes): (Vec<_>, Vec<_>) =
            backends.iter().map(|(backend, _)| mailbox_of(backend.waker(), capacity, entries)).unzip();
        for ((shard, (backend, core)), mailbox) in (0..shards).zip(backends).zip(mailboxes) {
            let (application, truth) = (self.rules.application, Rc::clone(&self.truth));
            let deferred = Rc::clone(&self.deferred);
            let inner = application.instance(&truth);
            let app = Box::new(Watch { inner, application, truth, deferred });
            let hub = Hub::new(hub::HubOptions {
                shard,
                shards,
                lag_window,
                history: app.history(),
                history_bytes: HISTORY_BYTES,
                history_ms: 2_000,
                history_memory,
                compression_threshold,
                max_rooms: 1_000,
                occupancy: app.watches_occupancy(),
                member_reports: app.watches_members(),
                session_ms: sessions.map_or(0, |sessions| sessions.session_ms),
                ack_ms,
                max_sessions: 1_000,
            });
            let settings = Settings {
                limits: MessageLimits { max_message: 60_000, max_request_body: 5_000 },
                compression,
                context_memory,
                memory: MemoryPart::of(memory),
                pace,
                lag_policy,
                has_sessions: sessions.is_some(),
                handshake_ms: 1_000,
                keep_alive_ms,
                ping_ms: PING_MS,
                pong_ms: 1_000,
                close_ms: CLOSE_MS,
                drain_ms: DRAIN_MS,
                ..Settings::new(&config::Options::default(), ShardId { index: shard, count: shards }, &*app)
            };
            let mut shard = Shard::new(Parts {
                settings,
                transport: Transport::plain(backend),
                hub,
                app,
                mailbox,
                addresses: addresses.clone(),
                shared: Arc::clone(&self.shared),
                stats: Arc::default(),
            });
            shard.set_bounds(bounds);
            self.drivers.push(Driver { shard, core, events: Events::default(), wait: None, over: false });
        }
        let doors = addresses.iter().map(|address| address.door.clone());
        self.outside = Outside::new(Publisher::new(doors, &self.shared.bans), outside);
        self.addresses = addresses;
    }

    /// Lets a random client, kernel or shard take one step. Returns whether it did something.
    fn step(&mut self, calm: bool) -> bool {
        let now_ms = self.net.borrow().now_ms;
        let random = &mut self.random;
        match random.below(10) {
            0..5 => {
                let client = random.below(self.clients.len());
                self.clients[client].step(&mut self.net.borrow_mut(), &self.rules, &self.truth, calm)
            }
            5..8 => self.drivers[random.below(self.rules.shards)].core.borrow_mut().step(),
            _ => {
                let at = random.below(self.rules.shards);
                if self.stalled == Some(at) && !calm {
                    return false;
                }
                let early = !calm && random.once_in(50);
                self.drivers[at].step(now_ms, early, &self.shared.admission)
            }
        }
    }

    /// Runs the part of the run in which kernels and network misbehave.
    fn play(&mut self) {
        for _ in 0..self.steps {
            self.step(false);
            self.outside.step(&mut self.net.borrow_mut(), &self.rules);
            for asker in &mut self.askers {
                asker.step(&mut self.net.borrow_mut(), &self.rules, false);
            }
            if self.outside.random.once_in(30) && !(self.keeps_answers && self.rules.is_stopping) {
                Later::answer_one(&self.deferred, &mut self.outside.random);
            }
            self.maybe_reload();
            if self.random.once_in(150) {
                self.stalled = Some(self.random.below(2 * self.rules.shards));
            }
            // Time passes more slowly with many clients, so that each client still does something.
            if self.random.once_in(40 + 4 * self.clients.len()) {
                let most = if self.rules.jumps && self.random.once_in(20) { 6_000 } else { 4 };
                self.net.borrow_mut().now_ms += self.random.between(1, most) as u64;
            }
        }
    }

    /// Changes the settings of all shards now and then, except the settings that clients know.
    fn maybe_reload(&mut self) {
        let Some(random) = &mut self.reloads else { return };
        if !random.once_in(50) {
            return;
        }
        self.shared.settings_update.publish(config::Options {
            max_message: 60_000,
            message_rate: Some(random.pick(&[0, 0, 100])),
            byte_rate: Some(random.pick(&[0, 0, 20_000])),
            lag_window: random.pick(&[2_000, 20_000, 1 << 20]),
            lag_policy: random.pick(&[LagPolicy::Close, LagPolicy::Skip]),
            compression: random.pick(&[Compression::Off, Compression::Shared, Compression::Dedicated]),
            compression_threshold: random.pick(&[0, 200]),
            context_memory: random.pick(&[0, 40_000, 1 << 20]),
            history_bytes: random.pick(&[0, 500, 2_000]),
            history_seconds: Duration::from_millis(random.pick(&[0, 100, 2_000])),
            history_memory: random.pick(&[0, 3_000, 1 << 20]),
            handshake_seconds: Duration::from_secs(1),
            ping_seconds: Duration::from_millis(PING_MS),
            pong_seconds: Duration::from_secs(1),
            close_seconds: Duration::from_millis(CLOSE_MS),
            drain_seconds: Duration::from_millis(DRAIN_MS),
            ..config::Options::default()
        });
        self.shared.admission.set_limits(admission::ConnectionLimits {
            server: random.pick(&[5, 1_000]),
            per_address: random.pick(&[0, 0, 3]),
            handshakes: random.pick(&[2, 1_000]),
            rate: random.pick(&[0, 0, 2]),
        });
        for address in &self.addresses {
            address.wake();
        }
    }

    /// Lets clients, kernels and shards finish their work for `duration_ms`, without starting anything new.
    fn settle(&mut self, duration_ms: u64) {
        let end_ms = self.net.borrow().now_ms + duration_ms;
        for _ in 0..PATIENCE {
            if (0..20).any(|_| self.step(true)) || self.step_everyone() {
                continue;
            }
            let deadlines = self.drivers.iter().filter(|driver| !driver.over);
            let next = deadlines.filter_map(|driver| driver.wait.flatten()).min();
            let mut net = self.net.borrow_mut();
            match next.filter(|next| *next <= end_ms) {
                Some(next) => net.now_ms = next.max(net.now_ms + 1),
                None => {
                    net.now_ms = end_ms;
                    return;
                }
            }
        }
        panic!("the run does not end in {PATIENCE} steps");
    }

    fn step_everyone(&mut self) -> bool {
        let now_ms = self.net.borrow().now_ms;
        let mut any = false;
        for client in &mut self.clients {
            any |= client.step(&mut self.net.borrow_mut(), &self.rules, &self.truth, true);
        }
        for asker in &mut self.askers {
            any |= asker.step(&mut self.net.borrow_mut(), &self.rules, true);
        }
        any |= !(self.keeps_answers && self.rules.is_stopping)
            && Later::answer_one(&self.deferred, &mut self.outside.random);
        for driver in &mut self.drivers {
            any |= driver.core.borrow_mut().step();
            any |= driver.step(now_ms, false, &self.shared.admission);
        }
        any
    }

    /// Ends all misbehaviour of kernels and network. Clients only read, and must soon have all of their messages.
    fn calm(&mut self) {
        self.net.borrow_mut().adverse = false;
        // Clients with a rate limit, and those whose shards are short of memory, need time to send the rest of their
        // messages.
        let reasons = u64::from(self.is_paced) + u64::from(self.rules.has_little_memory);
        self.settle(800.max(20_000 * reasons));
    }

    fn check_current(&self) {
        for client in &self.clients {
            client.check_current(&self.truth, self.rules.application, &self.outside);
        }
        for asker in &self.askers {
            asker.check_answered(&self.net.borrow(), &self.rules);
        }
        self.truth.borrow().check_occupancies();
        self.check_outside();
    }

    fn check_outside(&self) {
        // Changed settings may turn the history off for a while.
        let has_history =
            self.drivers[0].shard.history() > 0 && self.reloads.is_none() && !self.rules.has_little_memory;
        self.outside.check(&self.truth, has_history, self.rules.is_stopping);
    }

    /// Checks that a new client in each room gets the history that the room keeps, and nothing older.
    fn check_history(&mut self) {
        if matches!(self.rules.application, Application::Lodge | Application::Pusher) {
            return;
        }
        let members = self.clients.len();
        for room in &self.rules.rooms {
            let mut visitor = Client::new(Character::Silent);
            visitor.go_to(&mut self.net.borrow_mut(), &self.rules, room);
            self.clients.push(visitor);
        }
        self.settle(if self.rules.has_little_memory { 5_000 } else { 800 });
        let (members, visitors) = self.clients.split_at(members);
        let truth = self.truth.borrow();
        for (visitor, room) in visitors.iter().zip(&self.rules.rooms) {
            visitor.check_current(&self.truth, self.rules.application, &self.outside);
            let Some((_, shown)) = visitor.attends().and_then(|hearing| hearing.first(&truth)) else {
                continue;
            };
            let kept = truth.tail(room, self.drivers[0].shard.history(), HISTORY_BYTES);
            // The room may have been forgotten before its members came, but not after that.
            let seen = members.iter().filter_map(|member| member.attends()?.first(&truth));
            let seen = seen.filter(|(at, _)| at == room).map(|(_, first)| first).min();
            let len = truth.lines(room).len();
            let latest = seen
                .filter(|_| self.keeps_history && !self.rules.has_little_memory)
                .map_or(len, |first| kept.max(first));
            assert!(
                (kept..=latest).contains(&shown),
                "{room} was shown from {shown}, not {kept} or {latest}"
            );
        }
    }

    /// Closes all clients and checks that shards and kernels have nothing left over.
    fn empty(&mut self) {
        for _ in 0..3 {
            for client in &mut self.clients {
                client.leave(&mut self.net.borrow_mut());
            }
            for asker in &mut self.askers {
                asker.leave(&mut self.net.borrow_mut());
            }
            self.settle(PING_MS + 2 * CLOSE_MS);
        }
        // The timers of closed connections fire once more, and sessions are forgotten.
        let session_ms = self.rules.sessions.map_or(0, |sessions| sessions.session_ms);
        self.settle(80_000 + 11 * session_ms);
        self.truth.borrow().check_occupancies();
        if self.rules.application == Application::Pusher {
            lounge::check_vacant(&self.truth.borrow());
        }
        for (at, driver) in self.drivers.iter().enumerate() {
            let left = [driver.shard.leftovers(), driver.core.borrow().leftovers()].concat();
            assert!(left.is_empty(), "shard {at} keeps {}", left.join(", "));
        }
        let admission = &self.shared.admission;
        assert_eq!(
            (admission.count(), admission.addresses()),
            (0, 0),
            "connections are counted although there is none"
        );
    }

    fn outcome(&self) -> Outcome {
        let net = self.net.borrow();
        let sessions = || self.drivers.iter().map(|driver| driver.shard.session_counts());
        Outcome {
            resumed: sessions().map(|counts| counts.resumed).sum(),
            replayed: sessions().map(|counts| counts.replayed).sum(),
            missed: sessions().map(|counts| counts.missed).sum(),
            trace: net.trace,
            totals: Totals::of(self.drivers.iter().map(|driver| driver.shard.stats())),
            heard: net.heard,
            inflated: net.inflated,
            deflated: net.deflated,
            starved: net.starved,
            paused: net.paused,
            from_outside: self.outside.ordered(),
            full: self.outside.full,
            answered: self.askers.iter().map(|asker| asker.answered).sum(),
            answered_later: self.askers.iter().map(|asker| asker.answered_later).sum(),
            compared: self.truth.borrow().compared,
            occupancies: self.truth.borrow().occupancies,
            member_reports: self.truth.borrow().member_reports,
            to_users: net.to_users,
            lists: net.lists,
            compared_users: self.truth.borrow().compared_users,
        }
    }

    /// Begins the shutdown of the server.
    fn stop(&mut self) {
        self.rules.is_stopping = true;
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.addresses.iter().for_each(Address::wake);
    }

    /// Shuts the server down. Checks that every client is told and that the shutdown ends in time.
    fn drain(&mut self) {
        self.stop();
        self.settle(DRAIN_MS + CLOSE_MS + 200);
        for (at, driver) in self.drivers.iter().enumerate() {
            assert!(driver.over, "shard {at} did not end");
        }
        for client in &self.clients {
            client.check_told(&self.rules);
        }
        self.check_outside();
        for driver in &self.drivers {
            let stats = driver.shard.stats();
            let panics = stats.panics.get() as usize;
            self.net
                .borrow_mut()
                .note("end", [stats.turns.get() as usize, panics, stats.lagged.get() as usize]);
        }
    }
}
