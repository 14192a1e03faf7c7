//! The handle on a running server: shutdown, reload and health.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::warn;

use crate::app::PusherApps;
use crate::config::hosts::HostNames;
use crate::config::{ApiKeys, Endpoint, Options};
use crate::publisher::Publisher;
use crate::tls::Identity;
use crate::watch::Watch;

use super::admin_listener::Admin;
use super::outgoing::Outgoing;
use super::plan::Plan;
use super::{StartError, check};

/// The changed file contents that [`Control::reload`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Subject, expiry and SHA-256 fingerprint of the new certificate. `None` if the certificate has not changed.
    pub certificate: Option<String>,
}

/// A handle that stops a running server, changes its settings and checks its health, from any thread.
#[derive(Clone, Debug)]
pub struct Control {
    pub(super) watch: Arc<Watch>,
    pub(super) publisher: Publisher,
    pub(super) plan: Arc<Plan>,
    /// The admin listener of a server with `--takeover on`, otherwise `None`. [`Control::stop`] ends it at once,
    /// because the next server answers on its address.
    pub(super) taken_over: Option<Admin>,
    /// The certificate of the TLS listeners, if there are any.
    pub(super) identity: Option<Arc<Identity>>,
    /// The endpoints of the [`Given`](super::Given) sockets that the server listens on.
    pub(super) passed: Vec<Endpoint>,
    /// The Pusher applications of a server that runs the application `pusher`.
    pub(super) pusher_apps: Option<PusherApps>,
    pub(super) outgoing: Outgoing,
}

impl Control {
    /// Starts the shutdown: after the drain delay the server stops accepting and closes all clients over the drain
    /// time.
    pub fn stop(&self) {
        self.watch.shared.stopping.store(true, Ordering::SeqCst);
        self.watch.wake();
        if let Some(admin) = &self.taken_over {
            admin.stop();
        }
    }

    /// Applies new settings to the running server. Options that the help lists under "need a restart" keep their old
    /// values. Lower connection limits close no connection, and running deadlines do not change. The certificate and
    /// its key are read again, for new connections.
    ///
    /// # Errors
    /// The settings contradict each other, or the certificate cannot be used. Then all settings stay as they are.
    pub fn reload(&self, options: impl Into<Options>) -> Result<Reloaded, StartError> {
        let mut options = options.into();
        let credentials = check(&options, &self.passed).inspect_err(|_| self.reload_failed())?;
        self.outgoing.reload(&mut options).inspect_err(|_| self.reload_failed())?;
        #[cfg(feature = "outgoing")]
        self.watch.remote_keys().clone_from(&self.outgoing.keys());
        let mut certificate = None;
        if let (Some(identity), Some(credentials)) = (&self.identity, credentials) {
            certificate = identity.replace(credentials).then(|| identity.description());
            identity.warn();
        }
        *self.watch.host_names() = HostNames::new(&options);
        #[cfg(feature = "admin")]
        self.watch.admin_token().clone_from(&options.admin_token_file);
        self.watch.shared.admission.set_limits(self.plan.limits(&options));
        if let Some(trusted) = &self.plan.trusted {
            trusted.replace(&options.trusted_proxies);
        }
        if options.api_keys.is_some() && !self.watch.backends.is_served() {
            warn!("--api-keys: the API stays off until a restart, since the server has started without it");
        }
        let api_keys = options.api_keys.as_ref().map(ApiKeys::keys);
        let max_message = options.max_message;
        // The new options keep the old listeners, which change only with a restart.
        self.watch.shared.settings_update.publish(Options { listen: self.plan.listen.clone(), ..options });
        self.watch.backends.set(api_keys, max_message);
        self.watch.wake();
        self.watch.reloaded(true);
        Ok(Reloaded { certificate })
    }

    /// Records that settings could not be loaded, for the metric `uproar_config_last_reload_successful`.
    /// [`Control::reload`] records its own errors.
    pub fn reload_failed(&self) {
        self.watch.reloaded(false);
    }

    /// Returns a handle that publishes into the server from any thread.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// Returns the Pusher applications of a server that runs the application `pusher`, otherwise `None`.
    pub fn pusher_apps(&self) -> Option<&PusherApps> {
        self.pusher_apps.as_ref()
    }

    /// Returns whether [`Control::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.watch.is_draining()
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> u64 {
        self.watch.shared.admission.count()
    }

    /// Returns one line for each worker that hangs, or `None` if no worker hangs. A worker hangs when it has done
    /// nothing for 5 s and does not answer within a second. This call waits up to that second.
    pub fn hung(&self) -> Option<String> {
        self.watch.hung()
    }
}
