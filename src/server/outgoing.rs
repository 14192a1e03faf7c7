//! The parts of a server that send requests to other servers, in the feature `outgoing`. Without the feature, there are
//! none.

#[cfg(not(feature = "outgoing"))]
pub(super) use absent::Outgoing;
#[cfg(feature = "outgoing")]
pub(super) use present::Outgoing;

#[cfg(feature = "outgoing")]
mod present {
    use std::sync::Arc;

    use tracing::warn;

    use crate::app::Hooks;
    use crate::config::{CaFile, Options, Secret};
    use crate::outgoing::Trust;
    use crate::server::workers::MakeApp;
    use crate::server::{StartError, THREAD_REMEDY};
    use crate::webhooks::{Plan, Webhooks};

    /// The webhooks of a server.
    #[derive(Clone, Debug)]
    pub(crate) struct Outgoing {
        webhooks: Option<Arc<Webhooks>>,
    }

    impl Outgoing {
        /// Starts the threads that the options ask for.
        pub(crate) fn start(options: &Options) -> Result<Self, StartError> {
            if options.webhook.is_empty() {
                return Ok(Self { webhooks: None });
            }
            let webhooks = with_plan(options, Webhooks::start)?;
            Ok(Self { webhooks: Some(Arc::new(webhooks)) })
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

        /// Applies new options. After an error, everything is as before.
        pub(crate) fn reload(&self, options: &Options) -> Result<(), StartError> {
            match &self.webhooks {
                Some(webhooks) => with_plan(options, |plan| webhooks.reload(plan))?,
                None if options.webhook.is_empty() => {}
                None => warn!(
                    "--webhook: nothing is sent until a restart, since the server has started without webhooks"
                ),
            }
            Ok(())
        }

        /// Sends what waits for the webhooks, for a short time, and ends their threads.
        pub(crate) fn end(&self) {
            if let Some(webhooks) = &self.webhooks {
                webhooks.end();
            }
        }

        /// Returns the webhooks, if the server has started with some.
        pub(crate) fn webhooks(&self) -> Option<Arc<Webhooks>> {
            self.webhooks.clone()
        }
    }

    /// Calls `with` with the settings of the webhooks.
    fn with_plan<R>(
        options: &Options,
        with: impl FnOnce(&Plan<'_>) -> std::io::Result<R>,
    ) -> Result<R, StartError> {
        let trust = Trust::load(options.ca_file.as_ref().map_or(&[], CaFile::certificates));
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
        pub(crate) fn start(_options: &Options) -> Result<Self, StartError> {
            Ok(Self)
        }

        pub(crate) fn wrap(&self, make: Arc<MakeApp>) -> Arc<MakeApp> {
            make
        }

        pub(crate) fn reload(&self, _options: &Options) -> Result<(), StartError> {
            Ok(())
        }

        pub(crate) fn end(&self) {}
    }
}
