//! The Pusher applications of a server: their credentials and limits.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};

use super::webhooks::{PusherEvent, PusherReports, PusherWebhook};

use crate::Publisher;
use crate::config::Origin;

/// An application of a Pusher server: its credentials, and the limits of its clients.
#[derive(Clone, PartialEq, Eq)]
pub struct PusherApp {
    /// Identifier of the application, which the paths of its REST API contain.
    pub id: String,
    /// Public key of the application, with which its clients connect.
    pub key: String,
    /// Secret of the application, which signs subscriptions and REST requests. The `Debug` form does not show it.
    pub secret: String,
    /// Whether clients may connect. Clients of a disabled application are closed with 4003.
    pub is_enabled: bool,
    /// Whether clients may send client events.
    pub client_events: bool,
    /// Maximum number of client events that a connection may send per second. 0 means no limit.
    pub client_events_per_second: u32,
    /// Whether clients get events with the number of subscribers of their channels.
    pub subscription_counts: bool,
    /// Maximum number of connections. 0 means no limit.
    pub max_connections: u32,
    /// Maximum number of users of a presence channel.
    pub max_presence_members: u32,
    /// Maximum size of the data of a presence channel's member, in bytes.
    pub max_member_bytes: u32,
    /// Maximum size of the data of an event, in bytes.
    pub max_event_bytes: u32,
    /// Origins whose pages may connect. Empty: all.
    pub origins: Vec<Origin>,
    /// Servers that are told what happens in the application's channels.
    pub webhooks: Vec<PusherWebhook>,
}

impl PusherApp {
    /// Creates an application with these credentials and the usual limits.
    pub fn new(id: impl Into<String>, key: impl Into<String>, secret: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            key: key.into(),
            secret: secret.into(),
            is_enabled: true,
            client_events: true,
            client_events_per_second: 10,
            subscription_counts: false,
            max_connections: 0,
            max_presence_members: 10_000,
            max_member_bytes: 2 << 10,
            max_event_bytes: 10 << 10,
            origins: Vec::new(),
            webhooks: Vec::new(),
        }
    }
}

impl PusherApp {
    /// Returns whether subscriptions are counted, for clients or for a webhook.
    pub(super) fn counts_subscriptions(&self) -> bool {
        let is_wanted = |webhook: &PusherWebhook| webhook.events.contains(&PusherEvent::SubscriptionCount);
        self.subscription_counts || self.webhooks.iter().any(is_wanted)
    }
}

impl fmt::Debug for PusherApp {
    /// Leaves out the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PusherApp").field("id", &self.id).field("key", &self.key).finish_non_exhaustive()
    }
}

/// The applications of a Pusher server, shared by all of its shards.
#[derive(Clone, Debug)]
pub struct PusherApps {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: Mutex<Arc<Table>>,
    /// Number of the changes of `table`.
    version: AtomicU64,
    /// Random number of this run of the server, which hides the numbers of connections in socket identifiers.
    salt: u64,
    /// The receiver of the events for webhooks.
    reports: OnceLock<Arc<dyn PusherReports>>,
}

impl PusherApps {
    /// Creates the applications of a server.
    ///
    /// # Errors
    /// Returns a text with the problem if two applications have the same identifier or key, if one of these is not made of
    /// 1 to 100 letters, digits, `-` and `_`, or if the operating system gives no random bytes.
    pub fn new(apps: Vec<PusherApp>) -> Result<Self, String> {
        let table = Table::default().with(apps)?;
        let salt = u64::from_le_bytes(random().map_err(|error| error.to_string())?);
        let table = Mutex::new(Arc::new(table));
        Ok(Self {
            shared: Arc::new(Shared { table, version: AtomicU64::new(0), salt, reports: OnceLock::new() }),
        })
    }

    /// Creates the applications of a simulated server, which gives out the same socket identifiers in every run.
    #[cfg(test)]
    pub(crate) fn with_salt(apps: Vec<PusherApp>, salt: u64) -> Self {
        let table = Table::default().with(apps).expect("valid applications");
        let table = Mutex::new(Arc::new(table));
        Self {
            shared: Arc::new(Shared { table, version: AtomicU64::new(0), salt, reports: OnceLock::new() }),
        }
    }

    /// Creates one application with random credentials.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn random() -> io::Result<Self> {
        let id = u32::from_le_bytes(random()?) % 900_000 + 100_000;
        let app = PusherApp::new(id.to_string(), hex(&random::<10>()?), hex(&random::<16>()?));
        Self::new(vec![app]).map_err(io::Error::other)
    }

    /// Replaces the applications. Applications keep their clients by their identifiers. Clients of an application that is
    /// gone or disabled are closed.
    ///
    /// # Errors
    /// Returns a text with the problem as [`PusherApps::new`] does. Then nothing changes.
    pub fn replace(&self, apps: Vec<PusherApp>, publisher: &Publisher) -> Result<(), String> {
        let mut table = self.shared.table.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = table.with(apps.clone())?;
        if let Some(reports) = self.shared.reports.get() {
            reports.replace(&apps)?;
        }
        *table = Arc::new(fresh);
        self.shared.version.fetch_add(1, Ordering::Release);
        drop(table);
        for shard in 0..publisher.shard_count() {
            // A shard whose queue is full sees the new applications with its next request.
            let _ = publisher.ask(shard, Replaced);
        }
        Ok(())
    }

    /// Sets the receiver of the events for the applications' webhooks. Call this before the server starts. Without a receiver
    /// nothing is sent. The first receiver stays.
    pub fn set_reports(&self, reports: Arc<dyn PusherReports>) {
        let _ = self.shared.reports.set(reports);
    }

    /// Returns the receiver of the events for webhooks, if there is one.
    pub(super) fn reports(&self) -> Option<Arc<dyn PusherReports>> {
        self.shared.reports.get().cloned()
    }

    /// Returns the applications.
    pub fn list(&self) -> Vec<PusherApp> {
        self.table().current().map(|app| (**app).clone()).collect()
    }

    /// Returns the version of the latest table.
    pub(super) fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// Returns the latest table.
    pub(super) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.shared.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the random number of this run of the server.
    pub(super) fn salt(&self) -> u64 {
        self.shared.salt
    }
}

/// Note to an instance: the applications were replaced.
pub(super) struct Replaced;

/// Index of an application in a [`Table`]. The index stays the application's own for the run of the server.
pub(super) type AppIndex = u32;

/// The applications at a time. Applications that are gone keep their rows.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Row>,
    by_id: HashMap<String, AppIndex>,
    /// Applications by key. Applications that are gone are left out.
    by_key: HashMap<String, AppIndex>,
}

#[derive(Clone, Debug)]
struct Row {
    app: Arc<PusherApp>,
    /// Whether the application is one of the latest list.
    is_current: bool,
    /// Number of the application's connections, over all shards.
    connections: Arc<AtomicU32>,
}

impl Table {
    /// Returns the table with `apps` as the current applications.
    fn with(&self, apps: Vec<PusherApp>) -> Result<Self, String> {
        let mut table = Self { rows: self.rows.clone(), by_id: self.by_id.clone(), by_key: HashMap::new() };
        table.rows.iter_mut().for_each(|row| row.is_current = false);
        for app in apps {
            if !is_id(&app.id) || !is_id(&app.key) {
                let (id, key) = (&app.id, &app.key);
                return Err(format!(
                    "the id {id:?} or the key {key:?} is not made of 1 to 100 letters, digits, - and _"
                ));
            }
            let next = table.rows.len() as AppIndex;
            let index = *table.by_id.entry(app.id.clone()).or_insert(next);
            if table.by_key.insert(app.key.clone(), index).is_some() {
                return Err(format!("two applications have the key {}; give each its own", app.key));
            }
            let known = table.rows.get_mut(index as usize);
            if known.as_ref().is_some_and(|row| row.is_current) {
                return Err(format!("two applications have the id {}; give each its own", app.id));
            }
            match known {
                Some(row) => (row.app, row.is_current) = (Arc::new(app), true),
                None => {
                    table.rows.push(Row {
                        app: Arc::new(app),
                        is_current: true,
                        connections: Arc::default(),
                    });
                }
            }
        }
        Ok(table)
    }

    /// Returns the current applications.
    pub(super) fn current(&self) -> impl Iterator<Item = &Arc<PusherApp>> {
        self.rows.iter().filter(|row| row.is_current).map(|row| &row.app)
    }

    /// Returns the current application with this key, and its index.
    pub(super) fn by_key(&self, key: &str) -> Option<(AppIndex, &Arc<PusherApp>)> {
        self.by_key.get(key).map(|index| (*index, &self.rows[*index as usize].app))
    }

    /// Returns the current application with this identifier, and its index.
    pub(super) fn by_id(&self, id: &str) -> Option<(AppIndex, &Arc<PusherApp>)> {
        self.by_id.get(id).and_then(|index| Some((*index, self.at(*index)?)))
    }

    /// Returns the application at an index. `None` if it is gone.
    pub(super) fn at(&self, index: AppIndex) -> Option<&Arc<PusherApp>> {
        self.rows.get(index as usize).filter(|row| row.is_current).map(|row| &row.app)
    }

    /// Returns all applications by index, `None` for those that are gone.
    pub(super) fn all(&self) -> impl Iterator<Item = Option<&Arc<PusherApp>>> {
        self.rows.iter().map(|row| row.is_current.then_some(&row.app))
    }

    /// Returns the number of connections of the application at an index, over all shards.
    pub(super) fn connections(&self, index: AppIndex) -> u32 {
        self.rows.get(index as usize).map_or(0, |row| row.connections.load(Ordering::Relaxed))
    }

    /// Counts a new connection of the application at an index. Returns `None` if the application has as many connections
    /// as it may have.
    pub(super) fn admit(&self, index: AppIndex) -> Option<Admission> {
        let Row { app, connections, .. } = self.rows.get(index as usize)?;
        let admission = Admission { index, connections: Some(Arc::clone(connections)) };
        let before = connections.fetch_add(1, Ordering::Relaxed);
        (app.max_connections == 0 || before < app.max_connections).then_some(admission)
    }

    /// Ends a connection whose admission was kept.
    pub(super) fn release(&self, index: AppIndex) {
        if let Some(row) = self.rows.get(index as usize) {
            row.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A counted connection of an application. It is not counted any more when this value is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    index: AppIndex,
    /// The counter of the application's connections. `None` once the admission was kept.
    connections: Option<Arc<AtomicU32>>,
}

impl Admission {
    /// Keeps the connection until [`Table::release`]. Returns the index of the application.
    pub(super) fn keep(mut self) -> AppIndex {
        self.connections = None;
        self.index
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(connections) = &self.connections {
            connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Returns whether a text may be the identifier or the key of an application, which paths contain.
fn is_id(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=100).contains(&text.len()) && text.bytes().all(is_allowed)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| io::Error::other("the operating system gives no random bytes (getrandom)"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(id: &str, key: &str) -> PusherApp {
        PusherApp::new(id, key, "secret")
    }

    #[test]
    fn applications_keep_their_index_when_others_come_and_go() {
        let apps = PusherApps::new(vec![app("1", "a"), app("2", "b")]).expect("two applications");
        let (index, _) = apps.table().by_key("b").map(|(index, app)| (index, Arc::clone(app))).expect("b");
        let table = apps.table().with(vec![app("3", "c"), app("2", "d")]).expect("two applications");
        assert_eq!(table.by_key("d").map(|(index, _)| index), Some(index));
        assert_eq!(table.at(index).map(|app| &*app.key), Some("d"));
        assert!(table.by_key("a").is_none() && table.by_key("b").is_none());
        assert!(table.by_id("1").is_none() && table.by_id("3").is_some());
    }

    #[test]
    fn two_applications_with_the_same_id_or_key_are_refused() {
        let error = PusherApps::new(vec![app("1", "a"), app("1", "b")]).expect_err("the same id");
        assert_eq!(error, "two applications have the id 1; give each its own");
        let error = PusherApps::new(vec![app("1", "a"), app("2", "a")]).expect_err("the same key");
        assert_eq!(error, "two applications have the key a; give each its own");
        for wrong in ["", "a/b", "a b", "ä"] {
            assert!(PusherApps::new(vec![app(wrong, "a")]).is_err(), "{wrong}");
            assert!(PusherApps::new(vec![app("a", wrong)]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn connections_are_counted_until_they_end() {
        let limited = PusherApp { max_connections: 2, ..app("1", "a") };
        let table = PusherApps::new(vec![limited]).expect("an application").table();
        let first = table.admit(0).expect("below the limit");
        let _second = table.admit(0).expect("below the limit");
        assert!(table.admit(0).is_none());
        assert_eq!(table.connections(0), 2);
        drop(first);
        assert_eq!(table.connections(0), 1);
        assert_eq!(table.admit(0).expect("below the limit").keep(), 0);
        assert!(table.admit(0).is_none());
        table.release(0);
        assert_eq!(table.connections(0), 1);
    }

    #[test]
    fn the_debug_form_hides_the_secret() {
        let shown = format!("{:?}", PusherApp::new("1", "key", "s3cret"));
        assert!(shown.contains("key") && !shown.contains("s3cret"), "{shown}");
    }
}
