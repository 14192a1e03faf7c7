//! Loads the settings from the command line, environment variables and the settings file. Keeps the source of each
//! setting, and finds the changes when the settings are loaded again.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::command_line::Cli;
use super::file::{File, Form, form, keys, needs_restart, options, shown};
use super::hints::{unknown_flag, unknown_variables};
use super::{Config, Conflict, Endpoint, Options};

/// The settings from the command line, the environment variables and the settings file.
#[derive(Debug)]
pub struct Loaded {
    /// The values of all settings.
    pub config: Config,
    /// The path of the settings file. `None` without a settings file.
    pub file: Option<PathBuf>,
    /// Whether the command is `uproar check`: the settings are checked, and no server starts.
    pub check_only: bool,
    /// Warnings, one line for each environment variable that begins with `UPROAR_` but belongs to no option.
    pub warnings: Vec<String>,
    /// Each setting that the settings file may have, in the order of the help.
    settings: Vec<Setting>,
}

/// The reason why no settings were loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The command line asked for the help or the version. The value's `Display` form is the requested text.
    #[error("{0}")]
    Help(clap::Error),
    /// The settings have an error. The text is one line with the error and the remedy.
    #[error("{0}")]
    Wrong(String),
}

/// A setting with its value and its source.
#[derive(Clone, Debug)]
struct Setting {
    key: String,
    /// The setting's value in the form of the settings file, for printing. `None` if the setting has neither a value
    /// nor a default.
    value: Option<String>,
    /// The setting's value in the form of the command line, for comparisons.
    raw: Vec<OsString>,
    /// The source of the setting's value: the flag, the variable, the line of the settings file, or `default`.
    origin: String,
    needs_restart: bool,
}

/// A setting that has changed since the settings were last loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The name of the changed option.
    pub key: String,
    /// The old value of the option. `None` if the option was not set.
    pub from: Option<String>,
    /// The new value of the option. `None` if the option is not set.
    pub to: Option<String>,
    /// Whether the server keeps the option's old value until a restart.
    pub needs_restart: bool,
}

impl Loaded {
    /// Loads the settings from the command line `args` (which begins with the program's name), the environment
    /// variables, and the settings file that `args` or a variable names. If `passed` is not empty, the server listens
    /// on these sockets instead of `--listen`.
    ///
    /// # Errors
    /// Returns a [`LoadError`] if the settings have an error, or if `args` ask for the help or the version.
    pub fn from_args(args: &[OsString], passed: &[Endpoint]) -> Result<Self, LoadError> {
        // The first pass ignores the settings file. It finds the file's path, and reports errors in flags and variables
        // before any error in the file.
        let command = Cli::command();
        let matches = command.clone().try_get_matches_from(args);
        let matches = matches.map_err(|error| LoadError::of(error, args))?;
        let file = match leaf(&matches).get_one::<PathBuf>("config") {
            Some(path) => File::read(path).map_err(LoadError::Wrong)?,
            None => File::default(),
        };
        let matches = with_defaults(command, &file).try_get_matches_from(args);
        let mut matches = matches.map_err(|error| LoadError::of(error, args))?;
        let settings: Vec<_> =
            keys(&options()).map(|option| Setting::of(option, leaf(&matches), &file)).collect();
        let check_only = matches.subcommand_name() == Some("check");
        let cli = Cli::from_arg_matches_mut(&mut matches).map_err(|error| LoadError::of(error, args))?;
        let options = cli.options();
        let checked = Options::from(&options.settings).check_on(passed);
        let checked = checked.and_then(|()| options.settings.check_app());
        checked.map_err(|conflict| LoadError::Wrong(locate(&conflict, &settings)))?;
        let warnings = unknown_variables(std::env::vars_os());
        Ok(Self { config: options.settings, file: options.config, check_only, warnings, settings })
    }

    /// Replaces each setting that needs no restart by its `fresh` value. Returns all changes, also of settings that
    /// need a restart.
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

/// Writes the settings in the form of a settings file, with the source of each setting as a comment.
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

impl LoadError {
    /// Converts an error of clap to a [`LoadError`]. `args` is the command line, which tells errors of flags from
    /// errors of variables.
    fn of(error: clap::Error, args: &[OsString]) -> Self {
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Self::Help(error),
            _ => Self::Wrong(one_line(&error, args)),
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

/// Returns clap's matches of the subcommand, or of the command itself without a subcommand.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, below)| below)
}

/// Returns `command` with the values of the settings file as the defaults of its options.
fn with_defaults(command: Command, file: &File) -> Command {
    let command = command.mut_args(|option| match file.entry(&option) {
        Some(entry) => option.default_values(entry.values.clone()),
        None => option,
    });
    command.mut_subcommands(|below| with_defaults(below, file))
}

/// Returns the values `raw` of an option in the form of the settings file.
fn written(form: Form, raw: &[OsString]) -> String {
    let quoted: Vec<_> = raw.iter().map(|value| quoted(&value.to_string_lossy())).collect();
    match form {
        Form::Number => raw.iter().map(|value| number(&value.to_string_lossy())).collect(),
        Form::Switch => raw.iter().map(|value| value.to_string_lossy()).collect(),
        Form::Text => quoted.concat(),
        Form::List => format!("[{}]", quoted.join(", ")),
    }
}

/// Returns a number in the form of TOML. The command line accepts more forms, like `+5` and `.5`.
fn number(text: &str) -> String {
    let whole = text.parse().map(|number: u64| number.to_string());
    let number = whole.or_else(|_| text.parse().map(|number: f64| number.to_string()));
    number.unwrap_or_else(|_| text.into())
}

/// Returns `text` as a TOML string: quoted and escaped.
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

/// Returns the error text for a conflict between settings, with the source of each setting involved.
fn locate(conflict: &Conflict, settings: &[Setting]) -> String {
    let involved = settings.iter().filter(|setting| conflict.options.contains(&&*setting.key));
    let origins: Vec<_> = involved.map(|Setting { key, origin, .. }| format!("{key}: {origin}")).collect();
    format!("{conflict} ({})", origins.join(", "))
}

/// Returns the text of an error in the command line or the environment variables, as one line.
fn one_line(error: &clap::Error, args: &[OsString]) -> String {
    if let Some(line) = unknown_flag(error) {
        return line;
    }
    let text = name_variable(error, args).unwrap_or_else(|| error.to_string());
    let mut lines = text.lines().map(str::trim);
    let line = lines.next().unwrap_or_default();
    let mut all = line.strip_prefix("error: ").unwrap_or(line).to_owned();
    for hint in lines.filter(|line| line.starts_with("[possible values: ") || line.starts_with("tip: ")) {
        all.extend(["; ", hint]);
    }
    all + "; uproar --help lists the options"
}

/// Returns clap's error text with the environment variable instead of the flag, if the wrong value comes from the
/// variable. Then the flag is not in `args`, since a flag overrides a variable. Returns `None` otherwise.
fn name_variable(error: &clap::Error, args: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else { return None };
    let flag = argument.split(' ').next()?;
    let is_flag = |arg: &OsString| arg.to_str().is_some_and(|arg| arg.split('=').next() == Some(flag));
    if args.iter().any(is_flag) {
        return None;
    }
    let command = Cli::command();
    let option = command.get_arguments().find(|option| option.get_long() == flag.strip_prefix("--"))?;
    let variable = option.get_env()?.to_string_lossy();
    Some(error.to_string().replace(&format!("'{argument}'"), &variable))
}
