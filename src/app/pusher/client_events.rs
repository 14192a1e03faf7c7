//! Events that clients send to the other subscribers of a channel.

use std::time::Duration;

use serde_json::value::RawValue;

use super::channel::{self, Channel};
use super::encode::{Data, encode_event};
use super::inbound::Frame;
use super::problem::{self, CLIENT_EVENT};
use super::{ClientId, Context, Message, Pusher, PusherApp, PusherEvent};

/// Maximum length of an event's name in bytes.
const MAX_NAME: usize = 200;
/// The share of an event that an allowance counts in.
const PARTS: u64 = 1_000;

/// The client events that a connection may send now: as many as per second, and at most as many at once.
#[derive(Debug)]
pub(super) struct Allowance {
    /// Events that the client may send, in thousandths.
    parts: u64,
    /// Time of the last change, by the shard's clock.
    at: Duration,
}

impl Allowance {
    fn full(rate: u32, now: Duration) -> Self {
        Self { parts: u64::from(rate) * PARTS, at: now }
    }

    /// Takes one event out of the allowance. Returns false if there is none.
    fn take(&mut self, rate: u32, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_millis() as u64;
        let most = u64::from(rate) * PARTS;
        // A rate per second is as many thousandths per millisecond.
        self.parts = self.parts.saturating_add(passed.saturating_mul(u64::from(rate))).min(most);
        self.at = now;
        let left = self.parts.checked_sub(PARTS);
        self.parts = left.unwrap_or(self.parts);
        left.is_some()
    }
}

impl Pusher {
    /// Passes a client event on to the other subscribers of its channel, or tells the client why not.
    pub(super) fn take_client_event(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        app: &PusherApp,
        frame: &Frame<'_>,
    ) {
        if let Err(text) = self.pass_on(context, client, app, frame) {
            problem::send(context, client, Some(CLIENT_EVENT), &text);
        }
    }

    fn pass_on(
        &mut self,
        context: &mut Context<'_>,
        client: ClientId,
        app: &PusherApp,
        frame: &Frame<'_>,
    ) -> Result<(), String> {
        check(app, frame)?;
        let name = frame.channel.as_deref().unwrap_or_default();
        let channel = Channel::parse(name).filter(Channel::takes_client_events).ok_or_else(|| {
            let name = channel::shown(name);
            format!(
                "The channel {name:?} takes no client events; send them to private and presence channels."
            )
        })?;
        let room = channel.room(&app.id);
        if context.unsent(client, &room).is_none() {
            return Err(format!("The connection is not subscribed to {name}; subscribe before you send."));
        }
        let (rate, now) = (app.client_events_per_second, context.now());
        let state = self.clients.entry(client.number).or_default();
        let mut take = || state.allowance.get_or_insert_with(|| Allowance::full(rate, now)).take(rate, now);
        if rate > 0 && !take() {
            return Err(format!("The connection sends more than {rate} client events per second."));
        }
        let state = self.clients.get(&client.number);
        let user_id = state.and_then(|state| state.subscriptions.user_id(&room));
        let data = frame.data.map_or(Data::None, |data| Data::Json(data.get()));
        let event = encode_event(&frame.event, Some(channel.name), data, user_id);
        context.publish_to_room_except(&room, client, Message::text(&event));
        if self.home.reporter.wants(&room, PusherEvent::ClientEvent) {
            let data = frame.data.map(RawValue::get);
            let socket_id = self.socket_id(client);
            self.home.reporter.client_event(&room, &socket_id, user_id, &frame.event, data);
        }
        Ok(())
    }
}

/// Checks what does not depend on the channel.
fn check(app: &PusherApp, frame: &Frame<'_>) -> Result<(), String> {
    if !app.client_events {
        return Err("The application takes no client events.".into());
    }
    if frame.event.len() > MAX_NAME {
        return Err(format!("The name of the event is longer than {MAX_NAME} bytes."));
    }
    if frame.data.map_or(0, |data| RawValue::get(data).len()) > app.max_event_bytes as usize {
        return Err(format!("The data of the event is longer than {} bytes.", app.max_event_bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_sends_its_rate_at_once_and_then_per_second() {
        let start = Duration::from_secs(100);
        let mut allowance = Allowance::full(10, start);
        let mut taken = |ms| allowance.take(10, start + Duration::from_millis(ms));
        assert_eq!((0..15).filter(|_| taken(0)).count(), 10);
        assert_eq!((0..15).filter(|_| taken(99)).count(), 0);
        assert_eq!((0..15).filter(|_| taken(100)).count(), 1);
        assert_eq!((0..15).filter(|_| taken(1_100)).count(), 10);
        assert_eq!((0..99).filter(|_| taken(900_000)).count(), 10);
    }
}
