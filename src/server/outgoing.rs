//! The parts of a server that send requests to other servers, in the feature `outgoing`. Without the feature, there are
//! none.

#[cfg(not(feature = "outgoing"))]
pub(super) use absent::Outgoing;
#[cfg(feature = "outgoing")]
pub(super) use present::Outgoing;

#[cfg(feature = "outgoing")]
mod present {
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    use tracing::warn;

    use crate::app::Hooks;
    #[cfg(feature = "server")]
    use crate::app::PusherApps;
    use crate::config::{CaFile, Options, Secret};
    use crate::outgoing::Trust;
    use crate::server::key_fetcher::KeyFetcher;
    use crate::server::workers::MakeApp;
    use crate::server::{StartError, THREAD_REMEDY};
    use crate::token::RemoteKeys;
    use crate::webhooks::{Plan, PusherWebhooks, Webhooks};

    /// The webhooks of a server, and the keys of its identity provider.
    #[derive(Clone, Debug)]
    pub(crate) struct Outgoing {
        webhooks: Option<Arc<Webhooks>>,
        /// The webhooks of the applications of a Pusher server.
        pusher: Option<Arc<PusherWebhooks>>,
        fetcher: Arc<Mutex<Option<KeyFetcher>>>,
    }

    impl Outgoing {
        /// Starts the threads that the options ask for. Replaces the keys at a URL in the options by those that a thread
        /// fetches.
        pub(crate) fn start(options: &mut Options) -> Result<Self, StartError> {
            let webhooks = match options.webhook.is_empty() {
                true => None,
                false => Some(Arc::new(with_plan(options, Webhooks::start)?)),
            };
            let outgoing = Self { webhooks, pusher: None, fetcher: Arc::default() };
            outgoing.adopt_keys(options)?;
            Ok(outgoing)
        }

        /// Returns a function that wraps the applications that `make` creates, so that they report to the webhooks.
        pub(crate) fn wrap(&self, make: Arc<MakeApp>) -> Arc<MakeApp> {
            match self.webhooks.clone() {
                None => make,
                Some(webhooks) => {
                    Arc::new(move |worker| Box::new(Hooks::new(make(worker), Arc::clone(&webhooks))))
                }
            }
        }

        /// Applies new options. Replaces the keys at a URL in the options by those that a thread fetches. After an error,
        /// everything is as before.
        pub(crate) fn reload(&self, options: &mut Options) -> Result<(), StartError> {
            match &self.webhooks {
                Some(webhooks) => with_plan(options, |plan| webhooks.reload(plan))?,
                None if options.webhook.is_empty() => {}
                None => warn!(
                    "--webhook: nothing is sent until a restart, since the server has started without webhooks"
                ),
            }
            self.adopt_keys(options)
        }

        /// Lets a thread fetch the keys at a URL, if the options have one. Keys at the same URL as before stay in force.
        fn adopt_keys(&self, options: &mut Options) -> Result<(), StartError> {
            let mut fetcher = self.fetcher();
            let jwks = options.auth_jwks.as_ref();
            let Some(jwks) = jwks.filter(|jwks| jwks.remote().is_some()) else {
                *fetcher = None;
                return Ok(());
            };
            let trust = trust(options);
            match fetcher.as_ref().filter(|fetcher| fetcher.jwks() == jwks) {
                Some(fetcher) => fetcher.refresh(&trust),
                None => {
                    let started = KeyFetcher::start(jwks, &trust);
                    *fetcher = started.map_err(|error| StartError::System {
                        action: "start the thread that fetches keys",
                        error,
                        remedy: THREAD_REMEDY,
                    })?;
                }
            }
            options.auth_jwks = fetcher.as_ref().map(|fetcher| fetcher.jwks().clone());
            Ok(())
        }

        /// Starts the webhooks of Pusher applications. Call this before the server starts.
        ///
        /// # Errors
        /// Returns a text with the problem.
        #[cfg(feature = "server")]
        pub(crate) fn start_pusher(
            apps: &PusherApps,
            options: &Options,
        ) -> Result<Arc<PusherWebhooks>, String> {
            let webhooks = Arc::new(PusherWebhooks::start(&apps.list(), trust(options))?);
            apps.set_reports(Arc::clone(&webhooks) as _);
            Ok(webhooks)
        }

        /// Ends the webhooks of Pusher applications with the others.
        #[cfg(feature = "server")]
        pub(crate) fn add_pusher(&mut self, webhooks: Arc<PusherWebhooks>) {
            self.pusher = Some(webhooks);
        }

        /// Sends what waits for the webhooks, for a short time, and ends all threads.
        pub(crate) fn end(&self) {
            *self.fetcher() = None;
            if let Some(pusher) = &self.pusher {
                pusher.end();
            }
            if let Some(webhooks) = &self.webhooks {
                webhooks.end();
            }
        }

        /// Returns the webhooks, if the server has started with some.
        pub(crate) fn webhooks(&self) -> Option<Arc<Webhooks>> {
            self.webhooks.clone()
        }

        /// Returns the keys that a thread fetches, if there is one.
        pub(crate) fn keys(&self) -> Option<Arc<RemoteKeys>> {
            self.fetcher().as_ref().map(KeyFetcher::keys)
        }

        fn fetcher(&self) -> MutexGuard<'_, Option<KeyFetcher>> {
            self.fetcher.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Returns the trust in the certificate authorities of the system and of the options.
    fn trust(options: &Options) -> Trust {
        Trust::new(options.ca_file.as_ref().map_or(&[], CaFile::certificates))
    }

    /// Calls `with` with the settings of the webhooks.
    fn with_plan<R>(
        options: &Options,
        with: impl FnOnce(&Plan<'_>) -> std::io::Result<R>,
    ) -> Result<R, StartError> {
        let trust = trust(options);
        let plan = Plan {
            urls: &options.webhook,
            secret: options.webhook_secret_file.as_ref().map_or(&[], Secret::bytes),
            events: &options.webhook_events,
            messages: &options.webhook_messages,
            trust: &trust,
        };
        with(&plan).map_err(|error| StartError::System {
            action: "start the thread of a webhook",
            error,
            remedy: THREAD_REMEDY,
        })
    }
}

#[cfg(not(feature = "outgoing"))]
mod absent {
    use std::sync::Arc;

    use crate::config::Options;
    use crate::server::StartError;
    use crate::server::workers::MakeApp;

    /// Stand-in without the feature `outgoing`, which does nothing.
    #[derive(Clone, Debug)]
    pub(crate) struct Outgoing;

    impl Outgoing {
        pub(crate) fn start(_options: &mut Options) -> Result<Self, StartError> {
            Ok(Self)
        }

        pub(crate) fn wrap(&self, make: Arc<MakeApp>) -> Arc<MakeApp> {
            make
        }

        pub(crate) fn reload(&self, _options: &mut Options) -> Result<(), StartError> {
            Ok(())
        }

        pub(crate) fn end(&self) {}
    }
}
