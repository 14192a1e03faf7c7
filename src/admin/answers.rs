//! The answers to requests on the admin listener.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

use crate::config::hosts::foreign_host;
use crate::page::{CONTENT_TYPE as HTML, form_policy, headers, page_response};
use crate::protocol::response::{Form, respond};
use crate::protocol::{Refusal, Request, Status};
use crate::watch::Watch;

use super::access::{Access, Denied};
use super::metrics;

/// The HTML text of the live page.
const DASHBOARD: &str = include_str!("dashboard.html");

/// The HTML text of the page that asks for the token.
const LOGIN: &str = include_str!("login.html");

/// The bytes of an HTTP response, which several connections may share.
pub(super) type Response = Arc<[u8]>;

/// The answer to an HTTP request on the admin listener.
#[derive(Debug)]
pub(super) enum Answer {
    /// Answer at once with this response.
    Now(Response),
    /// Ask all shards to update their gauges, then answer with the metrics.
    Metrics { head_only: bool },
    /// Wake all shards, then answer with the shards that hang.
    Health { head_only: bool },
}

/// Returns the answer to a request of a client at the address `peer`. `is_local` says whether the listener has a loopback or
/// private address.
pub(super) fn answer(
    request: &Request<'_>,
    watch: &Watch,
    access: &Access,
    peer: IpAddr,
    is_local: bool,
) -> Answer {
    let head_only = request.is_head();
    let refuse = |refused| Answer::Now(refusal(Refusal { head_only, ..refused }));
    if !watch.host_names().is_own(request.host, is_local) {
        return refuse(Refusal::with_text(Status::MisdirectedRequest, foreign_host(request.host)));
    }
    if !["/", "/metrics", "/healthz", "/readyz"].contains(&request.path) {
        let reason = "There is nothing at this path; try /, /metrics, /healthz or /readyz.";
        return refuse(Refusal::new(Status::NotFound, reason));
    }
    let token = watch.admin_token().clone();
    if let ("POST", "/", Some(token)) = (request.method, request.path, &token) {
        return Answer::Now(log_in(access.log_in(request.body, token.bytes(), peer)));
    }
    if request.method != "GET" && !head_only {
        let reason = "This path answers GET and HEAD requests only.";
        return refuse(Refusal { allow: "GET, HEAD", ..Refusal::new(Status::MethodNotAllowed, reason) });
    }
    // The health checks need no token, so that those who probe the server need not know it.
    let token = token.filter(|_| ["/", "/metrics"].contains(&request.path));
    match token.map_or(Ok(()), |token| access.check(request, token.bytes(), peer)) {
        Ok(()) => {}
        Err(Denied::Waiting(left)) => return Answer::Now(wait(left, head_only)),
        Err(denied) if request.path == "/" => return Answer::Now(login_page(denied, head_only)),
        Err(denied) => return refuse(Refusal::new(Status::Unauthorized, complaint(denied))),
    }
    match request.path {
        "/" => Answer::Now(page_response(DASHBOARD, head_only).into()),
        "/metrics" => Answer::Metrics { head_only },
        "/healthz" if watch.has_late_shards() => Answer::Health { head_only },
        "/healthz" => Answer::Now(state(None, head_only)),
        _ => Answer::Now(state(watch.unready().map(Into::into), head_only)),
    }
}

/// Returns the response to the form: the cookie and a redirect to the live page, or the form again without a cookie.
fn log_in(cookie: Result<String, Denied>) -> Response {
    let cookie = match cookie {
        Ok(cookie) => cookie,
        Err(Denied::Waiting(left)) => return wait(left, false),
        Err(denied) => return login_page(denied, false),
    };
    let mut response = Vec::new();
    let headers = [("Location", "/"), ("Set-Cookie", &*cookie), ("Cache-Control", "no-store")];
    respond(Status::SeeOther, &headers, "", b"", Form::last(false), &mut response);
    response.into()
}

/// Returns the response to a client whose address has sent too many wrong tokens.
fn wait(left: Duration, head_only: bool) -> Response {
    let seconds = (left.as_secs() + 1).to_string();
    let body = format!("There were too many wrong tokens from this address; try again in {seconds} s.\n");
    let headers = [("Retry-After", &*seconds), ("Cache-Control", "no-store")];
    let (kind, mut response) = ("text/plain; charset=utf-8", Vec::new());
    let form = Form::last(head_only);
    respond(Status::TooManyRequests, &headers, kind, body.as_bytes(), form, &mut response);
    response.into()
}

/// Returns the page that asks for the token, as a 401 response.
fn login_page(denied: Denied, head_only: bool) -> Response {
    let problem = match denied {
        Denied::Missing => String::new(),
        Denied::Wrong | Denied::Several | Denied::Waiting(_) => {
            format!("<p class=bad role=alert>{}</p>", complaint(denied))
        }
    };
    let page = LOGIN.replace("<!-- problem -->", &problem);
    let (policy, mut response) = (form_policy(&page), Vec::new());
    let [policy, nosniff, referrer, _] = headers(&policy);
    let headers = [("WWW-Authenticate", "Bearer"), policy, nosniff, referrer, ("Cache-Control", "no-store")];
    respond(Status::Unauthorized, &headers, HTML, page.as_bytes(), Form::last(head_only), &mut response);
    response.into()
}

/// Returns the text for a request that may not read the admin endpoints.
fn complaint(denied: Denied) -> &'static str {
    match denied {
        Denied::Missing => {
            "The admin listener requires its token; send \"Authorization: Bearer TOKEN\", or open / in a browser."
        }
        Denied::Wrong => {
            "This is not the token of the admin listener; use the one in its --admin-token-file."
        }
        Denied::Waiting(_) => "There were too many wrong tokens from this address; try again later.",
        Denied::Several => "Send one header field Authorization with the scheme Bearer.",
    }
}

/// Returns the response to a GET request for the metrics.
pub(super) fn metrics_response(watch: &Arc<Watch>) -> Response {
    text(Status::Ok, CONTENT_TYPE, &metrics::render(watch), false)
}

/// Returns the response to a GET request for `/healthz`: `ok`, or the shards that hang.
pub(super) fn health_response(watch: &Watch) -> Response {
    state(watch.late_shards(), false)
}

/// Returns the head of a response to a GET request, as the response to a HEAD request. RFC 9110 §9.3.2
pub(super) fn head_of(response: &Response) -> Response {
    let end = response.windows(4).position(|window| window == b"\r\n\r\n");
    response[..end.map_or(response.len(), |at| at + 4)].into()
}

/// Returns the error response to a client whose request did not arrive in time.
pub(super) fn late_response() -> Response {
    let reason = "The request did not come in time; send it right after connecting.";
    refusal(Refusal::new(Status::RequestTimeout, reason))
}

/// Returns the response of a health check: 200 and `ok`, or 503 and the fault.
fn state(fault: Option<String>, head_only: bool) -> Response {
    let status = if fault.is_some() { Status::ServiceUnavailable } else { Status::Ok };
    let body = fault.unwrap_or_else(|| "ok".into()) + "\n";
    text(status, "text/plain; charset=utf-8", &body, head_only)
}

fn text(status: Status, content_type: &str, body: &str, head_only: bool) -> Response {
    let mut response = Vec::new();
    let headers = [("Cache-Control", "no-store")];
    respond(status, &headers, content_type, body.as_bytes(), Form::last(head_only), &mut response);
    response.into()
}

pub(super) fn refusal(refused: Refusal) -> Response {
    let mut response = Vec::new();
    refused.respond(&mut response);
    response.into()
}
