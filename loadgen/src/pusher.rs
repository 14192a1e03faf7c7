//! Pusher's protocol, version 7: what a client and a backend send, without input or output.
//!
//! A connection waits for `pusher:connection_established`, subscribes to its channel, and is open when the server has
//! confirmed that. Messages between clients are client events (`client-msg`), and a backend publishes events (`msg`) with
//! signed requests. The code shares nothing with any server on purpose: a common bug would hide on both sides.

pub(crate) mod event;
pub(crate) mod sign;

use std::str::FromStr;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::plan::Scenario;
use crate::publishers::Publishers;

use event::Member;

/// Environment variable with the credentials of the application.
const APP_VARIABLE: &str = "LOADGEN_PUSHER_APP";

/// The protocol inside WebSocket messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dialect {
    /// Messages are sent as they are.
    #[default]
    Plain,
    /// Messages are events of Pusher's protocol.
    Pusher,
}

/// The options of the Pusher protocol.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct PusherOptions {
    /// The protocol of the server. `pusher` is for `broadcast`, `storm`, `idle`, `publish` and `presence`; --url has no
    /// path then, or the path in front of /app/KEY.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) protocol: Dialect,
    /// The Pusher application: its id, key and secret.
    #[arg(long, value_name = "ID:KEY:SECRET", env = APP_VARIABLE, hide_env_values = true)]
    // The figures of a run are published, and the secret is none of them.
    #[serde(skip)]
    pub(crate) pusher_app: Option<PusherApp>,
    /// The Pusher channel: private-bench if not given, bench for `publish`, and presence-bench for `presence`.
    #[arg(long, value_name = "NAME", value_parser = parse_channel)]
    pub(crate) pusher_channel: Option<String>,
    /// Each connection of `idle` subscribes to a Pusher channel of its own, whose name ends with the connection's number.
    #[arg(long)]
    pub(crate) pusher_own_channels: bool,
}

/// The credentials of a Pusher application.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PusherApp {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) secret: String,
}

/// The Pusher connections of a run: their application and their channels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) app: PusherApp,
    /// The channel, or the start of the channels' names.
    pub(crate) channel: String,
    /// Whether each connection has a channel of its own.
    own_channels: bool,
    /// The connections that do not subscribe when they open, because they join and leave the presence channel later.
    pub(crate) guests: Publishers,
    /// Whether the traffic gets the events about members that join and leave.
    pub(crate) reports_members: bool,
}

impl Session {
    /// Creates the session of a run with `connections` connections. Returns `None` if the run does not use Pusher's protocol.
    pub(crate) fn new(
        scenario: Scenario,
        options: &PusherOptions,
        connections: usize,
    ) -> Result<Option<Self>, String> {
        let is_presence = matches!(scenario, Scenario::Presence { .. });
        if options.protocol == Dialect::Plain && !is_presence {
            let wrong = match options {
                PusherOptions { pusher_channel: Some(_), .. } => "--pusher-channel",
                PusherOptions { pusher_own_channels: true, .. } => "--pusher-own-channels",
                _ => return Ok(None),
            };
            return Err(format!("{wrong} needs --protocol pusher"));
        }
        let default_channel = match scenario {
            Scenario::Broadcast { .. } | Scenario::Storm | Scenario::Idle { speak: 0 } => "private-bench",
            Scenario::Publish { .. } => "bench",
            Scenario::Presence { .. } => "presence-bench",
            _ => {
                return Err("--protocol pusher is for broadcast, storm, idle without --speak, publish and \
                            presence; choose one of them"
                    .to_owned());
            }
        };
        let missing =
            || format!("--pusher-app ID:KEY:SECRET is missing; give it, or set {APP_VARIABLE} to it");
        let app = options.pusher_app.clone().ok_or_else(missing)?;
        let channel = options.pusher_channel.clone().unwrap_or_else(|| default_channel.to_owned());
        let own_channels = options.pusher_own_channels;
        if own_channels && !matches!(scenario, Scenario::Idle { .. }) {
            return Err("--pusher-own-channels is for idle; leave it out".to_owned());
        }
        if is_presence && !channel.starts_with("presence-") {
            return Err(format!("--pusher-channel {channel}: presence needs a channel presence-NAME"));
        }
        let needs_client_events = default_channel == "private-bench" && !own_channels;
        if needs_client_events && !event::takes_client_events(&channel) {
            return Err(format!(
                "--pusher-channel {channel}: clients send to channels private-NAME and presence-NAME only"
            ));
        }
        let count = if let Scenario::Presence { guests, .. } = scenario { guests } else { 0 };
        let guests = Publishers { count, connections };
        Ok(Some(Self { app, channel, own_channels, guests, reports_members: is_presence }))
    }

    /// Returns the path and the query of the WebSocket handshake. `prefix` is the path of --url.
    pub(crate) fn resource(&self, prefix: &str) -> String {
        let (prefix, version) = (prefix.trim_end_matches('/'), env!("CARGO_PKG_VERSION"));
        format!("{prefix}/app/{}?protocol=7&client=loadgen&version={version}", self.app.key)
    }

    /// Returns whether each connection has a channel of its own.
    pub(crate) fn has_own_channels(&self) -> bool {
        self.own_channels
    }

    /// Returns whether connection `id` joins the channel during the traffic only.
    pub(crate) fn is_guest(&self, id: usize) -> bool {
        self.guests.count > 0 && self.guests.number(id).is_some()
    }

    /// Returns the message with which connection `id` subscribes to its channel.
    pub(crate) fn subscription(&self, id: usize, socket_id: &str) -> String {
        let own;
        let channel = if self.own_channels {
            own = format!("{}-{id}", self.channel);
            &own
        } else {
            &self.channel
        };
        let member = Member { user_id: format!("member-{id}") };
        event::subscribe(&self.app, socket_id, channel, &member)
    }
}

impl FromStr for PusherApp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        let is_name = |name: &String| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        match (parts.next().filter(is_name), parts.next().filter(is_name), parts.next()) {
            (Some(id), Some(key), Some(secret)) if !secret.is_empty() => Ok(Self { id, key, secret }),
            _ => {
                Err("write the application as ID:KEY:SECRET; id and key have letters, digits, - and _"
                    .to_owned())
            }
        }
    }
}

impl std::fmt::Debug for PusherApp {
    /// Leaves out the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PusherApp").field("id", &self.id).field("key", &self.key).finish_non_exhaustive()
    }
}

fn parse_channel(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=@,.;".contains(&byte);
    // Channels of their own have the number of a connection behind this name, and names have at most 164 characters.
    if (1..=150).contains(&text.len()) && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err("a channel has 1 to 150 letters, digits and characters of _-=@,.;".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(channel: Option<&str>) -> PusherOptions {
        PusherOptions {
            protocol: Dialect::Pusher,
            pusher_app: Some("7:key:se:cret".parse().expect("an application")),
            pusher_channel: channel.map(str::to_owned),
            pusher_own_channels: false,
        }
    }

    #[test]
    fn an_application_has_three_parts() {
        let app: PusherApp = "7:key:se:cret".parse().expect("an application");
        assert_eq!((&*app.id, &*app.key, &*app.secret), ("7", "key", "se:cret"));
        assert!(!format!("{app:?}").contains("cret"));
        for wrong in ["", "7", "7:key", "7:key:", ":key:secret", "7::secret", "7:k/y:secret"] {
            let error = wrong.parse::<PusherApp>().expect_err(wrong);
            assert!(error.contains("ID:KEY:SECRET"), "{wrong}: {error}");
        }
    }

    #[test]
    fn each_scenario_has_its_channel() {
        let session = |scenario, channel| Session::new(scenario, &options(channel), 10);
        let of = |scenario| session(scenario, None).map(|session| session.map(|session| session.channel));
        assert_eq!(of(Scenario::Storm), Ok(Some("private-bench".to_owned())));
        assert_eq!(of(Scenario::Publish { subscribers: 1, rate: None }), Ok(Some("bench".to_owned())));
        let presence = Scenario::Presence { guests: 2, rate: 1.0 };
        assert_eq!(of(presence), Ok(Some("presence-bench".to_owned())));
        assert!(
            of(Scenario::Connect { rate: None }).is_err_and(|error| error.contains("choose one of them"))
        );
        assert!(session(Scenario::Storm, Some("bench")).is_err_and(|error| error.contains("private-NAME")));
        assert!(session(presence, Some("private-a")).is_err_and(|error| error.contains("presence-NAME")));
        let plain = PusherOptions { protocol: Dialect::Plain, ..options(None) };
        assert!(Session::new(Scenario::Storm, &plain, 10).is_ok_and(|session| session.is_none()));
        let plain = PusherOptions { pusher_own_channels: true, ..plain };
        assert!(Session::new(Scenario::Storm, &plain, 10).is_err_and(|error| error.contains("--protocol")));
        let nameless = PusherOptions { pusher_app: None, ..options(None) };
        assert!(
            Session::new(Scenario::Storm, &nameless, 10).is_err_and(|error| error.contains(APP_VARIABLE))
        );
    }

    #[test]
    fn connections_have_channels_of_their_own_or_join_later() {
        let own = PusherOptions { pusher_own_channels: true, ..options(Some("c")) };
        let session = Session::new(Scenario::Idle { speak: 0 }, &own, 10).expect("valid").expect("Pusher");
        assert!(session.subscription(9, "1.2").contains(r#""channel":"c-9""#));
        assert_eq!(
            session.resource("/prefix/"),
            format!("/prefix/app/key?protocol=7&client=loadgen&version={}", env!("CARGO_PKG_VERSION"))
        );
        let scenario = Scenario::Presence { guests: 2, rate: 1.0 };
        let session = Session::new(scenario, &options(None), 10).expect("valid").expect("Pusher");
        assert_eq!((0..10).filter(|&id| session.is_guest(id)).count(), 2);
    }
}
