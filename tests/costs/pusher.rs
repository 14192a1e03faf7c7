//! Costs of the application `pusher`.

use std::sync::atomic::Ordering;

use uproar::app::{Pusher, PusherApp, PusherApps};
use uproar::config::{AppName, BackendName};

use super::support::client::Client;
use super::support::{TestServer, config, wait_until};
use super::{Counted, Heap};

on_both_backends!(an_idle_subscriber_holds_little_memory, an_event_is_encoded_once_for_all_subscribers);

const PATH: &str = "/app/key?protocol=7";
/// Number of clients over which costs are spread.
const CLIENTS: usize = 1_000;

fn start(backend: BackendName) -> (TestServer, &'static Heap) {
    let heap: &Heap = Box::leak(Box::default());
    let apps = PusherApps::new(vec![PusherApp::new("1", "key", "secret")]).expect("an application");
    let make = move |_| -> Box<dyn uproar::app::App> { Box::new(Counted(Pusher::new(apps.clone()), heap)) };
    (TestServer::start_app(&config(backend, AppName::Pusher, 1), make), heap)
}

/// Opens clients that subscribe to the channels that `channel` names.
fn subscribers(server: &TestServer, channel: impl Fn(usize) -> String) -> Vec<Client> {
    let clients = (0..CLIENTS).map(|number| {
        let mut client = Client::open(server.address(), PATH);
        assert!(client.receive_text().contains("connection_established"));
        let channel = channel(number);
        client.send_text(&format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#));
        assert!(client.receive_text().contains("subscription_succeeded"));
        client
    });
    clients.collect()
}

fn an_idle_subscriber_holds_little_memory(backend: BackendName) {
    for (is_shared, most) in [(true, 400), (false, 900)] {
        let (server, heap) = start(backend);
        let first = Client::open(server.address(), PATH);
        wait_until("allocations are counted", || heap.allocations.load(Ordering::Relaxed) > 0);
        let before = heap.live.load(Ordering::Relaxed);
        let channel = |number| if is_shared { "shared".into() } else { format!("channel-{number:06}") };
        let clients = subscribers(&server, channel);
        // Buffers of the handshakes and of sends are given back after a moment.
        let per_client = || (heap.live.load(Ordering::Relaxed) - before) / CLIENTS as i64;
        wait_until(&format!("a client holds at most {most} bytes, shared: {is_shared}"), || {
            per_client() <= most
        });
        drop((first, clients));
    }
}

fn an_event_is_encoded_once_for_all_subscribers(backend: BackendName) {
    let (server, heap) = start(backend);
    let mut clients = subscribers(&server, |_| "shared".into());
    let publisher = server.publisher();
    let event = r#"{"event":"e","data":"{}","channel":"shared"}"#;
    let mut counts = Vec::new();
    for _ in 0..5 {
        let before = heap.allocations.load(Ordering::Relaxed);
        publisher.publish("1/shared", uproar::app::Message::text(event)).expect("there is room");
        clients.iter_mut().for_each(|client| client.expect_text(event));
        counts.push(heap.allocations.load(Ordering::Relaxed) - before);
    }
    assert!(counts.iter().any(|count| *count < 20), "{counts:?} allocations for {CLIENTS} subscribers");
}
