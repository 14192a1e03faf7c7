//! A Pusher server, and clients that speak its protocol.

use std::net::TcpStream;

use ring::hmac::{HMAC_SHA256, Key, sign};
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use uproar::app::{Message, Pusher, PusherApp, PusherApps};
use uproar::config::{AppName, BackendName, Config};

use crate::support::client::Client;
use crate::support::{TIMEOUT, TestServer, config};

pub(super) const KEY: &str = "278d425bdf160c739803";
pub(super) const SECRET: &str = "7ad3773142a6692b25b8";

pub(super) fn app() -> PusherApp {
    PusherApp::new("7", KEY, SECRET)
}

/// A server with some applications.
pub(super) struct Rig {
    pub(super) server: TestServer,
    pub(super) apps: PusherApps,
}

impl Rig {
    /// Starts a server with the usual application.
    pub(super) fn start(backend: BackendName, workers: u16) -> Self {
        Self::with(backend, workers, vec![app()])
    }

    pub(super) fn with(backend: BackendName, workers: u16, apps: Vec<PusherApp>) -> Self {
        Self::with_config(&config(backend, AppName::Pusher, workers), apps)
    }

    pub(super) fn with_config(config: &Config, apps: Vec<PusherApp>) -> Self {
        let apps = PusherApps::new(apps).expect("applications");
        let instances = apps.clone();
        let server = TestServer::start_app(config, move |_| Box::new(Pusher::new(instances.clone())));
        Self { server, apps }
    }

    /// Opens a WebSocket and returns it before its first event.
    pub(super) fn open(&self, path: &str) -> Client {
        Client::open(self.server.address(), path)
    }

    /// Opens a WebSocket as a page of `origin` does.
    pub(super) fn open_from(&self, origin: &str, path: &str) -> Client {
        let address = self.server.address();
        let stream = TcpStream::connect(address).expect("the server accepts the connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a TCP socket");
        let mut request = format!("ws://{address}{path}").into_client_request().expect("a URL");
        request.headers_mut().insert("Origin", origin.parse().expect("a header value"));
        let (socket, _) = tungstenite::client(request, stream).expect("the server accepts the handshake");
        Client { socket }
    }

    pub(super) fn connect(&self) -> Peer {
        Peer::of(self.open(&format!("/app/{KEY}?protocol=7&client=js&version=8.4.0")))
    }

    /// Connects, and subscribes to an ordinary channel.
    pub(super) fn subscriber(&self, channel: &str) -> Peer {
        let mut peer = self.connect();
        peer.subscribe(channel);
        peer.expect_subscribed(channel);
        peer
    }

    /// Publishes an event of a backend to a channel of the usual application, but not to a cache channel.
    pub(super) fn publish(&self, channel: &str, event: &str, data: &str) {
        let json = json!({ "event": event, "data": data, "channel": channel }).to_string();
        self.server
            .publisher()
            .publish(&format!("7/{channel}"), Message::text(&json))
            .expect("there is room");
    }
}

/// A client whose connection is established.
pub(super) struct Peer {
    pub(super) client: Client,
    pub(super) socket_id: String,
}

impl Peer {
    fn of(mut client: Client) -> Self {
        let first = parse(&client.receive_text());
        assert_eq!(first["event"], "pusher:connection_established");
        let socket_id = first["data"]["socket_id"].as_str().expect("an identifier").to_owned();
        Self { client, socket_id }
    }

    pub(super) fn send(&mut self, event: &Value) {
        self.client.send_text(&event.to_string());
    }

    /// Receives an event. Its data is parsed if it is a JSON text.
    pub(super) fn receive(&mut self) -> Value {
        parse(&self.client.receive_text())
    }

    #[track_caller]
    pub(super) fn expect(&mut self, event: &Value) {
        assert_eq!(&self.receive(), event);
    }

    /// Receives an event that is an error, and returns its text.
    #[track_caller]
    pub(super) fn expect_error(&mut self, code: Option<u16>) -> String {
        let event = self.receive();
        assert_eq!((&event["event"], event.get("channel")), (&json!("pusher:error"), None), "{event}");
        assert_eq!(event["data"].get("code"), code.map(|code| json!(code)).as_ref(), "{event}");
        event["data"]["message"].as_str().expect("a text").to_owned()
    }

    /// Sends a ping, and returns the events that come before its answer.
    pub(super) fn events_until_pong(&mut self) -> Vec<Value> {
        self.send(&json!({ "event": "pusher:ping", "data": {} }));
        std::iter::repeat_with(|| self.receive())
            .take_while(|event| event["event"] != "pusher:pong")
            .collect()
    }

    /// Asserts that nothing is on its way to the client: the next event is the answer to a ping.
    #[track_caller]
    pub(super) fn expect_nothing(&mut self) {
        self.send(&json!({ "event": "pusher:ping", "data": {} }));
        self.expect(&json!({ "event": "pusher:pong", "data": {} }));
    }

    /// Subscribes, with a valid signature if the channel needs one.
    pub(super) fn subscribe(&mut self, channel: &str) {
        let auth = self.auth(&[channel]);
        self.send(&json!({ "event": "pusher:subscribe", "data": { "channel": channel, "auth": auth } }));
    }

    #[track_caller]
    pub(super) fn expect_subscribed(&mut self, channel: &str) {
        let event =
            json!({ "event": "pusher_internal:subscription_succeeded", "data": {}, "channel": channel });
        self.expect(&event);
    }

    #[track_caller]
    pub(super) fn expect_rejected(&mut self, channel: &str, kind: &str, status: u16) {
        let event = self.receive();
        assert_eq!(event["event"], "pusher:subscription_error", "{event}");
        let data = &event["data"];
        assert_eq!(
            (&event["channel"], &data["type"], &data["status"]),
            (&json!(channel), &json!(kind), &json!(status))
        );
        assert!(data["error"].as_str().is_some_and(|text| !text.is_empty()), "{event}");
    }

    pub(super) fn unsubscribe(&mut self, channel: &str) {
        self.send(&json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } }));
    }

    /// Subscribes to a presence channel as a user with a name.
    pub(super) fn enter(&mut self, channel: &str, user: &str) {
        let data = json!({ "user_id": user, "user_info": { "name": user.to_uppercase() } }).to_string();
        self.enter_with(channel, &data);
    }

    pub(super) fn enter_with(&mut self, channel: &str, data: &str) {
        let auth = self.auth(&[channel, data]);
        let data = json!({ "channel": channel, "auth": auth, "channel_data": data });
        self.send(&json!({ "event": "pusher:subscribe", "data": data }));
    }

    /// Asserts that the client is told the members of a presence channel: users that entered with [`Peer::enter`].
    #[track_caller]
    pub(super) fn expect_members(&mut self, channel: &str, users: &[&str]) {
        let hash: serde_json::Map<_, _> =
            users.iter().map(|user| ((*user).into(), json!({ "name": user.to_uppercase() }))).collect();
        let presence = json!({ "presence": { "count": users.len(), "ids": users, "hash": hash } });
        let event = "pusher_internal:subscription_succeeded";
        self.expect(&json!({ "event": event, "data": presence, "channel": channel }));
    }

    #[track_caller]
    pub(super) fn expect_added(&mut self, channel: &str, user: &str) {
        let data = json!({ "user_id": user, "user_info": { "name": user.to_uppercase() } });
        self.expect(&json!({ "event": "pusher_internal:member_added", "data": data, "channel": channel }));
    }

    #[track_caller]
    pub(super) fn expect_removed(&mut self, channel: &str, user: &str) {
        let data = json!({ "user_id": user });
        self.expect(&json!({ "event": "pusher_internal:member_removed", "data": data, "channel": channel }));
    }

    pub(super) fn send_event(&mut self, channel: &str, event: &str, data: &Value) {
        self.send(&json!({ "event": event, "channel": channel, "data": data }));
    }

    pub(super) fn sign_in(&mut self, user_data: &str) {
        let auth = format!("{KEY}:{}", hmac(&format!("{}::user::{user_data}", self.socket_id)));
        self.send(&json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": user_data } }));
    }

    /// Returns the application's signature of the parts behind the socket's identifier.
    pub(super) fn auth(&self, parts: &[&str]) -> String {
        let signed = [&[self.socket_id.as_str()], parts].concat().join(":");
        format!("{KEY}:{}", hmac(&signed))
    }
}

pub(super) fn hmac(text: &str) -> String {
    let tag = sign(&Key::new(HMAC_SHA256, SECRET.as_bytes()), text.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses an event, and its data if that is a text with JSON.
pub(super) fn parse(json: &str) -> Value {
    let mut event: Value = serde_json::from_str(json).expect("JSON");
    let data = event.get("data").and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    if let Some(data) = data {
        event["data"] = data;
    }
    event
}
