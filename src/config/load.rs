//! Settings from all their sources, each with its origin, and what changes when they are loaded again.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::command_line::Cli;
use super::file::{File, Form, form, keys, needs_restart, options, shown};
use super::{Config, Conflict, Endpoint, Options};

/// The settings that a command line, the variables and the file come to.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The file that they are from, if there is one.
    pub file: Option<PathBuf>,
    /// Whether they are only to be checked.
    pub check_only: bool,
    /// One for each key of the file, in the order of the help.
    settings: Vec<Setting>,
}

/// Why there are no settings to go by.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The help or the version was asked for, which this prints.
    #[error("{0}")]
    Help(clap::Error),
    /// Something is wrong: one line for the person who wrote it, with the way out.
    #[error("{0}")]
    Wrong(String),
}

/// One setting and where it comes from.
#[derive(Clone, Debug)]
struct Setting {
    key: String,
    /// As it may be printed, in the form of the file; `None` where nothing was said and there is no default.
    value: Option<String>,
    /// What tells whether it has changed.
    raw: Vec<OsString>,
    origin: String,
    needs_restart: bool,
}

/// A setting that is another one than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    key: String,
    from: Option<String>,
    to: Option<String>,
    /// Whether the server keeps the old one until it starts again.
    pub needs_restart: bool,
}

impl Loaded {
    /// Loads what the command line `args` (with the program's name) and the variables say, and the file that they
    /// name. What is listened on instead of what they say is `passed`, if there is something.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn from_args(args: &[OsString], passed: &[Endpoint]) -> Result<Self, LoadError> {
        // The command line and the variables by themselves first: they name the file, and a mistake in them is
        // theirs.
        let command = Cli::command();
        let matches = command.clone().try_get_matches_from(args)?;
        let file = match leaf(&matches).get_one::<PathBuf>("config") {
            Some(path) => File::read(path).map_err(LoadError::Wrong)?,
            None => File::default(),
        };
        let mut matches = with_defaults(command, &file).try_get_matches_from(args)?;
        let settings: Vec<_> =
            keys(&options()).map(|option| Setting::of(option, leaf(&matches), &file)).collect();
        let check_only = matches.subcommand_name() == Some("check");
        let options = Cli::from_arg_matches_mut(&mut matches)?.options();
        let checked = Options::from(&options.settings).check_on(passed);
        checked.map_err(|conflict| LoadError::Wrong(locate(&conflict, &settings)))?;
        Ok(Self { config: options.settings, file: options.config, check_only, settings })
    }

    /// Goes over to `fresh` settings as far as that is possible without a restart, and tells what has changed.
    pub fn adopt(&mut self, fresh: Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (old, new) in self.settings.iter_mut().zip(fresh.settings) {
            if old.raw != new.raw {
                changes.push(Change {
                    key: new.key.clone(),
                    from: old.value.clone(),
                    to: new.value.clone(),
                    needs_restart: new.needs_restart,
                });
            }
            if !new.needs_restart {
                *old = new;
            }
        }
        self.config = fresh.config;
        changes
    }
}

/// The settings as a file that gives the same ones; behind each, where it comes from.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Setting { key, value, origin, .. } in &self.settings {
            match value {
                Some(value) => writeln!(f, "{:<42} # {origin}", format!("{key} = {value}"))?,
                None => writeln!(f, "{:<42} # {origin}", format!("# {key} is not set"))?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, from, to, needs_restart } = self;
        if *needs_restart {
            return write!(f, "{key}: needs a restart");
        }
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".into());
        write!(f, "{key}: {} → {}", shown(from), shown(to))
    }
}

impl From<clap::Error> for LoadError {
    fn from(error: clap::Error) -> Self {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Self::Help(error),
            _ => Self::Wrong(one_line(&error)),
        }
    }
}

impl Setting {
    fn of(option: &Arg, matches: &ArgMatches, file: &File) -> Self {
        let (id, key) = (option.get_id().as_str(), option.get_long().unwrap_or_default());
        let raw: Vec<OsString> = matches.get_raw(id).into_iter().flatten().map(Into::into).collect();
        let entry = file.entry(option);
        let origin = match (matches.value_source(id), entry) {
            (Some(ValueSource::CommandLine), _) => format!("--{key}"),
            (Some(ValueSource::EnvVariable), _) => {
                option.get_env().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
            }
            (_, Some(entry)) => file.place(entry),
            _ => "default".into(),
        };
        let value = (!raw.is_empty()).then(|| shown(option, &written(form(option), &raw)));
        Self { key: key.into(), value, raw, origin, needs_restart: needs_restart(option) }
    }
}

/// The matches of the command that the settings belong to.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, below)| below)
}

/// The command with what the file says in the place of the defaults.
fn with_defaults(command: Command, file: &File) -> Command {
    let command = command.mut_args(|option| match file.entry(&option) {
        Some(entry) => option.default_values(entry.values.clone()),
        None => option,
    });
    command.mut_subcommands(|below| with_defaults(below, file))
}

/// Values as the file has them.
fn written(form: Form, raw: &[OsString]) -> String {
    let quoted: Vec<_> = raw.iter().map(|value| quoted(&value.to_string_lossy())).collect();
    match form {
        Form::Number => raw.iter().map(|value| number(&value.to_string_lossy())).collect(),
        Form::Switch => raw.iter().map(|value| value.to_string_lossy()).collect(),
        Form::Text => quoted.concat(),
        Form::List => format!("[{}]", quoted.join(", ")),
    }
}

/// A number of the file; the command line takes more ways to write one, like `+5` and `.5`.
fn number(text: &str) -> String {
    let whole = text.parse().map(|number: u64| number.to_string());
    let number = whole.or_else(|_| text.parse().map(|number: f64| number.to_string()));
    number.unwrap_or_else(|_| text.into())
}

/// A string of the file.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => quoted += &format!("\\u{:04X}", u32::from(char)),
            char => quoted.push(char),
        }
    }
    quoted + "\""
}

/// What cannot be together, and where each of it is from.
fn locate(conflict: &Conflict, settings: &[Setting]) -> String {
    let involved = settings.iter().filter(|setting| conflict.options.contains(&&*setting.key));
    let origins: Vec<_> = involved.map(|Setting { key, origin, .. }| format!("{key}: {origin}")).collect();
    format!("{conflict} ({})", origins.join(", "))
}

/// What was wrong with the command line, and what would be right, as one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let mut lines = text.lines().map(str::trim);
    let line = lines.next().unwrap_or_default();
    let mut all = line.strip_prefix("error: ").unwrap_or(line).to_owned();
    for hint in lines.filter(|line| line.starts_with("[possible values: ") || line.starts_with("tip: ")) {
        all.extend(["; ", hint]);
    }
    all + "; uproar --help lists the options"
}
