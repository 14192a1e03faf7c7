//! HTTP requests, as an application sees them.

use std::fmt;
use std::net::IpAddr;

use crate::protocol::Request;
use crate::publisher::Ticket;

use super::responder::{Deferral, Responder};
use super::{Answer, Context};

/// An HTTP request on the main port, with its whole body. [`App::on_request`](super::App::on_request) answers it.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    request: &'a Request<'a>,
    client_address: Option<IpAddr>,
    ticket: Ticket,
}

impl<'a> HttpRequest<'a> {
    pub(crate) fn new(request: &'a Request<'a>, client_address: Option<IpAddr>, ticket: Ticket) -> Self {
        Self { request, client_address, ticket }
    }

    /// Defers the answer: returns what [`App::on_request`](super::App::on_request) returns, and the [`Responder`] that
    /// answers the request later, from any thread. The client waits meanwhile, however long that takes: nothing more of
    /// it is handled. Two responders of one request have one answer: the first. A responder of a request that the handler
    /// answers otherwise does nothing.
    pub fn defer(&self, context: &Context<'_>) -> (Answer, Responder) {
        let responder = Responder::new(context.publisher().clone(), context.shard(), self.ticket);
        (Answer::Later(Deferral(self.ticket)), responder)
    }

    /// Returns the method, exactly as the client sent it: `GET`, `POST`, …
    pub fn method(&self) -> &'a str {
        self.request.method
    }

    /// Returns whether the method is GET or HEAD. The server leaves the body out of a response to HEAD.
    pub fn is_read(&self) -> bool {
        self.request.method == "GET" || self.request.is_head()
    }

    /// Returns the path of the URL, which begins with `/`, or is `*`. Percent-encoding is not decoded.
    pub fn path(&self) -> &'a str {
        self.request.path
    }

    /// Returns the query of the URL, the part behind the first `?`, percent-encoded. `None` without a `?`.
    pub fn query(&self) -> Option<&'a str> {
        self.request.query
    }

    /// Returns the host that the request names, with a port if the client sent one. `None` only in HTTP/1.0.
    pub fn host(&self) -> Option<&'a str> {
        self.request.host
    }

    /// Returns the value of the first header field with this name. Returns `None` if there is no such field or the
    /// value is not UTF-8. Ignores the name's case.
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.request.header(name)
    }

    /// Returns the values of all header fields with this name. Ignores the name's case.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.request.headers(name)
    }

    /// Returns the value of the first cookie with this name. Names are case-sensitive. RFC 6265 §4.2
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.request.cookie(name)
    }

    /// Returns the credentials of all Authorization fields with the scheme Bearer. RFC 6750 §2.1
    pub(crate) fn bearer(&self) -> impl Iterator<Item = &'a [u8]> {
        self.request.bearer()
    }

    /// Returns the body, at most [`Options::max_request_body`](crate::Options::max_request_body) bytes. Empty for a
    /// request without a body.
    pub fn body(&self) -> &'a [u8] {
        self.request.body
    }

    /// Returns the client's IP address: the peer's, or the client that a trusted proxy names. `None` if unknown.
    pub fn client_address(&self) -> Option<IpAddr> {
        self.client_address
    }

    /// Returns whether the request is a valid WebSocket handshake.
    pub fn is_upgrade(&self) -> bool {
        self.request.upgrade.is_some()
    }

    /// Returns the subprotocols that the client offers, in its order of preference. RFC 6455 §4.1, item 10
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        self.request.subprotocols()
    }
}

impl fmt::Debug for HttpRequest<'_> {
    /// Leaves out the query, the header fields and the body, which may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpRequest({} {})", self.method(), self.path())
    }
}
