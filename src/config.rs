//! The settings of the server: the engine's [`Options`], and how the program reads them from the command line,
//! environment variables and a settings file.
//!
//! The definition of the command line also defines the settings file: the file's keys are the names of the options, and
//! its values replace clap's defaults. So clap's order of precedence (flag, variable, default) and clap's checks hold
//! for the file, too.

/// Implements `FromStr`, which reads the file at a path, and a `Debug` form that shows the path only, for a type with the
/// function `read` and the field `path`. So no text shows what stands in a file of secrets.
macro_rules! named_by_path {
    ($type:ident) => {
        impl std::str::FromStr for $type {
            type Err = String;

            fn from_str(path: &str) -> Result<Self, String> {
                Self::read(Path::new(path))
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($type)).field(&self.path).finish()
            }
        }
    };
}

#[cfg(feature = "admin")]
mod admin_token;
mod api_keys;
#[cfg(feature = "outgoing")]
mod ca_file;
#[cfg(feature = "server")]
mod command_line;
mod endpoint;
#[cfg(feature = "server")]
mod file;
#[cfg(feature = "server")]
mod hints;
pub(crate) mod hosts;
pub(crate) mod jwks;
#[cfg(feature = "server")]
mod load;
mod machine;
pub(crate) mod networks;
mod options;
pub(crate) mod origins;
#[cfg(feature = "server")]
mod pusher_apps;
mod secret;
#[cfg(all(test, feature = "server"))]
pub(crate) mod tests;

#[cfg(feature = "admin")]
pub use admin_token::AdminToken;
pub use api_keys::ApiKeys;
#[cfg(feature = "outgoing")]
pub use ca_file::CaFile;
#[cfg(feature = "server")]
pub use command_line::{AppName, Cli, Config, LogFormat};
pub use endpoint::Endpoint;
#[cfg(all(test, feature = "server"))]
pub(crate) use file::{keys, needs_restart, options};
pub use hosts::ServerName;
pub use jwks::Jwks;
#[cfg(feature = "server")]
pub use load::{Change, LoadError, Loaded};
pub use networks::Network;
pub use options::{BackendName, Compression, Conflict, LagPolicy, Options, Takeover};
pub use origins::Origin;
#[cfg(feature = "server")]
pub use pusher_apps::PusherAppsFile;
pub use secret::Secret;

#[cfg(feature = "outgoing")]
pub use crate::names::RoomPattern;
#[cfg(feature = "outgoing")]
pub use crate::outgoing::Url;
#[cfg(feature = "outgoing")]
pub use crate::webhooks::WebhookEvent;
