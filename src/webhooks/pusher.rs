//! The webhooks of Pusher applications: requests in Pusher's format, signed with the secret of the application.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use ring::hmac::{HMAC_SHA256, Key, sign};
use tracing::info;

use crate::app::{PusherApp, PusherEvent, PusherReports, PusherWebhook};
use crate::outgoing::{Batch, Client, Counts, Delivery, Format, Prepared, Target, Trust, Url};

use super::format::hex;
use super::{FLUSH, unique};

/// The endpoints of all applications.
#[derive(Debug)]
pub(crate) struct PusherWebhooks {
    trust: Trust,
    /// Endpoints by the identifier of their application. Applications without webhooks are left out.
    endpoints: RwLock<Endpoints>,
}

type Endpoints = HashMap<String, Vec<Endpoint>>;

/// A webhook of an application, with the thread that sends its requests.
#[derive(Clone, Debug)]
struct Endpoint {
    url: Url,
    events: Vec<PusherEvent>,
    delivery: Arc<Delivery>,
}

impl PusherWebhooks {
    /// Starts a thread for each webhook.
    ///
    /// # Errors
    /// Returns a text with the problem: a URL is not valid, or the operating system cannot start a thread.
    pub(crate) fn start(apps: &[PusherApp], trust: Trust) -> Result<Self, String> {
        let endpoints = start_all(apps, &trust, &HashMap::new())?;
        Ok(Self { trust, endpoints: RwLock::new(endpoints) })
    }

    /// Returns the name and the counters of each endpoint.
    pub(crate) fn counts(&self) -> Vec<(String, Counts)> {
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<_> = endpoints
            .values()
            .flatten()
            .map(|endpoint| (endpoint.delivery.name().to_owned(), endpoint.delivery.counts()))
            .collect();
        counts.sort_by(|(one, _), (other, _)| one.cmp(other));
        counts
    }

    /// Sends what is in the queues, for at most three seconds, and ends the threads.
    pub(crate) fn end(&self) {
        let endpoints = std::mem::take(&mut *self.endpoints.write().unwrap_or_else(PoisonError::into_inner));
        let deadline = Instant::now() + FLUSH;
        let deliveries = || endpoints.values().flatten().map(|endpoint| &endpoint.delivery);
        deliveries().for_each(|delivery| delivery.close(deadline));
        deliveries().for_each(|delivery| delivery.wait(deadline));
    }
}

impl PusherReports for PusherWebhooks {
    fn report(&self, app: &str, event: PusherEvent, json: &str) {
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let bytes: Arc<[u8]> = json.as_bytes().into();
        for endpoint in endpoints.get(app).into_iter().flatten() {
            if endpoint.events.contains(&event) {
                endpoint.delivery.push(&bytes);
            }
        }
    }

    fn replace(&self, apps: &[PusherApp]) -> Result<(), String> {
        let mut endpoints = self.endpoints.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = start_all(apps, &self.trust, &endpoints)?;
        let is_kept = |delivery: &Arc<Delivery>| {
            fresh.values().flatten().any(|endpoint| Arc::ptr_eq(&endpoint.delivery, delivery))
        };
        for Endpoint { delivery, .. } in endpoints.values().flatten() {
            if !is_kept(delivery) {
                info!(endpoint = delivery.name(), "the webhook of a Pusher application is removed");
                delivery.close(Instant::now() + FLUSH);
            }
        }
        *endpoints = fresh;
        Ok(())
    }
}

/// Returns the endpoints of the applications. Endpoints that are `running` already keep their threads and queues.
fn start_all(apps: &[PusherApp], trust: &Trust, running: &Endpoints) -> Result<Endpoints, String> {
    let mut endpoints = Endpoints::new();
    for app in apps {
        for webhook in &app.webhooks {
            let running = running.get(&app.id).map_or(&[][..], Vec::as_slice);
            let fresh = endpoints.entry(app.id.clone()).or_default();
            fresh.push(start(app, webhook, trust, (running, fresh))?);
        }
    }
    Ok(endpoints)
}

/// Starts a webhook of an application, whose other endpoints are the `running` and the `fresh` ones.
fn start(
    app: &PusherApp,
    webhook: &PusherWebhook,
    trust: &Trust,
    (running, fresh): (&[Endpoint], &[Endpoint]),
) -> Result<Endpoint, String> {
    let url: Url = webhook
        .url
        .parse()
        .map_err(|problem| format!("the URL of a webhook of the application {}: {problem}", app.id))?;
    let events = webhook.events.clone();
    let target = Target { url: url.clone(), client: Client::new(trust, &url), format: Signed::of(app) };
    if let Some(Endpoint { delivery, .. }) = running.iter().find(|endpoint| endpoint.url == url) {
        delivery.set_target(target);
        return Ok(Endpoint { url, events, delivery: Arc::clone(delivery) });
    }
    let taken: Vec<&str> = running.iter().chain(fresh).map(|endpoint| endpoint.delivery.name()).collect();
    let name = unique(format!("{} of the application {}", url.origin(), app.id), &taken);
    let delivery = Delivery::start(name, target).map_err(|error| {
        format!("cannot start the thread of a webhook: {error}; raise the limit of threads")
    })?;
    Ok(Endpoint { url, events, delivery: Arc::new(delivery) })
}

/// Pusher's format: `{"time_ms":…,"events":[…]}`, signed with HMAC-SHA256 in the field `X-Pusher-Signature`.
struct Signed {
    key_name: String,
    key: Key,
}

impl Signed {
    fn of(app: &PusherApp) -> Arc<dyn Format> {
        Arc::new(Self { key_name: app.key.clone(), key: Key::new(HMAC_SHA256, app.secret.as_bytes()) })
    }
}

impl Format for Signed {
    fn prepare(&self, batch: &Batch<'_>) -> Prepared {
        // The libraries refuse a request whose time is 5 minutes old. So is the age at which an event is given up.
        let mut body = format!(r#"{{"time_ms":{},"events":["#, batch.time_ms).into_bytes();
        body.extend_from_slice(&batch.events.join(&b','));
        body.extend_from_slice(b"]}");
        let headers = vec![
            // Node's library takes no media type with a parameter.
            ("Content-Type", "application/json".to_owned()),
            ("X-Pusher-Key", self.key_name.clone()),
            ("X-Pusher-Signature", hex(sign(&self.key, &body).as_ref())),
        ];
        Prepared { headers, body }
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("key_name", &self.key_name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_pushers_form_and_signature() {
        let app = PusherApp::new("1", "key", "s3cret");
        let format = Signed::of(&app);
        let events = vec![&br#"{"name":"channel_occupied","channel":"a"}"#[..], &br#"{"name":"x"}"#[..]];
        let Prepared { headers, body } =
            format.prepare(&Batch { number: 1, time_ms: 1_327_078_148_132, events });
        let expected =
            r#"{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"a"},{"name":"x"}]}"#;
        assert_eq!(str::from_utf8(&body), Ok(expected));
        let signature = hex(sign(&Key::new(HMAC_SHA256, b"s3cret"), expected.as_bytes()).as_ref());
        assert_eq!(
            headers,
            [
                ("Content-Type", "application/json".to_owned()),
                ("X-Pusher-Key", "key".to_owned()),
                ("X-Pusher-Signature", signature)
            ]
        );
        assert!(!format!("{format:?}").contains("s3cret"));
    }
}
