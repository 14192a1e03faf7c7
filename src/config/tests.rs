//! Tests of the settings from the command line and a file.

use std::ffi::OsString;
use std::fs;

use clap::{Arg, Parser};
use proptest::prelude::*;

use super::file::{File, keys, options, shown};
use super::load::quoted;
use super::*;

#[test]
fn an_empty_command_line_gives_the_defaults_of_the_engine() {
    let parsed = Cli::parse_from(["uproar"]).into_config();
    assert_eq!(Options::from(&parsed), Options::default());
    assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
    let served = Cli::parse_from(["uproar", "serve"]).into_config();
    assert_eq!(format!("{served:?}"), format!("{parsed:?}"));
}

/// Checks that the chat's own options have equal defaults in the library and on the command line.
#[test]
fn the_chat_has_the_same_defaults_in_the_library() {
    let Config { max_message, max_private_message, .. } = Config::default();
    let chat = crate::app::ChatOptions::default();
    assert_eq!((chat.max_message, chat.max_private_message), (max_message, max_private_message));
}

/// Checks that every option of the command line reaches the engine. An option that the conversion forgets would keep
/// its default.
#[test]
fn an_option_that_is_set_on_the_command_line_is_set_in_the_engine() {
    let ours = ["app", "log-format", "log", "max-private-message", "pusher-apps"];
    let defaults = format!("{:?}", Options::default());
    for option in
        keys(&options()).filter(|option| !ours.contains(&option.get_long().expect("keys have names")))
    {
        let argument = format!("--{}={}", option.get_long().expect("keys have names"), other_value(option));
        let parsed = Cli::parse_from(["uproar", &argument]).into_config();
        assert_ne!(format!("{:?}", Options::from(&parsed)), defaults, "{argument}");
    }
}

#[test]
fn several_addresses_can_be_given_in_both_ways() {
    let args = ["uproar", "--listen", "127.0.0.1:1", "--listen", "[::1]:2,127.0.0.1:3"];
    let listen = Cli::parse_from(args).into_config().listen;
    let expected: [Endpoint; 3] =
        ["127.0.0.1:1", "[::1]:2", "127.0.0.1:3"].map(|text| text.parse().expect("valid"));
    assert_eq!(listen, expected);
}

#[test]
fn a_history_that_makes_newcomers_lag_is_refused() {
    let config = Config { history_bytes: 1024, lag_window: 1024, ..Config::default() };
    assert!(config.check().is_err_and(|line| line.to_string().contains("--history-bytes 1024")));
}

/// Checks that the error for a value of the wrong type has an example that the option accepts.
#[test]
fn every_default_can_stand_in_the_file() {
    let options = options();
    for option in keys(&options) {
        let Some(default) = option.get_default_values().first() else { continue };
        let (key, default) = (option.get_long().expect("keys have names"), default.to_string_lossy());
        let forms = [format!("{key} = {default}\n"), format!("{key} = {default:?}\n")];
        let right = forms.iter().filter(|text| File::parse("file", text).is_ok()).count();
        assert_eq!(right, 1, "{key}: a number stands without quotes, and text with them");
    }
}

#[test]
fn secrets_are_not_shown() {
    let secret = Arg::new("token").long("token").env("UPROAR_TOKEN").hide_env_values(true);
    assert_eq!(shown(&secret, "hush"), "(secret)");
    assert_eq!(shown(&Arg::new("app").long("app"), "chat"), "chat");
    // After a syntax error, any text of the line may be part of a secret.
    for text in ["token = hush", "log = \"hush", "listen = [\n\"hush\" \"hush\"]", "hush"] {
        let line = File::parse("file", text).expect_err("broken");
        assert!(!line.contains("hush"), "{line}");
    }
}

/// Loads a settings file with this text, as `uproar --config` does.
fn load(name: &str, text: &str) -> Result<Loaded, LoadError> {
    let path = std::env::temp_dir().join(format!("uproar-{}-{name}.toml", std::process::id()));
    fs::write(&path, text).expect("written");
    let loaded = Loaded::from_args(&["uproar".into(), "--config".into(), path.clone().into()], &[]);
    fs::remove_file(path).expect("it is there");
    loaded
}

#[test]
fn what_changes_is_told_until_it_is_adopted_or_restarted() {
    let mut running = load("old", "workers = 1\nmessage-rate = 5\n").expect("right");
    let text = "workers = 2\nmax-message = 7\nlog = \"debug\"\n";
    let told = |changes: Vec<Change>| changes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let changes = told(running.adopt(load("new", text).expect("right")));
    let expected = [
        "workers: needs a restart",
        "max-message: 1048576 → 7",
        "message-rate: 5 → not set",
        "log: \"info\" → \"debug\"",
    ];
    assert_eq!(changes, expected);
    assert_eq!(running.config.max_message, 7);
    assert_eq!(told(running.adopt(load("same", text).expect("right"))), ["workers: needs a restart"]);
    let back = text.replace("workers = 2", "workers = 1");
    assert_eq!(told(running.adopt(load("back", &back).expect("right"))), [""; 0]);
}

#[test]
fn help_is_no_mistake() {
    let help = Loaded::from_args(&[OsString::from("uproar"), "--help".into()], &[]);
    assert!(matches!(help, Err(LoadError::Help(_))), "{help:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn quoted_text_is_read_as_it_was(text in ".*") {
        let line = format!("key = {}", quoted(&text));
        let table = toml::de::DeTable::parse(&line).expect("a line of the file");
        prop_assert_eq!(table.get_ref()["key"].get_ref().as_str(), Some(&*text));
    }

    /// Checks that any settings file is either accepted or refused with one line that has the line number.
    #[test]
    fn any_text_is_read_or_refused_in_one_line(
        lines in prop::collection::vec("(app|max-message|listen|x|\\[a\\]|\"\"| ?)[ =.]{0,3}([0-9_.xe+-]{0,9}|\\[?\"[a-z:0-9]{0,9}\"?,?\\]?|.{0,9})", 0..4)
    ) {
        if let Err(line) = File::parse("file", &lines.join("\n")) {
            let number = line.strip_prefix("file:").and_then(|rest| rest.split_once(": ")).map(|(number, _)| number);
            prop_assert!(number.is_some_and(|number| number.parse::<usize>().is_ok()), "{}", line);
            prop_assert!(!line.contains(char::is_control), "{:?}", line);
        }
    }
}

/// Returns a value that is not the option's default.
pub(crate) fn other_value(option: &Arg) -> String {
    let default = option.get_default_values().first().and_then(|default| default.to_str());
    let choices = option.get_possible_values();
    if let Some(choice) = choices.iter().find(|choice| Some(choice.get_name()) != default) {
        return choice.get_name().into();
    }
    match option.get_value_names().expect("options have values")[0].as_str() {
        "ADDR:PORT" | "ENDPOINT" => "127.0.0.1:1".into(),
        "FILTER" => "debug".into(),
        "FILE" if option.get_id() == "api_keys" => "tests/files/api-keys".into(),
        "FILE" if option.get_id() == "pusher_apps" => "tests/files/pusher-apps.toml".into(),
        "FILE" if option.get_id() == "admin_token_file" => "tests/files/admin-token".into(),
        "FILE" if option.get_id() == "auth_jwks" => "tests/files/jwks.json".into(),
        "FILE" if option.get_id() == "ca_file" => "tests/files/ca.pem".into(),
        "URL" => "https://example.org/hooks".into(),
        "ROOM" => "garden".into(),
        // The license file is long enough for a secret.
        "FILE" => "LICENSE-MIT".into(),
        "CIDR" => "10.0.0.0/8".into(),
        "ORIGIN" => "https://example.org".into(),
        "NAME" | "ISSUER" => "example.org".into(),
        "SECONDS" => (default.unwrap_or("0").parse::<f64>().expect("a number") + 1.0).to_string(),
        _ => (default.unwrap_or("0").parse::<u64>().expect("a number") + 1).to_string(),
    }
}
