//! The HTTP client. It keeps connections open, follows no redirects, and limits the time and the length of everything.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use ureq::config::ConfigBuilder;
use ureq::http::{Response, StatusCode};
use ureq::tls::{TlsConfig, TlsProvider};
use ureq::typestate::AgentScope;
use ureq::{Agent, Body, Error, Timeout};

use super::trust::Trust;
use super::url::Url;

/// Time limit for the resolution of a host name and for a connection, each.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// Maximum length of a response's head in bytes.
const MAX_HEAD: usize = 16 << 10;
/// Maximum length, in bytes, of an unwanted response body that is read so that the connection can be used again.
const MAX_UNWANTED: u64 = 16 << 10;
/// Number of idle connections that are kept to one server.
const IDLE_CONNECTIONS: usize = 1;

/// A blocking HTTP client for the requests of one thread.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
}

/// The answer to [`Client::get`].
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) body: Vec<u8>,
    /// The directive `max-age` of the field `Cache-Control`. RFC 9111 §5.2.2.1
    pub(crate) max_age: Option<Duration>,
}

/// The reason why a request has no good answer. The text does not have the URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The server answered with another status than 2xx.
    #[error("the server answered with status {0}")]
    Status(u16),
    /// The server redirected the request.
    #[error(
        "the server answered with status {0}, and redirects are not followed; use the URL that it points to"
    )]
    Redirect(u16),
    /// The host name has no address.
    #[error("the host name cannot be resolved")]
    Name,
    /// A time limit is over.
    #[error("the server did not answer in time ({0})")]
    Late(Timeout),
    /// The body of the answer is too long.
    #[error("the answer has more than {0} bytes")]
    TooLong(u64),
    /// The connection or the protocol failed.
    #[error("{0}")]
    Other(String),
}

impl Client {
    /// Creates a client that trusts these authorities. `for_url` is the URL of its requests: a proxy that the environment
    /// names (`HTTPS_PROXY`, `NO_PROXY`) is not used for loopback hosts.
    pub(crate) fn new(trust: &Trust, for_url: &Url) -> Self {
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(trust.roots_for(for_url))
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build();
        let config: ConfigBuilder<AgentScope> = Agent::config_builder();
        let config = config
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("uproar/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(MAX_HEAD)
            .max_idle_connections(IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .timeout_resolve(Some(CONNECT_PATIENCE))
            .timeout_connect(Some(CONNECT_PATIENCE));
        let config = if for_url.is_loopback() { config.proxy(None) } else { config };
        Self { agent: config.build().new_agent() }
    }

    /// Sends a body. All must be over within `patience`.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) fn post(
        &self,
        url: &Url,
        headers: &[(&str, String)],
        body: &[u8],
        patience: Duration,
    ) -> Result<(), SendError> {
        let mut request = self.agent.post(url.uri()).config().timeout_global(Some(patience)).build();
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(authorization) = url.authorization() {
            request = request.header("Authorization", authorization);
        }
        let response = request.send(body)?;
        let status = response.status();
        // A connection is used again only after its response is read to the end.
        let unwanted = response.into_body().into_reader();
        let _ = io::copy(&mut unwanted.take(MAX_UNWANTED), &mut io::sink());
        if status.is_success() { Ok(()) } else { Err(status.into()) }
    }

    /// Gets a body of at most `max_len` bytes. All must be over within `patience`.
    ///
    /// # Errors
    /// See [`SendError`].
    pub(crate) fn get(
        &self,
        url: &Url,
        accept: &str,
        max_len: u64,
        patience: Duration,
    ) -> Result<Fetched, SendError> {
        let request = self.agent.get(url.uri()).config().timeout_global(Some(patience)).build();
        let mut request = request.header("Accept", accept);
        if let Some(authorization) = url.authorization() {
            request = request.header("Authorization", authorization);
        }
        let response = request.call()?;
        if !response.status().is_success() {
            return Err(response.status().into());
        }
        let max_age = max_age(&response);
        let mut body = Vec::new();
        response.into_body().into_reader().take(max_len + 1).read_to_end(&mut body).map_err(Error::from)?;
        if body.len() as u64 > max_len {
            return Err(SendError::TooLong(max_len));
        }
        Ok(Fetched { body, max_age })
    }
}

impl From<StatusCode> for SendError {
    fn from(status: StatusCode) -> Self {
        if status.is_redirection() { Self::Redirect(status.as_u16()) } else { Self::Status(status.as_u16()) }
    }
}

impl From<Error> for SendError {
    fn from(error: Error) -> Self {
        match error {
            Error::Timeout(which) => Self::Late(which),
            Error::HostNotFound => Self::Name,
            Error::Io(error) if error.kind() == ErrorKind::TimedOut => Self::Late(Timeout::Global),
            Error::Io(error) => Self::Other(error.to_string()),
            // Other errors have no URL, except this one.
            Error::BadUri(_) => Self::Other("the URL cannot be used".into()),
            other => Self::Other(other.to_string()),
        }
    }
}

/// Returns the directive `max-age` of a response.
fn max_age(response: &Response<Body>) -> Option<Duration> {
    let fields = response.headers().get_all("cache-control");
    let directives = fields.iter().filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(','));
    directives.filter_map(|directive| directive.trim().split_once('=')).find_map(|(name, value)| {
        let seconds = value.trim_matches('"').parse().ok()?;
        name.eq_ignore_ascii_case("max-age").then(|| Duration::from_secs(seconds))
    })
}
