//! Tests of costs that do not depend on the machine: allocations, memory and send operations.

#![expect(unsafe_code, reason = "a counting allocator implements an unsafe trait")]

#[macro_use]
#[path = "../e2e/support/mod.rs"]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
mod support;

mod pusher;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tungstenite::Message;
use uproar::app::{
    Answer, App, Chat, ClientId, Context, Echo, HttpRequest, Incoming, Members, Note, Opening, Relay,
    Response, Status,
};
use uproar::config::{AppName, BackendName, Config};

use support::client::Client;
use support::raw::{BINARY, RawClient, frame};
use support::tls::{Identity, TlsClient, VERSIONS};
use support::{TestServer, config, wait_until};

on_both_backends!(
    an_echo_allocates_nothing,
    a_broadcast_allocates_nothing,
    a_request_without_a_body_allocates_nothing,
    a_storm_takes_few_sends,
    an_update_of_presence_costs_one_send_and_few_allocations,
    an_idle_tls_connection_holds_no_buffer,
);

/// Global allocator of this test program: counts the allocations of threads whose `HEAP` is set.
struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocation counters, shared by a group of threads.
#[derive(Default)]
struct Heap {
    allocations: AtomicU64,
    /// Bytes allocated and not yet freed.
    live: AtomicI64,
}

thread_local! {
    /// The counters that this thread's allocations add to; `None` when none are counted.
    static HEAP: Cell<Option<&'static Heap>> = const { Cell::new(None) };
}

fn count(allocations: u64, bytes: usize, freed: usize) {
    if let Some(heap) = HEAP.get() {
        heap.allocations.fetch_add(allocations, Ordering::Relaxed);
        heap.live.fetch_add(bytes as i64 - freed as i64, Ordering::Relaxed);
    }
}

// SAFETY: every call is passed on to the system's allocator, which upholds the contract.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: the caller upholds the contract of this method, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, 0, layout.size());
        // SAFETY: the caller upholds the contract of this method, which is that of the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        count(1, new_len, layout.size());
        // SAFETY: the caller upholds the contract of this method, which is that of the system's allocator.
        unsafe { System.realloc(memory, layout, new_len) }
    }
}

/// Wraps an application: counts the allocations of its worker's thread from the first client on.
struct Counted<A>(A, &'static Heap);

impl<A: App> App for Counted<A> {
    fn on_request(&mut self, context: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        self.0.on_request(context, request)
    }

    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        HEAP.set(Some(self.1));
        self.0.on_open(context, client, opening);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        self.0.on_message(context, client, message);
    }

    fn on_close(&mut self, context: &mut Context<'_>, client: ClientId) {
        self.0.on_close(context, client);
    }

    fn on_ask(&mut self, context: &mut Context<'_>, note: Note) {
        self.0.on_ask(context, note);
    }

    fn on_tell(&mut self, context: &mut Context<'_>, note: Note) {
        self.0.on_tell(context, note);
    }

    fn on_timer(&mut self, context: &mut Context<'_>, token: u64) {
        self.0.on_timer(context, token);
    }

    fn describe_member(&mut self, room: &str, client: ClientId) -> String {
        self.0.describe_member(room, client)
    }

    fn on_members(&mut self, context: &mut Context<'_>, members: Members) {
        self.0.on_members(context, members);
    }
}

/// Starts a server. Returns it with the allocation counters of its workers.
fn start_counted<A: App + 'static>(settings: &Config, app: fn() -> A) -> (TestServer, &'static Heap) {
    let heap: &Heap = Box::leak(Box::default());
    (TestServer::start_app(settings, move |_| Box::new(Counted(app(), heap))), heap)
}

/// Opens a WebSocket and returns its unbuffered TCP stream.
fn open_client(server: &TestServer) -> TcpStream {
    let (stream, received) = RawClient::open(server.address(), "/room/costs").into_parts();
    assert!(received.is_empty(), "the server sends nothing by itself");
    stream
}

/// Sends `message` from the first client `times` times. After each send, every client reads `len` bytes.
fn exchange(clients: &mut [TcpStream], message: &[u8], len: usize, times: usize) {
    let mut received = vec![0; len];
    for _ in 0..times {
        clients[0].write_all(message).expect("the server reads");
        for client in &mut *clients {
            client.read_exact(&mut received).expect("the message arrives");
        }
    }
}

/// Asserts that the server delivers messages without allocating memory.
fn expect_no_allocations<A: App + 'static>(backend: BackendName, app: fn() -> A, clients: usize) {
    // The clients answer no pings, so no ping may come during the test.
    let base = config(backend, AppName::Relay, 1);
    let settings = Config { ping_seconds: Duration::from_secs(600), ..base };
    let (server, heap) = start_counted(&settings, app);
    let count = &heap.allocations;
    let mut clients: Vec<_> = (0..clients).map(|_| open_client(&server)).collect();
    for payload_len in [20, 64, 1_000] {
        let message = frame(BINARY, &vec![7; payload_len]);
        let received_len = payload_len + if payload_len < 126 { 2 } else { 4 };
        exchange(&mut clients, &message, received_len, 300);
        let mut in_a_thousand = || {
            let before = count.load(Ordering::Relaxed);
            exchange(&mut clients, &message, received_len, 1_000);
            count.load(Ordering::Relaxed) - before
        };
        // A buffer may grow to its final size late, for instance when idle connections are parked. Allow five rounds.
        let mut counts = Vec::new();
        while counts.len() < 5 && counts.last() != Some(&0) {
            counts.push(in_a_thousand());
        }
        assert!(counts.contains(&0), "{counts:?} in 1,000 messages of {payload_len} bytes");
    }
    assert!(count.load(Ordering::Relaxed) > 0, "the allocations of the handshakes are counted");
}

fn an_echo_allocates_nothing(backend: BackendName) {
    expect_no_allocations(backend, || Echo, 1);
}

fn a_broadcast_allocates_nothing(backend: BackendName) {
    expect_no_allocations(backend, Relay::default, 30);
}

/// An application with a short page.
struct Page(&'static Heap);

impl App for Page {
    fn on_request(&mut self, _: &mut Context<'_>, request: &HttpRequest<'_>) -> Answer {
        HEAP.set(Some(self.0));
        match (request.path(), request.header("X-Name")) {
            ("/page", Some(_)) => Response::new(Status::Ok, "text/plain", &b"a short page"[..]).into(),
            _ => Answer::NotMine,
        }
    }

    fn on_open(&mut self, _: &mut Context<'_>, _: ClientId, _: Opening<'_>) {}

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}
}

/// A connection answers requests without allocating memory, alone and in a pipeline.
fn a_request_without_a_body_allocates_nothing(backend: BackendName) {
    let heap: &Heap = Box::leak(Box::default());
    let server = TestServer::start_app(&config(backend, AppName::Echo, 1), move |_| Box::new(Page(heap)));
    let mut raw = RawClient::connect(server.address());
    let request = b"GET /page?x=1 HTTP/1.1\r\nHost: localhost\r\nX-Name: value\r\nAccept: */*\r\n\r\n";
    raw.send(request);
    let response = raw.receive_response();
    assert_eq!(response.body, "a short page");
    let len = response.head.len() + response.body.len();
    let mut client = [raw.into_parts().0];
    for pipelined in [1, 8] {
        let requests = request.repeat(pipelined);
        let mut in_a_thousand = || {
            let before = heap.allocations.load(Ordering::Relaxed);
            exchange(&mut client, &requests, pipelined * len, 1_000);
            heap.allocations.load(Ordering::Relaxed) - before
        };
        // A buffer may grow to its final size late. Allow five rounds.
        let mut counts = Vec::new();
        while counts.len() < 5 && counts.last() != Some(&0) {
            counts.push(in_a_thousand());
        }
        assert!(counts.contains(&0), "{counts:?} in 1,000 times {pipelined} requests");
    }
    assert!(heap.allocations.load(Ordering::Relaxed) > 0, "allocations are counted");
}

/// A message storm: in each round, every client sends one message and receives the messages of all clients. The server
/// may use one send for 20 deliveries at most.
fn a_storm_takes_few_sends(backend: BackendName) {
    const CLIENTS: usize = 200;
    const ROUNDS: usize = 10;
    let server = TestServer::relay(backend, 1);
    let clients: Vec<_> = (0..CLIENTS).map(|_| RawClient::open(server.address(), "/")).collect();
    let before = server.totals();
    // Four threads drive the clients, so that the messages of a round arrive at nearly the same time.
    let mut parts: Vec<Vec<RawClient>> = (0..4).map(|_| Vec::new()).collect();
    for (at, client) in clients.into_iter().enumerate() {
        parts[at % 4].push(client);
    }
    thread::scope(|scope| {
        for part in &mut parts {
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    part.iter_mut().for_each(|client| client.send(&frame(BINARY, &[7; 20])));
                    for client in &mut *part {
                        (0..CLIENTS).for_each(|_| assert_eq!(client.receive_frame(), (BINARY, vec![7; 20])));
                    }
                }
            });
        }
    });
    let totals = server.totals();
    let deliveries = totals.deliveries - before.deliveries;
    assert_eq!(deliveries, (CLIENTS * CLIENTS * ROUNDS) as u64);
    let sends = (totals.sends - before.sends) as f64 / deliveries as f64;
    assert!(sends <= 0.05, "{sends} sends for each delivered message");
}

/// Each watcher of a room gets the changes of the room in one send, which is shared by all of them.
fn an_update_of_presence_costs_one_send_and_few_allocations(backend: BackendName) {
    const WATCHERS: usize = 300;
    const ROUNDS: usize = 5;
    let (server, heap) = start_counted(&config(backend, AppName::Chat, 1), Chat::default);
    let mut watchers: Vec<_> = (0..WATCHERS)
        .map(|_| Watcher(Client::open(server.address(), "/room/costs?format=json&presence=1")))
        .collect();
    watchers.iter_mut().for_each(|watcher| _ = watcher.until(WATCHERS));
    let mut updates = 0;
    let (sends, allocations) = (server.totals().sends, heap.allocations.load(Ordering::Relaxed));
    for _ in 0..ROUNDS {
        // Ten clients come, and then leave.
        let guests: Vec<_> = (0..10).map(|_| Client::open(server.address(), "/room/costs")).collect();
        updates += watchers.iter_mut().map(|watcher| watcher.until(WATCHERS + 10)).sum::<usize>();
        drop(guests);
        updates += watchers.iter_mut().map(|watcher| watcher.until(WATCHERS)).sum::<usize>();
    }
    let sends = server.totals().sends - sends;
    let allocations = heap.allocations.load(Ordering::Relaxed) - allocations;
    assert!(updates >= WATCHERS * 2 * ROUNDS, "{updates} updates");
    let (guests, updates) = (10 * ROUNDS as u64, updates as u64);
    // The upgrade, the welcome and the close of each guest are sends, too.
    assert!(sends <= updates + 4 * guests, "{sends} sends for {updates} updates");
    assert!(allocations <= 2 * updates + 50 * guests, "{allocations} allocations for {updates} updates");
}

/// A page's client, which gets the presence of its room.
struct Watcher(Client);

impl Watcher {
    /// Receives updates until the room has so many members. Returns the number of updates.
    fn until(&mut self, members: usize) -> usize {
        let mut updates = 0;
        loop {
            let Message::Binary(event) = self.0.receive() else { continue };
            let event: serde_json::Value = serde_json::from_slice(&event).expect("JSON");
            updates += usize::from(event["event"] == "presence");
            if event["count"] == members {
                return updates;
            }
        }
    }
}

/// After a long message in each direction, an idle TLS connection keeps only its session state.
fn an_idle_tls_connection_holds_no_buffer(backend: BackendName) {
    const CLIENTS: usize = 100;
    const MAX_BYTES: i64 = 4_096;
    let identity = Identity::new();
    let (server, heap) =
        start_counted(&identity.with_tls_listener(config(backend, AppName::Echo, 1)), || Echo);
    for version in VERSIONS {
        let version = identity.client_config(&[version]);
        let open = || {
            let mut client = TlsClient::connect(server.address(), "/", &version);
            client.send(Message::binary(vec![7; 100_000]));
            assert_eq!(client.receive().len(), 100_000);
            client
        };
        let first: Vec<_> = (0..CLIENTS).map(|_| open()).collect();
        let before = heap.live.load(Ordering::Relaxed);
        let second: Vec<_> = (0..CLIENTS).map(|_| open()).collect();
        wait_until("a connection holds only its session state", || {
            heap.live.load(Ordering::Relaxed) - before < CLIENTS as i64 * MAX_BYTES
        });
        drop((first, second));
        wait_until("all connections are released", || server.connections().0 == 0);
    }
}
