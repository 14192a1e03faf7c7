//! Webhooks: what happens in rooms, as signed HTTP requests to backends of applications. docs/webhooks.md describes them
//! for users.
//!
//! All shards share one [`Webhooks`]. A shard that reports an event takes a lock for a moment and hands the event to the
//! bounded queue of each endpoint, so a slow endpoint costs it nothing. A reload replaces endpoints, events and the secret.

mod event;
mod format;
mod presence;
mod pusher;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tracing::info;

use crate::names::RoomPattern;
use crate::outgoing::{Client, Counts, Delivery, Target, Trust, Url};

use event::Event;
pub(crate) use event::Message;
pub use event::WebhookEvent;
use format::Signed;
pub(crate) use presence::Presence;
pub(crate) use pusher::PusherWebhooks;

/// Time limit for events that are left when the server ends.
const FLUSH: Duration = Duration::from_secs(3);

/// The settings of webhooks, from the options.
#[derive(Clone, Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) urls: &'a [Url],
    /// The secret that signs the requests.
    pub(crate) secret: &'a [u8],
    pub(crate) events: &'a [WebhookEvent],
    /// The rooms whose messages are reported.
    pub(crate) messages: &'a [RoomPattern],
    pub(crate) trust: &'a Trust,
}

/// The endpoints and what they are told, shared by all shards.
#[derive(Debug)]
pub(crate) struct Webhooks {
    /// Random text of this process, the beginning of the identifiers of all requests.
    run: Arc<str>,
    active: RwLock<Arc<Active>>,
    /// Whether messages of some rooms are reported. Otherwise a message costs no lock.
    tells_messages: AtomicBool,
}

/// The settings in force.
#[derive(Debug)]
struct Active {
    endpoints: Vec<Arc<Delivery>>,
    events: Vec<WebhookEvent>,
    messages: Vec<RoomPattern>,
}

impl Webhooks {
    /// Starts a thread for each endpoint.
    ///
    /// # Errors
    /// The operating system cannot start a thread, or has no random bytes.
    pub(crate) fn start(plan: &Plan<'_>) -> std::io::Result<Self> {
        let run = format::random_run()?;
        let active = RwLock::new(Arc::new(Active::new(plan, &run, &[])?));
        Ok(Self { run, active, tells_messages: AtomicBool::new(!plan.messages.is_empty()) })
    }

    /// Applies new settings. Endpoints that stay keep their queues. An endpoint that is gone sends what it has within the
    /// time limit for the end of a server.
    ///
    /// # Errors
    /// The operating system cannot start a thread. Then nothing changes.
    pub(crate) fn reload(&self, plan: &Plan<'_>) -> std::io::Result<()> {
        let old = self.active();
        let fresh = Active::new(plan, &self.run, &old.endpoints)?;
        let is_gone =
            |endpoint: &&Arc<Delivery>| !fresh.endpoints.iter().any(|kept| Arc::ptr_eq(kept, endpoint));
        for endpoint in old.endpoints.iter().filter(is_gone) {
            info!(endpoint = endpoint.name(), "the webhook endpoint is removed");
            endpoint.close(Instant::now() + FLUSH);
        }
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        self.tells_messages.store(!plan.messages.is_empty(), Ordering::Relaxed);
        Ok(())
    }

    /// Sends what is in the queues, for at most three seconds, and ends the threads of the endpoints. No event is taken
    /// any more.
    pub(crate) fn end(&self) {
        let active = std::mem::replace(
            &mut *self.active.write().unwrap_or_else(PoisonError::into_inner),
            Arc::new(Active { endpoints: Vec::new(), events: Vec::new(), messages: Vec::new() }),
        );
        let deadline = Instant::now() + FLUSH;
        active.endpoints.iter().for_each(|endpoint| endpoint.close(deadline));
        active.endpoints.iter().for_each(|endpoint| endpoint.wait(deadline));
    }

    /// Returns the name and the counters of each endpoint.
    pub(crate) fn counts(&self) -> Vec<(String, Counts)> {
        self.active().endpoints.iter().map(|endpoint| (endpoint.name().into(), endpoint.counts())).collect()
    }

    /// Reports a room that has got its first member or lost its last one, or a person that has come to a room or left it.
    pub(crate) fn report(&self, event: WebhookEvent, room: &str, user: Option<&str>, client: Option<u64>) {
        let active = self.active();
        if active.events.contains(&event) {
            active.push(&Event::new(event.name(), room).of(user, client));
        }
    }

    /// Reports a message, if the messages of its room are to be reported. `make` makes the report.
    pub(crate) fn report_message<'a>(&self, room: &'a str, make: impl FnOnce() -> Message<'a>) {
        if !self.tells_messages.load(Ordering::Relaxed) {
            return;
        }
        let active = self.active();
        if active.messages.iter().any(|pattern| pattern.matches(room)) {
            active.push(&Event::message(room, make()));
        }
    }

    fn active(&self) -> Arc<Active> {
        Arc::clone(&self.active.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Active {
    /// Starts the endpoints that are not among the `running` ones.
    fn new(plan: &Plan<'_>, run: &Arc<str>, running: &[Arc<Delivery>]) -> std::io::Result<Self> {
        let mut endpoints: Vec<Arc<Delivery>> = Vec::new();
        for url in plan.urls {
            let format = Arc::new(Signed::new(Arc::clone(run), plan.secret));
            let target = Target { url: url.clone(), client: Client::new(plan.trust, url), format };
            match running.iter().find(|endpoint| endpoint.target().url == *url) {
                Some(endpoint) => {
                    endpoint.set_target(target);
                    endpoints.push(Arc::clone(endpoint));
                }
                None => {
                    let taken = running.iter().chain(&endpoints).map(|endpoint| endpoint.name());
                    let name = name(url, &taken.collect::<Vec<_>>());
                    endpoints.push(Arc::new(Delivery::start(name, target)?));
                }
            }
        }
        Ok(Self { endpoints, events: plan.events.to_vec(), messages: plan.messages.to_vec() })
    }

    fn push(&self, event: &Event<'_>) {
        let bytes: Arc<[u8]> = event.to_json().into();
        self.endpoints.iter().for_each(|endpoint| endpoint.push(&bytes));
    }
}

/// Returns a name for an endpoint without its secrets: its origin, with a number after it if that name is taken.
fn name(url: &Url, taken: &[&str]) -> String {
    unique(url.origin(), taken)
}

/// Returns a name, with a number after it if the name is taken.
fn unique(name: String, taken: &[&str]) -> String {
    let numbered = (2..).map(|number| format!("{name} ({number})"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !taken.contains(&&**name)).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_one_host_have_names_of_their_own() {
        let url: Url = "https://ann:hush@example.org/secret".parse().expect("valid");
        assert_eq!(name(&url, &[]), "https://example.org");
        assert_eq!(name(&url, &["https://example.org"]), "https://example.org (2)");
        assert_eq!(
            name(&url, &["https://example.org (2)", "https://example.org"]),
            "https://example.org (3)"
        );
    }
}
