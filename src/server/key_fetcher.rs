//! The thread that fetches the keys of an identity provider.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tracing::{info, warn};

use crate::config::Jwks;
use crate::config::jwks::MAX_LEN;
use crate::outgoing::{Backoff, Client, Fetched, Trust, Url};
use crate::token::{KeySet, RemoteKeys, Wake};

/// Time limit for a fetch.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time after which the keys are fetched again, unless the provider sets another one with `Cache-Control: max-age`.
const REFRESH: Duration = Duration::from_secs(3600);
/// Shortest time after which the keys are fetched again.
const MIN_REFRESH: Duration = Duration::from_secs(60);
/// Longest time after which the keys are fetched again.
const MAX_REFRESH: Duration = Duration::from_secs(24 * 3600);
/// Stack size of the thread in bytes.
const STACK_BYTES: usize = 512 << 10;

/// The thread that fetches the keys of an identity provider, at once and again and again. Dropping the value ends it.
#[derive(Debug)]
pub(super) struct KeyFetcher {
    jwks: Jwks,
    keys: Arc<RemoteKeys>,
    /// The client of the next fetch.
    client: Arc<Mutex<Arc<Client>>>,
}

impl KeyFetcher {
    /// Starts the thread for keys at a URL. Returns `None` for keys from a file.
    ///
    /// # Errors
    /// The operating system cannot start the thread.
    pub(super) fn start(jwks: &Jwks, trust: &Trust) -> io::Result<Option<Self>> {
        let jwks = jwks.fresh();
        let Some((url, keys)) = jwks.remote() else { return Ok(None) };
        let client = Arc::new(Mutex::new(Arc::new(Client::new(trust, url))));
        let (url, keys) = (url.clone(), Arc::clone(keys));
        let thread = Thread { url, keys: Arc::clone(&keys), client: Arc::clone(&client) };
        let builder = std::thread::Builder::new().name("keys".into()).stack_size(STACK_BYTES);
        builder.spawn(move || thread.run())?;
        Ok(Some(Self { jwks, keys, client }))
    }

    /// Returns the keys' option, with the keys that the thread fetches.
    pub(super) fn jwks(&self) -> &Jwks {
        &self.jwks
    }

    /// Returns the keys that the thread fetches.
    pub(super) fn keys(&self) -> Arc<RemoteKeys> {
        Arc::clone(&self.keys)
    }

    /// Fetches the keys again now, and trusts these authorities from now on.
    pub(super) fn refresh(&self, trust: &Trust) {
        if let Some((url, _)) = self.jwks.remote() {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(Client::new(trust, url));
            self.keys.refresh();
        }
    }
}

impl Drop for KeyFetcher {
    fn drop(&mut self) {
        self.keys.end();
    }
}

/// The state of the thread.
struct Thread {
    url: Url,
    keys: Arc<RemoteKeys>,
    client: Arc<Mutex<Arc<Client>>>,
}

impl Thread {
    fn run(&self) {
        let (mut backoff, random) = (Backoff::default(), SystemRandom::new());
        let mut pause = Duration::ZERO;
        while self.keys.wait(pause) == Wake::Fetch {
            let client = Arc::clone(&self.client.lock().unwrap_or_else(PoisonError::into_inner));
            pause = match self.fetch(&client) {
                Ok((keys, refresh)) => {
                    let has_failed = backoff.succeeded();
                    let is_new = self.keys.fetched(Some(keys));
                    if is_new || has_failed {
                        info!(provider = self.url.origin(), "auth-jwks: the keys are fetched");
                    }
                    refresh
                }
                Err(error) => {
                    self.keys.fetched(None);
                    if backoff.failures() == 0 {
                        let provider = self.url.origin();
                        warn!(
                            provider,
                            error,
                            "auth-jwks: cannot fetch the keys; the old ones stay in force, trying again"
                        );
                    }
                    let mut byte = [0];
                    // Without randomness the pauses are not varied, which does no harm.
                    let _ = random.fill(&mut byte);
                    backoff.failed(byte[0])
                }
            };
        }
    }

    /// Fetches the keys. Returns them with the time after which they are fetched again.
    fn fetch(&self, client: &Client) -> Result<(KeySet, Duration), String> {
        let accept = "application/jwk-set+json, application/json";
        let fetched = client.get(&self.url, accept, MAX_LEN, PATIENCE);
        let Fetched { body, max_age } = fetched.map_err(|error| error.to_string())?;
        Ok((KeySet::parse(&body)?, max_age.unwrap_or(REFRESH).clamp(MIN_REFRESH, MAX_REFRESH)))
    }
}
