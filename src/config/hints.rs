//! Hints for misspelled settings: the most similar option, or the option with this name in other programs.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::file::{keys, options};

/// Prefix of the names of the server's environment variables.
const PREFIX: &str = "UPROAR_";

/// Pairs of option names in other programs and the matching option of this server.
const SYNONYMS: &[(&[&str], &str)] = &[
    (&["port", "p", "host", "h", "bind", "address", "addr", "ip", "interface", "socket"], "listen"),
    (&["threads", "worker", "cores", "cpus", "jobs", "j"], "workers"),
    (&["cert", "certificate", "tls", "ssl", "ssl-cert", "tls-certificate", "certfile"], "tls-cert"),
    (&["key", "private-key", "ssl-key", "keyfile"], "tls-key"),
    (&["origin", "origins", "allowed-origin", "cors"], "allowed-origins"),
    (&["server-name", "hostname", "hostnames", "allowed-hosts", "domain"], "server-names"),
    (&["secret", "jwt-secret", "secret-file", "auth", "token-secret"], "auth-hmac-secret-file"),
    (&["api", "api-key", "api-keys-file", "api-key-file"], "api-keys"),
    (&["metrics", "metrics-port", "health", "admin-port"], "admin"),
    (&["admin-token", "admin-password", "admin-key", "metrics-token"], "admin-token-file"),
    (&["verbose", "v", "debug", "d", "quiet", "q", "log-level", "loglevel"], "log"),
    (&["max-clients", "connections", "limit"], "max-connections"),
    (&["max-message-size", "max-size", "max-payload"], "max-message"),
    (&["application", "mode"], "app"),
    (&["timeout", "ping-interval", "heartbeat"], "ping-seconds"),
    (&["c", "f", "config-file", "settings"], "config"),
];

/// Returns the option that is called `name` in other programs, or else the option with the most similar name. Returns
/// `None` if no option is similar.
pub(super) fn similar_option(options: &Command, name: &str) -> Option<String> {
    let synonym = SYNONYMS.iter().find(|(names, _)| names.contains(&name)).map(|(_, option)| *option);
    if let Some(option) = synonym {
        return Some(option.into());
    }
    let error = options.clone().try_get_matches_from(["uproar", &format!("--{name}")]).err()?;
    let Some(ContextValue::String(flag)) = error.get(ContextKind::SuggestedArg) else { return None };
    let name = flag.strip_prefix("--")?;
    keys(options).any(|option| option.get_long() == Some(name)).then(|| name.into())
}

/// Returns an error text for an unknown flag that other programs have. Returns `None` for other flags: clap's own text
/// names the most similar flag.
pub(super) fn unknown_flag(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = flag.trim_start_matches('-').split('=').next()?;
    let (_, option) = SYNONYMS.iter().find(|(names, _)| names.contains(&name))?;
    Some(format!(
        "unexpected argument '{flag}' found; did you mean {}? uproar --help lists the options",
        example(option)
    ))
}

/// Returns the command-line flag of an option, with an example value if the form of the value may not be obvious.
fn example(option: &str) -> String {
    match option {
        "listen" => "--listen 127.0.0.1:8000".into(),
        "admin" => "--admin 127.0.0.1:9100".into(),
        "log" => "--log debug".into(),
        _ => format!("--{option}"),
    }
}

/// Returns a warning for each environment variable that begins with `UPROAR_` and belongs to no option.
pub(super) fn unknown_variables(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let options = options();
    let names: Vec<String> = keys(&options)
        .filter_map(|option| option.get_env())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let mut warnings: Vec<String> = variables
        .filter_map(|(name, value)| {
            let (name, value) = (name.to_string_lossy().into_owned(), value.to_string_lossy());
            let key = name.strip_prefix(PREFIX)?;
            if names.contains(&name) || name == "UPROAR_CONFIG" || is_of_kubernetes(key, &value) {
                return None;
            }
            let similar = similar_option(&options, &key.to_lowercase().replace('_', "-"));
            let remedy = match similar {
                Some(option) => {
                    format!("did you mean {PREFIX}{}?", option.to_uppercase().replace('-', "_"))
                }
                None => "unset it; uproar --help lists the variables".into(),
            };
            let name: String = name.escape_default().take(100).collect();
            Some(format!("the environment variable {name} belongs to no option and is ignored; {remedy}"))
        })
        .collect();
    warnings.sort_unstable();
    warnings
}

/// Returns whether Kubernetes sets this environment variable for a service named uproar. `key` is the variable's name
/// without `UPROAR_`.
fn is_of_kubernetes(key: &str, value: &str) -> bool {
    let has_port_number =
        key.strip_prefix("PORT_").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    key == "SERVICE_HOST"
        || key.starts_with("SERVICE_PORT")
        || has_port_number
        || key == "PORT" && value.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(variables: &[(&str, &str)]) -> Vec<String> {
        unknown_variables(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn a_misspelled_variable_is_told_with_the_nearest_name() {
        for (name, expected) in [
            ("UPROAR_LISTN", "did you mean UPROAR_LISTEN?"),
            ("UPROAR_MAX_MESAGE", "did you mean UPROAR_MAX_MESSAGE?"),
            ("UPROAR_PORT", "did you mean UPROAR_LISTEN?"),
            ("UPROAR_LOG_LEVEL", "did you mean UPROAR_LOG?"),
            ("UPROAR_XYZZY", "unset it"),
            ("UPROAR_", "unset it"),
        ] {
            let warnings =
                warnings(&[("PATH", "/"), ("UPROAR_LISTEN", "x"), (name, "8000"), ("UPROAR_CONFIG", "x")]);
            let [warning] = &warnings[..] else { panic!("{name}: {warnings:?}") };
            assert!(warning.contains(name) && warning.contains(expected), "{warning}");
        }
    }

    #[test]
    fn each_option_that_a_synonym_names_exists() {
        let options = options();
        let is_key = |name: &str| keys(&options).any(|option| option.get_long() == Some(name));
        for (names, option) in SYNONYMS {
            assert!(is_key(option) || *option == "config", "{option}");
            assert!(names.iter().all(|name| !is_key(name)), "{names:?}");
        }
    }

    #[test]
    fn variables_that_kubernetes_sets_are_no_mistakes() {
        let set = [
            ("UPROAR_SERVICE_HOST", "10.0.0.1"),
            ("UPROAR_SERVICE_PORT", "80"),
            ("UPROAR_SERVICE_PORT_HTTP", "80"),
            ("UPROAR_PORT", "tcp://10.0.0.1:80"),
            ("UPROAR_PORT_80_TCP_ADDR", "10.0.0.1"),
        ];
        assert_eq!(warnings(&set), [""; 0]);
    }
}
