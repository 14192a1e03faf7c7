//! Reads the settings file: TOML with one key for each option. Clap's definition of an option checks its key and value.

use std::any::TypeId;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, Command};
use toml::de::{DeTable, DeValue};

use crate::files;

use super::command_line::{AT_START, Config};
use super::hints::similar_option;

/// Maximum length of a settings file in bytes.
const MAX_LEN: u64 = 1 << 20;

const NO_LIST: &str = "expected text in quotes, or a list of texts";

/// A settings file whose values have been checked.
#[derive(Debug, Default)]
pub(super) struct File {
    name: String,
    entries: Vec<Entry>,
}

/// A key of the settings file and its values.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// The key's values, written as on the command line.
    pub(super) values: Vec<String>,
    /// The number of the key's line in the settings file, from 1.
    line: usize,
}

/// The TOML type of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The option's value is a TOML number.
    Number,
    /// The option's value is a TOML string.
    Text,
    /// The option's value is a TOML array of strings, or one string.
    List,
    /// The option's value is `true` or `false`.
    Switch,
}

impl File {
    /// Reads and checks the settings file at `path`.
    ///
    /// # Errors
    /// Returns the first error in the settings file, as one line with the file, the line number, the key and the
    /// remedy.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let bytes = files::read(path, MAX_LEN).map_err(|error| format!("--config {name}: {error}"))?;
        let text = str::from_utf8(&bytes).map_err(|error| {
            let line = 1 + count_lines(&bytes[..error.valid_up_to()]);
            format!("{name}:{line}: not UTF-8; save the file in that encoding")
        })?;
        Self::parse(&name, text)
    }

    /// Parses and checks `text`, the content of a settings file. `name` is the file's name for errors.
    ///
    /// # Errors
    /// Returns the first error in the text, in the form of [`File::read`].
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let line_of = |span: &Range<usize>| 1 + count_lines(&text.as_bytes()[..span.start.min(text.len())]);
        let options = options();
        let table = DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&span));
            format!("{name}:{line}: {}", no_toml(&options, text.lines().nth(line - 1), error.message()))
        })?;
        let mut lines: Vec<_> = table.get_ref().iter().collect();
        lines.sort_by_key(|(key, _)| key.span().start);
        let entries = lines.into_iter().map(|(key, value)| {
            let line = line_of(&key.span());
            let written = one_line(text.get(value.span()).unwrap_or_default());
            let values = entry_values(&options, key.get_ref(), value.get_ref(), &written);
            let values =
                values.map_err(|what| format!("{name}:{line}: {}: {what}", one_line(key.get_ref())))?;
            Ok(Entry { key: key.get_ref().to_string(), values, line })
        });
        Ok(Self { name: name.into(), entries: entries.collect::<Result<_, String>>()? })
    }

    pub(super) fn entry(&self, option: &Arg) -> Option<&Entry> {
        self.entries.iter().find(|entry| option.get_long() == Some(&entry.key))
    }

    /// Returns the place of an entry in the settings file, as `FILE:LINE`.
    pub(super) fn place(&self, entry: &Entry) -> String {
        format!("{}:{}", self.name, entry.line)
    }
}

/// Returns a clap command that has only the server's options, without `--help` and `--version`.
pub(crate) fn options() -> Command {
    Config::augment_args(Command::new("uproar")).disable_help_flag(true).disable_version_flag(true)
}

/// Returns the options that may stand in the settings file: all options with an environment variable.
pub(crate) fn keys(options: &Command) -> impl Iterator<Item = &Arg> {
    options.get_arguments().filter(|option| option.get_env().is_some())
}

/// Returns whether a change of the option needs a restart of the server: its help heading is [`AT_START`].
pub(crate) fn needs_restart(option: &Arg) -> bool {
    option.get_help_heading() == Some(AT_START)
}

/// Returns the TOML type of the option's values.
pub(super) fn form(option: &Arg) -> Form {
    let numbers = [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<Duration>()];
    let parser: &ValueParser = option.get_value_parser();
    if matches!(option.get_action(), ArgAction::Append) {
        Form::List
    } else if parser.type_id() == TypeId::of::<bool>() {
        Form::Switch
    } else if numbers.iter().any(|number| parser.type_id() == *number) {
        Form::Number
    } else {
        Form::Text
    }
}

/// Returns an option's value for printing. A secret, whose value clap's help hides, is replaced by a placeholder.
pub(super) fn shown(option: &Arg, value: &str) -> String {
    if option.is_hide_env_values_set() { "(secret)".into() } else { value.into() }
}

/// Returns clap's reason for refusing an option's value, as one line.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return one_line(&source.to_string());
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(names)) => format!("expected one of {}", names.join(", ")),
        _ => one_line(&error.kind().to_string()),
    }
}

/// Returns the error text for a TOML syntax error, with the key of the broken line. The rest of the line may be part of
/// a secret and is not shown.
fn no_toml(options: &Command, line: Option<&str>, message: &str) -> String {
    let start = line.and_then(|line| line.split('=').next()).unwrap_or_default().trim();
    let key = keys(options).filter_map(Arg::get_long).find(|key| *key == start);
    let remedy = match message.contains("duplicate") {
        true => "leave one of them out",
        false => "expected lines like max-message = 65536 or app = \"chat\"",
    };
    format!("{}{}; {remedy}", key.map_or_else(String::new, |key| format!("{key}: ")), one_line(message))
}

/// Returns the checked values of a key of the settings file. `written` is the value's text in the file, for errors.
fn entry_values(
    options: &Command,
    key: &str,
    value: &DeValue<'_>,
    written: &str,
) -> Result<Vec<String>, String> {
    let Some(option) = keys(options).find(|option| option.get_long() == Some(key)) else {
        return Err(unknown(options, key, value.is_table()));
    };
    let values = values(option, value).map_err(|what| what.to_owned() + &example(option));
    let judged =
        values.and_then(|values| values.into_iter().map(|value| try_value(options, option, value)).collect());
    judged.map_err(|what| format!("{}: {what}", shown(option, written)))
}

/// Converts a TOML value to the option's values as on the command line.
fn values(option: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, &'static str> {
    match (form(option), value) {
        (Form::Number, DeValue::Integer(number)) => {
            let decimal =
                i128::from_str_radix(number.as_str(), number.radix()).map(|number| number.to_string());
            // A number too large for i128 is too large for every option, so the option's parser refuses the text.
            Ok(vec![decimal.unwrap_or_else(|_| number.as_str().into())])
        }
        (Form::Number, DeValue::Float(number)) => Ok(vec![number.as_str().into()]),
        (Form::Number, _) => Err("expected a number, without quotes"),
        (Form::Switch, DeValue::Boolean(is_on)) => Ok(vec![is_on.to_string()]),
        (Form::Switch, _) => Err("expected true or false, without quotes"),
        (Form::Text | Form::List, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Form::Text, _) => Err("expected text in quotes"),
        (Form::List, DeValue::Array(list)) if !list.is_empty() => {
            let texts = list.iter().map(|one| one.get_ref().as_str().map(Into::into));
            texts.collect::<Option<_>>().ok_or(NO_LIST)
        }
        (Form::List, _) => Err(NO_LIST),
    }
}

/// Checks one value of an option with clap, as if the option were alone on a command line. Returns the value if clap
/// accepts it.
fn try_value(options: &Command, option: &Arg, value: String) -> Result<String, String> {
    let argument = format!("--{}={value}", option.get_long().unwrap_or_default());
    let parsed = options.clone().try_get_matches_from(["uproar", &argument]);
    parsed.map(|_| value).map_err(|error| reason(&error))
}

/// Returns the option's default value as an example for an error text, or an empty text without a default.
fn example(option: &Arg) -> String {
    let default = option.get_default_values().first().and_then(|default| default.to_str());
    match (default, form(option)) {
        (None, _) => String::new(),
        (Some(bare), Form::Number | Form::Switch) => format!(", for instance {bare}"),
        (Some(text), _) => format!(", for instance {text:?}"),
    }
}

/// Returns the error text for an unknown key of the settings file, with the option that the user may have meant.
fn unknown(options: &Command, key: &str, is_table: bool) -> String {
    match similar_option(options, key) {
        Some(name) => format!("no such key; did you mean {name}?"),
        None if is_table => "no such key; put all keys at the top level, without [sections]".into(),
        None => "no such key; the keys are the options that uproar --help lists".into(),
    }
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// Returns the text as one line: line breaks become spaces, and control characters become replacement characters.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").replace(char::is_control, "�")
}
