//! The log on stderr, as text or as JSON.
//!
//! With `--log-format json` every line on stderr is one JSON object from the moment that the log is up: also panics,
//! and the error that ends the server. Errors in the settings come before that and are text.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::path::Path;

use tracing::subscriber::set_global_default;
use tracing::{Dispatch, Level, dispatcher, error, info, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Registry, reload};
use uproar::config::{Change, Config, Endpoint, LogFormat};

/// The running log of the process. Its filter can be replaced.
pub(crate) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    /// Destination of lines that no filter may hide: panics, and the error that ends the server. `None` for a text log.
    unfiltered: Option<Dispatch>,
}

impl Log {
    /// Starts the log of this process with the format and the filter of `config`.
    ///
    /// # Errors
    /// The log filter of `config` is malformed. Returns the text of the error.
    pub(crate) fn start(config: &Config) -> Result<Self, String> {
        let (layer, filter) = reload::Layer::new(parse(config)?);
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let log = tracing_subscriber::registry().with(layer);
        let is_json = config.log_format == LogFormat::Json;
        // Records of the crate `log` stay out: at the level debug, those of the HTTP client have whole URLs.
        let started = if is_json {
            set_global_default(log.with(lines.json().flatten_event(true)))
        } else {
            set_global_default(log.with(lines.with_ansi(std::io::stderr().is_terminal())))
        };
        started.expect("the log starts once");
        let unfiltered = is_json.then(|| {
            let builder = tracing_subscriber::fmt().json().flatten_event(true).with_writer(std::io::stderr);
            Dispatch::new(builder.with_max_level(Level::ERROR).finish())
        });
        if let Some(unfiltered) = unfiltered.clone() {
            std::panic::set_hook(Box::new(move |panic| {
                dispatcher::with_default(&unfiltered, || log_panic(panic));
            }));
        }
        Ok(Self { filter, unfiltered })
    }

    /// Replaces the log filter by the filter of `config`, which [`parse`] has checked.
    ///
    /// # Errors
    /// The filter cannot be replaced. Returns the text of the error.
    pub(crate) fn reload(&self, config: &Config) -> Result<(), String> {
        self.filter.reload(parse(config)?).map_err(|error| error.to_string())
    }

    /// Logs that the server listens on a socket from the service manager.
    pub(crate) fn passed(&self, endpoint: &Endpoint) {
        let text = format!("listening on {endpoint}, passed by the service manager, instead of --listen");
        // The message has the endpoint as text. A JSON line also has the endpoint as a field.
        match self.is_json() {
            true => info!(%endpoint, "{text}"),
            false => info!("{text}"),
        }
    }

    /// Logs a setting that a reload has changed.
    pub(crate) fn changed(&self, change: &Change) {
        let Change { key, from, to, needs_restart } = change;
        match self.is_json() {
            true => info!(setting = key, from, to, needs_restart, "{change}"),
            false => info!("{change}"),
        }
    }

    /// Logs a configured file whose content has changed. `fingerprint` describes the new content, unless the content is
    /// a secret.
    pub(crate) fn replaced(&self, setting: &str, file: &Path, what: &str, fingerprint: Option<&str>) {
        let file = file.display();
        let shown = fingerprint.map_or_else(String::new, |fingerprint| format!(": {fingerprint}"));
        let text = format!("{setting}: new {what} in {file}{shown}");
        match self.is_json() {
            true => info!(setting, %file, fingerprint, "{text}"),
            false => info!("{text}"),
        }
    }

    /// Logs the outcome of a reload of `files`: the number of changes, or the error that prevents all changes.
    pub(crate) fn reloaded(&self, files: &str, outcome: Result<usize, String>) {
        match (outcome, self.is_json()) {
            (Ok(changed), true) => info!(files, changed, "SIGHUP: read {files} again: {changed} changed"),
            (Ok(changed), false) => info!("SIGHUP: read {files} again: {changed} changed"),
            (Err(error), true) => warn!(files, error, "SIGHUP: nothing changes: {error}"),
            (Err(error), false) => warn!("SIGHUP: nothing changes: {error}"),
        }
    }

    fn is_json(&self) -> bool {
        self.unfiltered.is_some()
    }

    /// Returns a function that logs the error that ends the server, whatever the filter.
    pub(crate) fn last_words(&self) -> impl Fn(&str) + use<> {
        let unfiltered = self.unfiltered.clone();
        move |line| match &unfiltered {
            Some(unfiltered) => dispatcher::with_default(unfiltered, || error!("{line}")),
            None => say(line),
        }
    }
}

/// Parses the log filter of `config`.
///
/// # Errors
/// The filter is malformed. Returns the text of the error.
pub(crate) fn parse(config: &Config) -> Result<EnvFilter, String> {
    EnvFilter::try_new(&config.log).map_err(|error| format!("--log {}: {error}", config.log))
}

/// Writes a line of text to stderr, for the person who started the server.
pub(crate) fn say(line: &str) {
    // A write error is ignored: if stderr is closed, nobody reads the line.
    let _ = writeln!(std::io::stderr(), "uproar: {line}");
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let location = panic.location().map(tracing::field::display);
    let text = panic.payload_as_str().unwrap_or("a value that is no text");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    let backtrace = backtrace.map(tracing::field::display);
    error!(thread, location, backtrace, "panic: {text}");
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Environment variable that is set in the child process of the test, which panics.
    const PANICS: &str = "TEST_PANICS_WITH_JSON_LOG";

    #[test]
    fn a_panic_is_one_json_object_whatever_the_filter() {
        if std::env::var_os(PANICS).is_some() {
            let config = Config { log_format: LogFormat::Json, log: "off".into(), ..Config::default() };
            let _log = Log::start(&config).expect("a valid filter");
            let thread = std::thread::Builder::new().name("worker-7".into());
            let panics = thread.spawn(|| panic!("two\nlines and \"quotes\"")).expect("a thread");
            assert!(panics.join().is_err());
            return;
        }
        let test = "logging::tests::a_panic_is_one_json_object_whatever_the_filter";
        let program = std::env::current_exe().expect("this test");
        for backtrace in ["0", "1"] {
            let mut command = Command::new(&program);
            command.args(["--exact", test, "--nocapture"]).env(PANICS, "1").env("RUST_BACKTRACE", backtrace);
            let output = command.output().expect("it runs");
            let log = String::from_utf8(output.stderr).expect("text");
            assert!(output.status.success(), "{log}");
            let [line] = log.lines().collect::<Vec<_>>()[..] else { panic!("{log}") };
            let object: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
            assert_eq!(object["level"], "ERROR", "{line}");
            assert_eq!(object["message"], "panic: two\nlines and \"quotes\"", "{line}");
            assert_eq!(object["thread"], "worker-7", "{line}");
            assert!(object["location"].as_str().is_some_and(|at| at.contains("logging.rs:")), "{line}");
            assert_eq!(object["backtrace"].is_string(), backtrace == "1", "{line}");
        }
    }
}
