//! What a message and an idle connection cost where a machine's mood does not matter: allocations, and sends.

#![expect(unsafe_code, reason = "an allocator that counts is one")]

#[macro_use]
#[path = "../e2e/support/mod.rs"]
#[allow(dead_code, reason = "the end-to-end tests use what these do not")]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;

use tungstenite::Message;
use uproar::app::{App, ClientId, Context, Echo, Incoming, Opening, Relay};
use uproar::config::{AppName, BackendName, Config};

use support::raw::{BINARY, RawClient, frame, upgrade_request};
use support::tls::{Identity, TlsClient, VERSIONS};
use support::{TestServer, config, wait_until};

on_both_backends!(
    an_echo_allocates_nothing,
    a_broadcast_allocates_nothing,
    a_storm_takes_few_sends,
    an_idle_connection_with_tls_holds_no_buffer,
);

/// Counts what threads allocate that say that they are to be counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the threads that are counted together did.
#[derive(Default)]
struct Heap {
    allocations: AtomicU64,
    /// Bytes allocated and not freed.
    live: AtomicI64,
}

thread_local! {
    static HEAP: Cell<Option<&'static Heap>> = const { Cell::new(None) };
}

fn count(allocations: u64, bytes: usize, freed: usize) {
    if let Some(heap) = HEAP.get() {
        heap.allocations.fetch_add(allocations, Ordering::Relaxed);
        heap.live.fetch_add(bytes as i64 - freed as i64, Ordering::Relaxed);
    }
}

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, 0, layout.size());
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        count(1, new_len, layout.size());
        // SAFETY: passed on as it came.
        unsafe { System.realloc(memory, layout, new_len) }
    }
}

/// An application whose thread is counted once it has a client.
struct Counted<A>(A, &'static Heap);

impl<A: App> App for Counted<A> {
    fn on_open(&mut self, context: &mut Context<'_>, client: ClientId, opening: Opening<'_>) {
        HEAP.set(Some(self.1));
        self.0.on_open(context, client, opening);
    }

    fn on_message(&mut self, context: &mut Context<'_>, client: ClientId, message: Incoming<'_>) {
        self.0.on_message(context, client, message);
    }
}

/// A server, and what its worker allocates.
fn counted<A: App + 'static>(settings: &Config, app: fn() -> A) -> (TestServer, &'static Heap) {
    let heap: &Heap = Box::leak(Box::default());
    (TestServer::start_app(settings, move |_| Box::new(Counted(app(), heap))), heap)
}

fn client(server: &TestServer) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).expect("a connection");
    stream.set_nodelay(true).expect("a TCP socket");
    stream.set_read_timeout(Some(support::TIMEOUT)).expect("a TCP socket");
    stream.write_all(upgrade_request("/room/costs").as_bytes()).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the answer");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

/// Has the first client say `message` so many times, and each of them hear it every time.
fn talk(clients: &mut [TcpStream], message: &[u8], len: usize, times: usize) {
    let mut heard = vec![0; len];
    for _ in 0..times {
        clients[0].write_all(message).expect("sent");
        for client in &mut *clients {
            client.read_exact(&mut heard).expect("heard");
        }
    }
}

fn allocations<A: App + 'static>(backend: BackendName, app: fn() -> A, clients: usize) {
    let (server, heap) = counted(&config(backend, AppName::Relay, 1), app);
    let count = &heap.allocations;
    let mut clients: Vec<_> = (0..clients).map(|_| client(&server)).collect();
    for payload_len in [20, 64, 1_000] {
        let message = frame(BINARY, &vec![7; payload_len]);
        let heard_len = payload_len + if payload_len < 126 { 2 } else { 4 };
        talk(&mut clients, &message, heard_len, 300);
        let mut in_a_thousand = || {
            let before = count.load(Ordering::Relaxed);
            talk(&mut clients, &message, heard_len, 1_000);
            count.load(Ordering::Relaxed) - before
        };
        // A list of the loop may reach its size late, for instance when the silent ones are parked.
        let mut counts = Vec::new();
        while counts.len() < 5 && counts.last() != Some(&0) {
            counts.push(in_a_thousand());
        }
        assert!(counts.contains(&0), "{counts:?} in 1,000 messages of {payload_len} bytes");
    }
    assert!(count.load(Ordering::Relaxed) > 0, "the allocations of the handshakes are counted");
}

fn an_echo_allocates_nothing(backend: BackendName) {
    allocations(backend, || Echo, 1);
}

fn a_broadcast_allocates_nothing(backend: BackendName) {
    allocations(backend, || Relay, 30);
}

/// Each of many says something and hears everybody, round after round.
fn a_storm_takes_few_sends(backend: BackendName) {
    const CLIENTS: usize = 200;
    const ROUNDS: usize = 10;
    let server = TestServer::relay(backend, 1);
    let clients: Vec<_> = (0..CLIENTS).map(|_| RawClient::open(server.address(), "/")).collect();
    let before = server.totals();
    // Four threads have all the clients, so that the round comes about as quickly as one machine can say it.
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

/// What is left of a connection that has said and heard long messages is the state of its keys.
fn an_idle_connection_with_tls_holds_no_buffer(backend: BackendName) {
    const CLIENTS: usize = 100;
    const MOST: i64 = 4_096;
    let identity = Identity::new();
    let (server, heap) = counted(&identity.with_tls_listener(config(backend, AppName::Echo, 1)), || Echo);
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
        wait_until("a connection holds no more than its keys", || {
            heap.live.load(Ordering::Relaxed) - before < CLIENTS as i64 * MOST
        });
        drop((first, second));
        wait_until("all are gone", || server.connections().0 == 0);
    }
}
