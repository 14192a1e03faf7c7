//! Keys of an identity provider that are fetched from a URL.

use std::sync::{Arc, Mutex};

use ring::signature::EcdsaKeyPair;
use serde_json::{Value, json};
use uproar::config::{AppName, BackendName, CaFile, Config, Jwks};

use crate::support::metrics::{Metrics, http_get};
use crate::support::process::{run_to_end, uproar};
use crate::support::raw::{RawClient, upgrade_request};
use crate::support::receiver::{Receiver, Reply};
use crate::support::tls::Identity;
use crate::support::token::now;
use crate::support::{TestServer, config, wait_until};
use crate::tokens::{es256_key, es256_signed};

on_both_backends!(keys_are_fetched_rotated_and_kept, a_reload_fetches_from_another_url);

/// An identity provider whose answer the test changes.
struct Provider {
    receiver: Receiver,
    answer: Arc<Mutex<Reply>>,
}

impl Provider {
    fn start(identity: Option<&Identity>) -> Self {
        let answer = Arc::new(Mutex::new(Reply::status(500)));
        let current = Arc::clone(&answer);
        let reply = move |_: usize, _: &_| current.lock().expect("no thread panicked").clone();
        let receiver = match identity {
            Some(identity) => Receiver::start_tls(identity, reply),
            None => Receiver::start(reply),
        };
        Self { receiver, answer }
    }

    fn publish(&self, key: &Value) {
        let body = json!({ "keys": [key] }).to_string();
        *self.answer.lock().expect("no thread panicked") = Reply::Respond(200, String::new(), body);
    }

    fn fetches(&self) -> usize {
        self.receiver.requests().len()
    }
}

fn settings(backend: BackendName, url: &str) -> Config {
    let admin = Some(([127, 0, 0, 1], 0).into());
    let auth_jwks = Some(url.parse::<Jwks>().expect("a URL"));
    Config { auth_jwks, admin, ..config(backend, AppName::Relay, 2) }
}

/// Sends a handshake with a token that `key` has signed.
fn connect(server: &TestServer, id: &str, key: &EcdsaKeyPair) -> RawClient {
    let token = es256_signed(&json!({"alg": "ES256", "kid": id}), &json!({"exp": now() + 60}), key);
    let mut raw = RawClient::connect(server.address());
    raw.send(upgrade_request(&format!("/?token={token}")).as_bytes());
    raw
}

/// Returns the status of the answer to a handshake with a token that `key` has signed.
fn status_of(server: &TestServer, id: &str, key: &EcdsaKeyPair) -> u16 {
    connect(server, id, key).upgrade_result().map_or_else(|status| status, |()| 101)
}

fn keys_are_fetched_rotated_and_kept(backend: BackendName) {
    let identity = Identity::new();
    let provider = Provider::start(Some(&identity));
    let ca_file = Some(CaFile::read(&identity.cert()).expect("a certificate"));
    let config = Config { ca_file, ..settings(backend, &provider.receiver.url("/certs")) };
    let server = TestServer::start(&config);
    let admin = server.admin_address().expect("an admin listener");
    let (old, new, strange) = (es256_key("old"), es256_key("new"), es256_key("strange"));
    let status = |id: &str, key: &EcdsaKeyPair| status_of(&server, id, key);

    // The provider does not work at first.
    wait_until("a fetch fails", || provider.fetches() > 0);
    let refused = connect(&server, "old", &old.0).receive_response();
    assert_eq!(refused.status, 503);
    assert!(refused.body.contains("fetching the keys") && refused.body.contains("try again"), "{refused:?}");
    let ready = http_get(admin, "/readyz");
    assert_eq!((ready.status, ready.body.contains("auth-jwks")), (503, true));
    assert_eq!(http_get(admin, "/healthz").status, 200);

    provider.publish(&old.1);
    wait_until("the keys are fetched", || http_get(admin, "/readyz").status == 200);
    assert_eq!(status("old", &old.0), 101);

    // The first token of a new key causes a fetch, and the client's next attempt succeeds.
    provider.publish(&new.1);
    let before = provider.fetches();
    assert_eq!(status("new", &new.0), 503);
    wait_until("the new key is known", || status("new", &new.0) == 101);
    assert_eq!(status("old", &old.0), 401);
    assert_eq!(provider.fetches(), before + 1);

    // Further unknown keys cause no fetch for a while.
    for _ in 0..20 {
        let refused = connect(&server, "strange", &strange.0).receive_response();
        assert_eq!(refused.status, 401);
        assert!(refused.body.contains("no key for this token"), "{refused:?}");
    }
    assert_eq!(provider.fetches(), before + 1);

    // While the provider is down, the keys stay in force.
    let value = |name: &str, labels: &[(&str, &str)]| Metrics::fetch(admin).sum(name, labels);
    let failed = || value("uproar_jwks_fetches_total", &[("outcome", "failed")]);
    let failed_before = failed();
    assert!(failed_before >= 1.0);
    *provider.answer.lock().expect("no thread panicked") = Reply::Disconnect;
    server.control().reload(&config).expect("the settings are valid");
    wait_until("a fetch fails", || failed() > failed_before);
    drop(provider);
    assert_eq!(status("new", &new.0), 101);
    assert_eq!(http_get(admin, "/readyz").status, 200);
    assert_eq!(value("uproar_jwks_keys", &[]), 1.0);
    assert_eq!(value("uproar_jwks_fetches_total", &[("outcome", "ok")]), 2.0);
    assert!(value("uproar_jwks_last_success_timestamp_seconds", &[]) > 1.7e9);
    assert!(value("uproar_refused_total", &[("reason", "token_keys")]) >= 2.0);
}

fn a_reload_fetches_from_another_url(backend: BackendName) {
    let (first, second) = (Provider::start(None), Provider::start(None));
    let (one, other) = (es256_key("one"), es256_key("other"));
    first.publish(&one.1);
    second.publish(&other.1);
    let server = TestServer::start(&settings(backend, &first.receiver.url("/")));
    let status = |id: &str, key: &EcdsaKeyPair| status_of(&server, id, key);
    wait_until("the first keys are in force", || status("one", &one.0) == 101);
    server.control().reload(&settings(backend, &second.receiver.url("/"))).expect("valid");
    wait_until("the second keys are in force", || status("other", &other.0) == 101);
    wait_until("the first keys are gone", || status("one", &one.0) == 401);
    let request = &second.receiver.requests()[0];
    assert_eq!((&*request.method, &*request.path), ("GET", "/"));
    assert!(request.field("accept").is_some_and(|types| types.contains("application/json")));
}

/// Checks that `uproar check` needs no network.
#[test]
fn a_url_is_checked_without_a_fetch() {
    let output = run_to_end(&mut uproar(&["check", "--auth-jwks=https://login.example/jwks"]));
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("auth-jwks = \"https://login.example/jwks\""), "{text}");
}
