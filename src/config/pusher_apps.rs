//! The file with the applications of a Pusher server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::app::{PusherApp, PusherApps, PusherEvent, PusherWebhook};
use crate::config::{Origin, Url};
use crate::files;

/// Maximum length of the file in bytes.
const MAX_LEN: u64 = 1 << 20;
/// Maximum length of the file of one secret, in bytes.
const MAX_SECRET_LEN: u64 = 4096;
/// Maximum length of an identifier or a key, in bytes.
const MAX_NAME_LEN: usize = 64;

/// The applications of a Pusher server, read from a file. The `Debug` form shows the path of this file only.
#[derive(Clone, PartialEq, Eq)]
pub struct PusherAppsFile {
    path: PathBuf,
    apps: Arc<[PusherApp]>,
}

/// The file: one table `[[app]]` for each application.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    app: Vec<Entry>,
}

/// A table `[[app]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    id: String,
    key: String,
    secret: Option<String>,
    /// Path of a file with the secret, from the directory of the applications' file on.
    secret_file: Option<PathBuf>,
    enabled: Option<bool>,
    client_events: Option<bool>,
    client_events_per_second: Option<u32>,
    subscription_counts: Option<bool>,
    max_connections: Option<u32>,
    max_presence_members: Option<u32>,
    max_member_bytes: Option<u32>,
    max_event_bytes: Option<u32>,
    origins: Option<Vec<String>>,
    #[serde(default)]
    webhook: Vec<WebhookEntry>,
}

/// A table `[[app.webhook]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WebhookEntry {
    url: String,
    events: Option<Vec<String>>,
}

impl PusherAppsFile {
    /// Reads the applications from the file at `path`, and their secrets from the files that it names. docs/pusher.md
    /// describes the file.
    ///
    /// # Errors
    /// Returns an error text with the line or the application and the remedy. The text never has a secret.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = files::read(path, MAX_LEN).map_err(|error| error.to_string())?;
        let text = str::from_utf8(&bytes).map_err(|_| "not UTF-8; save the file in that encoding")?;
        let directory = path.parent().unwrap_or_else(|| Path::new(""));
        Ok(Self { path: path.into(), apps: parse(text, directory)?.into() })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the applications, in the order of the file.
    pub fn apps(&self) -> &[PusherApp] {
        &self.apps
    }
}

named_by_path!(PusherAppsFile);

/// Parses the text of a file in `directory`.
fn parse(text: &str, directory: &Path) -> Result<Vec<PusherApp>, String> {
    let file: File = toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
        // The line itself is not shown: it may have a secret.
        format!("line {line}: {}", error.message().lines().collect::<Vec<_>>().join(" "))
    })?;
    if file.app.is_empty() {
        return Err("there is no application; add a table [[app]] with id, key and secret".into());
    }
    let apps: Vec<_> = file.app.into_iter().map(|entry| entry.app(directory)).collect::<Result<_, _>>()?;
    PusherApps::new(apps.clone())?;
    Ok(apps)
}

impl Entry {
    fn app(self, directory: &Path) -> Result<PusherApp, String> {
        let id = &self.id;
        let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_');
        for (what, name) in [("id", id), ("key", &self.key)] {
            if !(1..=MAX_NAME_LEN).contains(&name.len()) || !name.chars().all(is_plain) {
                return Err(format!(
                    "the {what} {name:?} is not 1 to {MAX_NAME_LEN} letters, digits, - or _ of ASCII"
                ));
            }
        }
        let secret = match (&self.secret, &self.secret_file) {
            (Some(secret), None) => secret.clone(),
            (None, Some(path)) => {
                let path = directory.join(path);
                let bytes = files::read(&path, MAX_SECRET_LEN)
                    .map_err(|error| format!("application {id}: secret-file {}: {error}", path.display()))?;
                let text = String::from_utf8(bytes)
                    .map_err(|_| format!("application {id}: secret-file {}: not UTF-8", path.display()))?;
                text.trim_end_matches(['\r', '\n']).into()
            }
            (None, None) => {
                return Err(format!("application {id} has no secret; add secret or secret-file"));
            }
            (Some(_), Some(_)) => {
                return Err(format!("application {id} has both secret and secret-file; leave one out"));
            }
        };
        if secret.is_empty() {
            return Err(format!("the secret of application {id} is empty; openssl rand -hex 16 makes one"));
        }
        let origins = self.origins.iter().flatten().map(|text| {
            text.parse::<Origin>().map_err(|problem| format!("application {id}: origin {text:?}: {problem}"))
        });
        let origins = origins.collect::<Result<_, _>>()?;
        let webhooks = self.webhook.into_iter().map(|webhook| webhook.webhook(&self.id));
        let webhooks = webhooks.collect::<Result<_, _>>()?;
        let usual = PusherApp::new(&self.id, &self.key, secret);
        Ok(PusherApp {
            is_enabled: self.enabled.unwrap_or(usual.is_enabled),
            client_events: self.client_events.unwrap_or(usual.client_events),
            client_events_per_second: self.client_events_per_second.unwrap_or(usual.client_events_per_second),
            subscription_counts: self.subscription_counts.unwrap_or(usual.subscription_counts),
            max_connections: self.max_connections.unwrap_or(usual.max_connections),
            max_presence_members: self.max_presence_members.unwrap_or(usual.max_presence_members),
            max_member_bytes: self.max_member_bytes.unwrap_or(usual.max_member_bytes),
            max_event_bytes: self.max_event_bytes.unwrap_or(usual.max_event_bytes),
            origins,
            webhooks,
            ..usual
        })
    }
}

impl WebhookEntry {
    fn webhook(self, id: &str) -> Result<PusherWebhook, String> {
        let Self { url, events } = self;
        // The error does not repeat the URL, which may have a password.
        url.parse::<Url>().map_err(|problem| format!("application {id}: the url of a webhook: {problem}"))?;
        let Some(names) = events else {
            let is_usual = |event: &PusherEvent| *event != PusherEvent::SubscriptionCount;
            return Ok(PusherWebhook {
                url,
                events: PusherEvent::ALL.into_iter().filter(is_usual).collect(),
            });
        };
        let events = names.iter().map(|name| {
            PusherEvent::ALL.into_iter().find(|event| event.name() == name).ok_or_else(|| {
                let all = PusherEvent::ALL.map(PusherEvent::name).join(", ");
                format!("application {id}: webhooks have no event {name:?}; use {all}")
            })
        });
        Ok(PusherWebhook { url, events: events.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<PusherApp>, String> {
        parse(text, Path::new("/nowhere"))
    }

    #[test]
    fn an_application_has_the_usual_limits_unless_the_file_sets_others() {
        let apps = parsed(
            "[[app]]\nid = '1'\nkey = 'a'\nsecret = 's'\n\n[[app]]\nid = '2'\nkey = 'b'\nsecret = 't'\n\
             enabled = false\nclient-events = false\nclient-events-per-second = 1\nsubscription-counts = true\n\
             max-connections = 2\nmax-presence-members = 3\nmax-member-bytes = 4\nmax-event-bytes = 5\n\
             origins = ['https://a.example']\n[[app.webhook]]\nurl = 'https://b.example/hook'\n\
             events = ['member_added']\n[[app.webhook]]\nurl = 'http://c.example'",
        );
        let [first, second] = ["https://b.example/hook", "http://c.example"].map(String::from);
        let webhooks = vec![
            PusherWebhook { url: first, events: vec![PusherEvent::MemberAdded] },
            PusherWebhook { url: second, events: PusherEvent::ALL[..6].to_vec() },
        ];
        let second = PusherApp {
            is_enabled: false,
            client_events: false,
            client_events_per_second: 1,
            subscription_counts: true,
            max_connections: 2,
            max_presence_members: 3,
            max_member_bytes: 4,
            max_event_bytes: 5,
            origins: vec!["https://a.example".parse().expect("an origin")],
            webhooks,
            ..PusherApp::new("2", "b", "t")
        };
        assert_eq!(apps, Ok(vec![PusherApp::new("1", "a", "s"), second]));
    }

    #[test]
    fn a_secret_may_have_a_file_of_its_own() {
        let directory = std::env::temp_dir().join(format!("uproar-apps-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("created");
        std::fs::write(directory.join("shop"), "s3cret\n").expect("written");
        let apps = parse("[[app]]\nid = '1'\nkey = 'a'\nsecret-file = 'shop'", &directory);
        std::fs::remove_dir_all(&directory).expect("it is there");
        assert_eq!(apps, Ok(vec![PusherApp::new("1", "a", "s3cret")]));
    }

    #[test]
    fn a_wrong_file_is_explained_without_its_secrets() {
        const APP: &str = "[[app]]\nid = '1'\nkey = 'a'\nsecret = 'HUSH'\n";
        for (text, part) in [
            (String::new(), "there is no application"),
            ("# nothing".into(), "there is no application"),
            ("[app]\nid = '1'".into(), "line 1: "),
            ("[[app]]\nid = 1".into(), "line 2: invalid type"),
            (format!("{APP}max-conections = 1"), "line 5: unknown field `max-conections`"),
            (format!("{APP}max-connections = -1"), "line 5: "),
            (format!("{APP}max-connections = 'x'"), "line 5: "),
            ("[[app]]\nid = '1'\nkey = 'a'\nsecret = 'HUSH".into(), "line 4: "),
            ("[[app]]\nkey = 'a'\nsecret = 'HUSH'".into(), "missing field `id`"),
            ("[[app]]\nid = 'a/b'\nkey = 'a'\nsecret = 'HUSH'".into(), "the id \"a/b\" is not"),
            ("[[app]]\nid = '1'\nkey = ''\nsecret = 'HUSH'".into(), "the key \"\" is not"),
            ("[[app]]\nid = '1'\nkey = 'a'".into(), "application 1 has no secret"),
            ("[[app]]\nid = '1'\nkey = 'a'\nsecret = ''".into(), "secret of application 1 is empty"),
            (format!("{APP}secret-file = 'x'"), "both secret and secret-file"),
            (
                "[[app]]\nid = '1'\nkey = 'a'\nsecret-file = 'x'".into(),
                "application 1: secret-file /nowhere/x: no such file",
            ),
            (format!("{APP}origins = ['nonsense']"), "application 1: origin \"nonsense\": "),
            (format!("{APP}[[app.webhook]]\nurl = 'ftp://HUSH'"), "application 1: the url of a webhook: "),
            (
                format!("{APP}[[app.webhook]]\nurl = 'http://a'\nevents = ['x']"),
                "no event \"x\"; use channel_occ",
            ),
            (format!("{APP}{APP}"), "two applications have the"),
            (format!("{APP}{}", APP.replace("'1'", "'2'")), "two applications have the key a"),
        ] {
            let problem = parsed(&text).expect_err(&text);
            assert!(problem.contains(part) && !problem.contains("HUSH"), "{text}: {problem}");
            assert_eq!(problem.lines().count(), 1, "{problem}");
        }
    }
}
