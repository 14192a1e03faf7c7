//! Webhooks: an application that reports what happens in rooms and leaves everything else to the application that it
//! wraps.

use std::borrow::Cow;
use std::sync::Arc;

use crate::hub::{ClientId, History, Kind, Note};
use crate::protocol::Refusal;
use crate::webhooks::{Message, Presence, Webhooks};

use super::{Answer, App, Context, HttpRequest, Incoming, Members, Opening, ResumedRoom, User};

/// The application that reports to webhooks. Each instance reports the rooms whose home is its shard, so the events of a
/// room come in order.
pub(crate) struct Hooks {
    inner: Box<dyn App>,
    webhooks: Arc<Webhooks>,
    presence: Presence,
}

impl Hooks {
    pub(crate) fn new(inner: Box<dyn App>, webhooks: Arc<Webhooks>) -> Self {
        Self { inner, webhooks, presence: Presence::default() }
    }
}

impl App for Hooks {
    fn watches_members(&self) -> bool {
        true
    }

    fn on_joined(&mut self, context: &mut Context<'_>, room: &str, client: ClientId, user: Option<&str>) {
        let webhooks = &self.webhooks;
        self.presence.joined(room, client.number, user, &mut |event, user, client| {
            webhooks.report(event, room, user, client);
        });
        if self.inner.watches_members() {
            self.inner.on_joined(context, room, client, user);
        }
    }

    fn on_left(&mut self, context: &mut Context<'_>, room: &str, client: ClientId) {
        let webhooks = &self.webhooks;
        self.presence.left(room, client.number, &mut |event, user, client| {
            webhooks.report(event, room, user, client);
        });
        if self.inner.watches_members() {
            self.inner.on_left(context, room, client);
        }
    }

    fn on_publish_at(
        &mut self,
        context: &mut Context<'_>,
        room: &str,
        sender: Option<ClientId>,
        message: Incoming<'_>,
    ) -> bool {
        let is_published = self.inner.on_publish_at(context, room, sender, message);
        if is_published {
            let presence = &self.presence;
            self.webhooks.report_message(room, || {
                let place = context.next_position(room);
                let number = sender.map(|sender| sender.number);
                let user = number.and_then(|number| presence.user_of(room, number));
                Message {
                    number: place.as_ref().map(|place| place.number),
                    epoch: place.map(|place| place.epoch),
                    user,
                    client: number.filter(|_| user.is_none()),
                    is_text: message.kind == Kind::Text,
                    payload: message.payload,
                }
            });
        }
        is_published
    }

    forward!(
        history,
        history_of,
        rates,
        on_request,
        on_start,
        on_open,
        on_message,
        on_close,
        on_added,
        on_removed,
        on_publish,
        on_api_message,
        on_api_user_message,
        on_api_delivery,
        watches_occupancy,
        on_occupied,
        on_vacated,
        on_lag,
        on_resumed,
        on_ask,
        on_tell,
        describe_member,
        on_members,
        on_user,
        on_timer,
    );
}
