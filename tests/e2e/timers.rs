//! Timers of applications.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use uproar::app::{App, ClientId, Context, Incoming, Message, Opening};
use uproar::config::{AppName, BackendName};

use crate::support::client::Client;
use crate::support::{TestServer, config, wait_until};

on_both_backends!(
    a_timer_fires_once_with_its_token_and_not_early,
    a_timer_that_is_set_again_or_cancelled_does_not_fire_as_before,
    a_server_without_clients_wakes_up_only_for_its_timers,
    a_timer_that_panics_harms_nobody,
);

/// Sets and cancels timers on a client's command, and sends the client the tokens of timers that fire.
#[derive(Default)]
struct Clock {
    client: Option<ClientId>,
}

impl App for Clock {
    fn on_open(&mut self, _: &mut Context<'_>, client: ClientId, _: Opening<'_>) {
        self.client = Some(client);
    }

    fn on_message(&mut self, context: &mut Context<'_>, _: ClientId, message: Incoming<'_>) {
        let words: Vec<u64> =
            message.text().expect("a text").split(' ').map(|word| word.parse().expect("a number")).collect();
        match words[..] {
            [token] => context.cancel_timer(token),
            [token, after_ms] => context.set_timer(Duration::from_millis(after_ms), token),
            _ => panic!("{words:?}"),
        }
    }

    fn on_timer(&mut self, context: &mut Context<'_>, token: u64) {
        assert_ne!(token, 13, "the application's mistake");
        let client = self.client.expect("a client is here");
        context.send_to_client(client, Message::text(&token.to_string()));
    }
}

fn clock(backend: BackendName) -> (TestServer, Client) {
    let settings = config(backend, AppName::Relay, 1);
    let server = TestServer::start_app(&settings, |_| Box::<Clock>::default());
    let client = Client::open(server.address(), "/");
    (server, client)
}

fn a_timer_fires_once_with_its_token_and_not_early(backend: BackendName) {
    let (_server, mut client) = clock(backend);
    let begin = Instant::now();
    client.send_texts_together(&["3 300", "1 100", "2 0", "4 301"]);
    for (token, after_ms) in [("2", 0), ("1", 100), ("3", 300), ("4", 301)] {
        client.expect_text(token);
        // A timer counts from the shard's time, which is rounded down to a millisecond.
        let passed = begin.elapsed() + Duration::from_millis(1);
        assert!(passed >= Duration::from_millis(after_ms), "{token} fired after {passed:?}");
    }
}

fn a_timer_that_is_set_again_or_cancelled_does_not_fire_as_before(backend: BackendName) {
    let (_server, mut client) = clock(backend);
    let begin = Instant::now();
    client.send_texts_together(&["1 50", "2 50", "1 200", "2", "3 100"]);
    client.expect_text("3");
    client.expect_text("1");
    assert!(begin.elapsed() + Duration::from_millis(1) >= Duration::from_millis(200));
    client.send_text("5 50");
    client.expect_text("5");
}

/// Counts the firings of a timer that it sets again and again, from its start on.
struct Metronome(Arc<AtomicU64>, Arc<Mutex<Vec<Duration>>>);

const BEAT: Duration = Duration::from_millis(100);

impl App for Metronome {
    fn on_start(&mut self, context: &mut Context<'_>) {
        context.set_timer(BEAT, 0);
    }

    fn on_open(&mut self, _: &mut Context<'_>, _: ClientId, _: Opening<'_>) {}

    fn on_message(&mut self, _: &mut Context<'_>, _: ClientId, _: Incoming<'_>) {}

    fn on_timer(&mut self, context: &mut Context<'_>, _: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.lock().expect("no panic").push(context.now());
        context.set_timer(BEAT, 0);
    }
}

fn a_server_without_clients_wakes_up_only_for_its_timers(backend: BackendName) {
    const BEATS: u64 = 12;
    let (count, times) = (Arc::<AtomicU64>::default(), Arc::<Mutex<Vec<Duration>>>::default());
    let app = (Arc::clone(&count), Arc::clone(&times));
    let settings = config(backend, AppName::Relay, 1);
    let server = TestServer::start_app(&settings, move |_| {
        Box::new(Metronome(Arc::clone(&app.0), Arc::clone(&app.1)))
    });
    let beaten = || count.load(Ordering::Relaxed);
    wait_until("the timer fires", || beaten() > 0);
    let (turns, before) = (server.totals().turns, beaten());
    wait_until("the timer fires often", || beaten() >= before + BEATS);
    let (turns, beats) = (server.totals().turns - turns, beaten() - before);
    // A wait that ends with a deadline is followed by one look for input. A wait may end late or be interrupted, and is
    // then followed by a few more.
    assert!(turns <= 6 * beats, "{turns} turns for {beats} beats");
    let times = times.lock().expect("no panic");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= BEAT), "{times:?}");
}

fn a_timer_that_panics_harms_nobody(backend: BackendName) {
    let (server, mut client) = clock(backend);
    client.send_texts_together(&["13 10", "14 20"]);
    client.expect_text("14");
    assert_eq!(server.totals().panics, 1);
}
