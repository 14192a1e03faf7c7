//! Publishing from threads outside the server.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use uproar::app::{App, ClientId, CloseCode, Context, Incoming, Kind, Message, Note, Opening};
use uproar::config::{AppName, BackendName};
use uproar::publisher::{AskError, PendingReceipt, Position, PublishError, Publisher, Receipt};

use crate::support::client::Client;
use crate::support::{TIMEOUT, TestServer, config, wait_until};

on_both_backends!(
    many_threads_publish_in_order_with_consecutive_numbers,
    a_silent_server_wakes_up_for_each_message,
    on_publish_refuses_messages_from_outside,
    a_message_to_an_empty_room_is_unheard_and_a_new_room_has_a_new_epoch,
    a_receipt_reaches_a_function_a_waiting_thread_and_a_future,
    a_full_queue_is_an_error_and_harms_nobody,
    a_message_over_the_limit_is_refused,
    after_the_shutdown_nothing_is_accepted,
    a_thread_answers_one_client_and_closes_another,
    a_note_from_outside_reaches_an_instance,
    a_function_that_panics_harms_nobody,
);

/// Joins each client to its room, and refuses messages that begin with `bad`. Blocks while `gate` is locked and a
/// client says `block`. Gives work to threads on the command `work`.
struct Outside {
    gate: Arc<Mutex<()>>,
    is_blocked: Arc<AtomicBool>,
    clients: Vec<ClientId>,
}

struct Tell(String);

impl App for Outside {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        self.clients.push(client);
        context.join(client, opening.room, 0);
        context.send_to_client(client, Message::text("joined"));
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        let publisher = context.publisher().clone();
        match message.text() {
            Some("block") => {
                self.is_blocked.store(true, Ordering::SeqCst);
                drop(self.gate.lock().expect("no panic"));
            }
            Some("work") => {
                thread::spawn(move || publisher.send_to_client(client, Message::text("worked")));
            }
            Some("leave") => {
                thread::spawn(move || publisher.close(client, CloseCode(4_001), "worked"));
            }
            _ => context.publish_to_rooms_of(client, message.into()),
        }
    }

    fn on_publish(&mut self, _: &str, _: Option<ClientId>, _: Kind, payload: &[u8]) -> bool {
        assert_ne!(payload, b"bad boom", "told to panic");
        !payload.starts_with(b"bad")
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        let Ok(tell) = note.downcast::<Tell>() else { return };
        for client in &self.clients {
            context.send_to_client(*client, Message::text(&tell.0));
        }
    }
}

/// A server with the application [`Outside`], and what blocks it.
struct Rig {
    server: TestServer,
    publisher: Publisher,
    gate: Arc<Mutex<()>>,
    is_blocked: Arc<AtomicBool>,
}

impl Rig {
    fn start(backend: BackendName, workers: u16) -> Self {
        let (gate, is_blocked) = (Arc::<Mutex<()>>::default(), Arc::<AtomicBool>::default());
        let app = (Arc::clone(&gate), Arc::clone(&is_blocked));
        let server = TestServer::start_app(&config(backend, AppName::Relay, workers), move |_| {
            let (gate, is_blocked) = (Arc::clone(&app.0), Arc::clone(&app.1));
            Box::new(Outside { gate, is_blocked, clients: Vec::new() })
        });
        let publisher = server.publisher();
        Self { server, publisher, gate, is_blocked }
    }

    /// Opens a client in `room` that is a member on the room's home shard, too.
    fn join(&self, room: &str) -> Client {
        let mut client = Client::open(self.server.address(), &format!("/room/{room}"));
        client.expect_text("joined");
        // Its own message comes back after the home shard knows of the member.
        client.send_text("ready");
        client.expect_text("ready");
        client
    }

    fn receipt(&self, room: &str, text: &str) -> Receipt {
        let pending = self.publisher.publish_with_receipt(room, Message::text(text)).expect("there is room");
        wait(pending)
    }
}

fn wait(pending: PendingReceipt) -> Receipt {
    pending.wait_timeout(TIMEOUT).expect("the receipt comes")
}

fn position(receipt: Receipt) -> Position {
    let Receipt::Ordered(position) = receipt else { panic!("{receipt:?}") };
    position
}

fn many_threads_publish_in_order_with_consecutive_numbers(backend: BackendName) {
    const THREADS: usize = 8;
    const EACH: usize = 500;
    let rig = Rig::start(backend, 3);
    let mut readers = [rig.join("news"), rig.join("news")];
    // The second member announced itself to the first.
    readers[0].expect_text("ready");
    let publish = |thread: usize| {
        let publisher = rig.publisher.clone();
        thread::spawn(move || {
            let publish = |number| {
                let text = format!("{thread} {number}");
                loop {
                    match publisher.publish_with_receipt("news", Message::text(&text)) {
                        Ok(pending) => return (text, pending),
                        Err(error) => assert_eq!(error, PublishError::Full),
                    }
                    thread::yield_now();
                }
            };
            let pending: Vec<_> = (0..EACH).map(publish).collect();
            pending.into_iter().map(|(text, pending)| (text, position(wait(pending)))).collect::<Vec<_>>()
        })
    };
    let threads: Vec<_> = (0..THREADS).map(publish).collect();
    let orders: Vec<Vec<String>> = readers
        .iter_mut()
        .map(|reader| (0..THREADS * EACH).map(|_| reader.receive_text()).collect())
        .collect();
    assert!(orders[0] == orders[1], "two members saw different orders");
    let places: HashMap<String, Position> =
        threads.into_iter().flat_map(|thread| thread.join().expect("all are accepted")).collect();
    let first = places[&orders[0][0]];
    for (text, number) in orders[0].iter().zip(first.number..) {
        assert_eq!(places[text], Position { number, ..first }, "{text}");
    }
    for thread in 0..THREADS {
        let mine = orders[0].iter().filter(|text| text.starts_with(&format!("{thread} ")));
        assert!(mine.eq((0..EACH).map(|number| format!("{thread} {number}")).collect::<Vec<_>>().iter()));
    }
}

fn a_silent_server_wakes_up_for_each_message(backend: BackendName) {
    const MESSAGES: u64 = 20;
    let rig = Rig::start(backend, 1);
    let mut reader = rig.join("clock");
    // With a pause before each message, the shard sleeps when the message comes.
    let mut turns = 0;
    for number in 0..MESSAGES {
        thread::sleep(Duration::from_millis(20));
        turns = if number == 1 { rig.server.totals().turns } else { turns };
        rig.publisher.publish("clock", Message::text(&number.to_string())).expect("there is room");
        reader.expect_text(&number.to_string());
    }
    let turns = rig.server.totals().turns - turns;
    assert!(turns <= 8 * MESSAGES, "{turns} turns for {MESSAGES} messages");
}

fn on_publish_refuses_messages_from_outside(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut reader = rig.join("news");
    let first = position(rig.receipt("news", "one"));
    assert_eq!(rig.receipt("news", "bad idea"), Receipt::Refused);
    assert_eq!(rig.receipt("news", "bad boom"), Receipt::Refused);
    let second = position(rig.receipt("news", "two"));
    assert_eq!(second, Position { number: first.number + 1, ..first });
    reader.expect_text("one");
    reader.expect_text("two");
    assert_eq!(rig.server.totals().panics, 1);
}

fn a_message_to_an_empty_room_is_unheard_and_a_new_room_has_a_new_epoch(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    assert_eq!(rig.receipt("news", "nobody"), Receipt::Unheard);
    let reader = rig.join("news");
    let first = position(rig.receipt("news", "somebody"));
    drop(reader);
    let is_forgotten = || rig.receipt("news", "nobody again") == Receipt::Unheard;
    wait_until("the room is forgotten", is_forgotten);
    let _reader = rig.join("news");
    let second = position(rig.receipt("news", "somebody again"));
    assert_ne!(second.epoch, first.epoch);
    // Number 0 is the message of the member itself.
    assert_eq!((first.number, second.number), (1, 1));
}

/// Wakes a thread that blocks on a future.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(TIMEOUT),
        }
    }
}

fn a_receipt_reaches_a_function_a_waiting_thread_and_a_future(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut reader = rig.join("news");
    let first = position(rig.receipt("news", "thread"));
    let message = Message::text("future");
    let pending = rig.publisher.publish_with_receipt("news", message).expect("there is room");
    let second = position(block_on(async { pending.await }));
    let (sender, receiver) = mpsc::channel();
    let then = move |receipt| sender.send(receipt).expect("the test waits");
    rig.publisher.publish_then("news", Message::text("function"), then).expect("there is room");
    let third = position(receiver.recv_timeout(TIMEOUT).expect("the function is called"));
    assert_eq!([second.number, third.number], [first.number + 1, first.number + 2]);
    ["thread", "future", "function"].iter().for_each(|text| reader.expect_text(text));
}

fn a_full_queue_is_an_error_and_harms_nobody(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut reader = rig.join("news");
    let lock = rig.gate.lock().expect("no panic");
    reader.send_text("block");
    wait_until("the shard is blocked", || rig.is_blocked.load(Ordering::SeqCst));
    let publish = |number: usize| rig.publisher.publish("news", Message::text(&number.to_string()));
    let accepted = (0..10_000).take_while(|number| publish(*number).is_ok()).count();
    assert_eq!(accepted, 4_096);
    assert_eq!(publish(0), Err(PublishError::Full));
    let called = Arc::new(AtomicBool::new(false));
    let then = Arc::clone(&called);
    let result = rig.publisher.publish_then("news", Message::text("x"), move |_| {
        then.store(true, Ordering::SeqCst);
    });
    assert_eq!(result, Err(PublishError::Full));
    let AskError { reason, note } = rig.publisher.ask(0, Tell("kept".into())).expect_err("it is full");
    assert_eq!((reason, &*note.0), (PublishError::Full, "kept"));
    let pending = rig.publisher.publish_with_receipt("news", Message::text("x"));
    assert_eq!(pending.expect_err("it is full"), PublishError::Full);
    drop(lock);
    (0..accepted).for_each(|number| reader.expect_text(&number.to_string()));
    assert!(!called.load(Ordering::SeqCst));
    position(rig.receipt("news", "room again"));
    reader.expect_text("room again");
}

fn a_message_over_the_limit_is_refused(backend: BackendName) {
    const LIMIT: usize = 4 << 20;
    let rig = Rig::start(backend, 1);
    let publish = |len| rig.publisher.publish_with_receipt("news", Message::binary(&vec![0; len]));
    assert_eq!(publish(LIMIT).expect_err("the name counts, too"), PublishError::TooLarge);
    assert_eq!(wait(publish(LIMIT - 4).expect("it fits")), Receipt::Unheard);
    let error = rig.publisher.ask_sized(0, Tell(String::new()), LIMIT).expect_err("it is too large");
    assert_eq!(error.reason, PublishError::TooLarge);
}

fn after_the_shutdown_nothing_is_accepted(backend: BackendName) {
    let settings = config(backend, AppName::Relay, 2);
    let mut server = uproar::Server::start(&settings).expect("it starts");
    let publisher = server.publisher();
    let thread = {
        let publisher = publisher.clone();
        thread::spawn(move || {
            let mut receipts = Vec::new();
            loop {
                match publisher.publish_with_receipt("news", Message::text("x")) {
                    Ok(pending) => receipts.push(pending),
                    Err(PublishError::Full) => thread::yield_now(),
                    Err(error) => return (error, receipts),
                }
            }
        })
    };
    thread::sleep(Duration::from_millis(20));
    server.stop();
    server.join();
    let (error, receipts) = thread.join().expect("no panic");
    assert_eq!(error, PublishError::Stopped);
    let receipts: Vec<Receipt> = receipts.into_iter().map(wait).collect();
    let handled = receipts.iter().take_while(|receipt| **receipt == Receipt::Unheard).count();
    assert!(handled > 0 && receipts[handled..].iter().all(|receipt| *receipt == Receipt::Stopped));
    assert_eq!(publisher.ask(0, 5_u8).expect_err("it has stopped").note, 5);
}

fn a_thread_answers_one_client_and_closes_another(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let (mut one, mut other) = (rig.join("one"), rig.join("other"));
    one.send_text("work");
    one.expect_text("worked");
    other.send_text("leave");
    assert_eq!(other.wait_for_close(), (4_001, "worked".into()));
    one.send_text("still here");
    one.expect_text("still here");
}

fn a_note_from_outside_reaches_an_instance(backend: BackendName) {
    let rig = Rig::start(backend, 2);
    let mut client = rig.join("news");
    for shard in 0..rig.publisher.shard_count() {
        rig.publisher.ask(shard, Tell("psst".into())).expect("there is room");
    }
    client.expect_text("psst");
}

fn a_function_that_panics_harms_nobody(backend: BackendName) {
    let rig = Rig::start(backend, 1);
    let mut reader = rig.join("news");
    let message = Message::text("one");
    rig.publisher.publish_then("news", message, |_| panic!("told to panic")).expect("there is room");
    position(rig.receipt("news", "two"));
    ["one", "two"].iter().for_each(|text| reader.expect_text(text));
    assert_eq!(rig.server.totals().panics, 1);
}
