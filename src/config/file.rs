//! The file with settings: TOML, one key for each option, read by what the command line knows of its options.

use std::any::TypeId;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, Command};
use toml::de::{DeTable, DeValue};

use super::command_line::{AT_START, Config};

/// Bytes that a file may have; whoever names a device or a log by mistake is told.
const MAX_LEN: u64 = 1 << 20;

const NO_LIST: &str = "want text in quotes, or a list of such";

/// What a file says. Every value is one that its option takes.
#[derive(Debug, Default)]
pub(super) struct File {
    name: String,
    entries: Vec<Entry>,
}

/// One line of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// As a command line would have them.
    pub(super) values: Vec<String>,
    /// Beginning with 1.
    line: usize,
}

/// How an option's value is written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A number.
    Number,
    /// A string.
    Text,
    /// An array of strings, or one string.
    List,
    /// `true` or `false`.
    Switch,
}

impl File {
    /// # Errors
    /// The first thing that is wrong, as one line with the file, the line, the key and the way out.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let wrong = |what: &dyn std::fmt::Display| {
            format!("--config {name}: {what}; name a file with settings (deploy/uproar.toml is an example)")
        };
        let mut bytes = Vec::new();
        let file = fs::File::open(path).map_err(|error| wrong(&error))?;
        file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(|error| wrong(&error))?;
        if bytes.len() as u64 > MAX_LEN {
            return Err(wrong(&format_args!("it has more than {MAX_LEN} bytes")));
        }
        let text = str::from_utf8(&bytes).map_err(|error| {
            let line = 1 + count_lines(&bytes[..error.valid_up_to()]);
            format!("{name}:{line}: not UTF-8; save the file in that encoding")
        })?;
        Self::parse(&name, text)
    }

    /// Reads the text of the file called `name`. The same errors.
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

    /// Where an entry stands.
    pub(super) fn place(&self, entry: &Entry) -> String {
        format!("{}:{}", self.name, entry.line)
    }
}

/// A command that has the server's options and nothing else.
pub(crate) fn options() -> Command {
    Config::augment_args(Command::new("uproar")).disable_help_flag(true).disable_version_flag(true)
}

/// The options that a file may have: those that users are told of.
pub(crate) fn keys(options: &Command) -> impl Iterator<Item = &Arg> {
    options.get_arguments().filter(|option| option.get_env().is_some())
}

/// Whether the server keeps to the option's value until it starts again: its place in the help says so.
pub(crate) fn needs_restart(option: &Arg) -> bool {
    option.get_help_heading() == Some(AT_START)
}

/// How a value of the option is written.
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

/// A value as it may be printed: that of a secret, which clap's help hides, too, may not.
pub(super) fn shown(option: &Arg, value: &str) -> String {
    if option.is_hide_env_values_set() { "(secret)".into() } else { value.into() }
}

/// Why clap refuses a value: what it wants.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return one_line(&source.to_string());
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(names)) => format!("want one of {}", names.join(", ")),
        _ => one_line(&error.kind().to_string()),
    }
}

/// What TOML says of a line, and the key that the line is about. What else stands in it may be part of a secret.
fn no_toml(options: &Command, line: Option<&str>, message: &str) -> String {
    let start = line.and_then(|line| line.split('=').next()).unwrap_or_default().trim();
    let key = keys(options).filter_map(Arg::get_long).find(|key| *key == start);
    let remedy = match message.contains("duplicate") {
        true => "leave one of them out",
        false => "want lines like max-message = 65536 or app = \"chat\"",
    };
    format!("{}{}; {remedy}", key.map_or_else(String::new, |key| format!("{key}: ")), one_line(message))
}

/// The values of a key, judged; `written` is what the file has.
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

/// The values as a command line would have them.
fn values(option: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, &'static str> {
    match (form(option), value) {
        (Form::Number, DeValue::Integer(number)) => {
            let decimal =
                i128::from_str_radix(number.as_str(), number.radix()).map(|number| number.to_string());
            // One that is too large for this is too large for any option, which says so.
            Ok(vec![decimal.unwrap_or_else(|_| number.as_str().into())])
        }
        (Form::Number, DeValue::Float(number)) => Ok(vec![number.as_str().into()]),
        (Form::Number, _) => Err("want a number, without quotes"),
        (Form::Switch, DeValue::Boolean(is_on)) => Ok(vec![is_on.to_string()]),
        (Form::Switch, _) => Err("want true or false, without quotes"),
        (Form::Text | Form::List, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Form::Text, _) => Err("want text in quotes"),
        (Form::List, DeValue::Array(list)) if !list.is_empty() => {
            let texts = list.iter().map(|one| one.get_ref().as_str().map(Into::into));
            texts.collect::<Option<_>>().ok_or(NO_LIST)
        }
        (Form::List, _) => Err(NO_LIST),
    }
}

/// Has clap judge one value, as if it were alone on a command line.
fn try_value(options: &Command, option: &Arg, value: String) -> Result<String, String> {
    let argument = format!("--{}={value}", option.get_long().unwrap_or_default());
    let parsed = options.clone().try_get_matches_from(["uproar", &argument]);
    parsed.map(|_| value).map_err(|error| reason(&error))
}

/// The default as an example of what could stand there.
fn example(option: &Arg) -> String {
    let default = option.get_default_values().first().and_then(|default| default.to_str());
    match (default, form(option)) {
        (None, _) => String::new(),
        (Some(bare), Form::Number | Form::Switch) => format!(", for instance {bare}"),
        (Some(text), _) => format!(", for instance {text:?}"),
    }
}

/// That there is no such key; clap knows which one it resembles.
fn unknown(options: &Command, key: &str, is_table: bool) -> String {
    let error = options.clone().try_get_matches_from(["uproar", &format!("--{key}")]).err();
    let similar = error.as_ref().and_then(|error| match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(name)) => name.strip_prefix("--"),
        _ => None,
    });
    let similar = similar.filter(|name| keys(options).any(|option| option.get_long() == Some(name)));
    match similar {
        Some(name) => format!("no such key; did you mean {name}?"),
        None if is_table => "no such key; all keys stand at the top, without [sections]".into(),
        None => "no such key; the keys are the options that uproar --help lists".into(),
    }
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// The text without line breaks and other control characters.
fn one_line(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").replace(char::is_control, "�")
}
