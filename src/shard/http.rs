//! Checks of HTTP requests before the application answers them: origins, hosts and tokens.

use std::borrow::Cow;
use std::time::Duration;

use percent_encoding::percent_decode_str;

use crate::app::Claims;
use crate::config::Origin;
use crate::config::hosts::{HostNames, foreign_host};
use crate::config::origins::{Quoted, is_allowed};
use crate::protocol::{Refusal, Request, Status};
use crate::stats::Refused;
use crate::token::{BadToken, Verifier};

use super::Settings;
use super::connection::HostRule;

/// Checks whether a request may reach the application: the origin of the web page that opens a WebSocket, and the host
/// that the request names. `host_rule` is the connection's rule for checking the Host header.
pub(super) fn admit(request: &Request<'_>, settings: &Settings, host_rule: HostRule) -> Result<(), Refusal> {
    let Settings { origins, hosts, .. } = settings;
    if request.upgrade.is_some()
        && let Some(origin) = foreign_origin(request, origins)
    {
        let reason = format!(
            "Pages of the origin {} may not connect here; add the origin to --allowed-origins of the server.",
            Quoted(origin)
        );
        return Err(Refusal::with_text(Status::Forbidden, reason));
    }
    if !is_meant_for(request, origins, hosts, host_rule) {
        return Err(Refusal::with_text(Status::MisdirectedRequest, foreign_host(request.host)));
    }
    Ok(())
}

/// Returns the first Origin header value of the request whose pages may not open a WebSocket.
fn foreign_origin<'a>(request: &Request<'a>, origins: &[Origin]) -> Option<&'a [u8]> {
    request.headers("Origin").find(|origin| !is_allowed(origin, origins, request.host))
}

/// Returns whether the request is for a host name of this server. Without a list of names, only requests on local
/// listeners are checked, since DNS rebinding lets pages of other sites reach them under a name of their own.
///
/// A handshake without an `Origin` header is no browser's, so it can have any Host header. With a list of origins, the
/// origin of a handshake suffices. An ordinary request of a browser may have no such header, so its host is checked.
/// Browsers name a host in every request.
fn is_meant_for(request: &Request<'_>, origins: &[Origin], hosts: &HostNames, rule: HostRule) -> bool {
    let is_checked = match rule {
        HostRule::Proxied => false,
        HostRule::Local | HostRule::Public if hosts.has_list() => true,
        HostRule::Local if request.upgrade.is_some() => {
            origins.is_empty() && request.headers("Origin").next().is_some()
        }
        HostRule::Local => request.host.is_some(),
        HostRule::Public => false,
    };
    !is_checked || hosts.is_own(request.host, rule == HostRule::Local)
}

/// Returns the claims of the request's token and the time until it expires. The error is the reason why the client may
/// not open a WebSocket in the room.
pub(super) fn claims(
    request: &Request<'_>,
    room: &str,
    verifier: &Verifier,
) -> Result<(Claims, Duration), (Refused, Refusal)> {
    let refuse = |(why, reason)| match why {
        Refused::TokenKeys => (why, Refusal::new(Status::ServiceUnavailable, reason)),
        _ => (why, Refusal::new(Status::Unauthorized, reason)),
    };
    let token = only_token(request).map_err(refuse)?;
    let (claims, left) = verifier.verify(&token).map_err(|bad| refuse(complaint(bad)))?;
    if !claims.may_join(room) {
        let reason =
            "The token does not allow this room; its claim \"rooms\" lists the rooms that it allows.";
        return Err((Refused::TokenRoom, Refusal::new(Status::Forbidden, reason)));
    }
    Ok((claims, left))
}

/// Returns the token of a request, or an error if the request has no token or several. The token is in the
/// Authorization header (RFC 6750 §2.1) or in the query parameter `token` (as in §2.3, with another name).
fn only_token<'a>(request: &Request<'a>) -> Result<Cow<'a, [u8]>, (Refused, &'static str)> {
    let parameters = request.query.into_iter().flat_map(|query| query.split('&'));
    let in_query = parameters.filter_map(|parameter| parameter.strip_prefix("token="));
    let in_query = in_query.map(|token| Cow::from(percent_decode_str(token)));
    // Credentials of other schemes may be for a proxy, so they are ignored.
    let in_header = request.bearer().map(Cow::Borrowed);
    let mut tokens = in_query.chain(in_header);
    match (tokens.next(), tokens.next()) {
        (None, _) => Err((
            Refused::TokenMissing,
            "This server requires a token; send it as \"Authorization: Bearer TOKEN\", or as ?token=TOKEN in the URL.",
        )),
        (Some(_), Some(_)) => Err((Refused::TokenMalformed, "Send one token, in the header or in the URL.")),
        (Some(token), None) => Ok(token),
    }
}

/// Returns the refusal reason for the metrics and the response text for a bad token.
fn complaint(bad: BadToken) -> (Refused, &'static str) {
    let why = match bad {
        BadToken::Malformed
        | BadToken::Algorithm
        | BadToken::Audience
        | BadToken::OtherAudience
        | BadToken::Issuer
        | BadToken::Identity => Refused::TokenMalformed,
        BadToken::Key | BadToken::Signature => Refused::TokenSignature,
        BadToken::Fetching => Refused::TokenKeys,
        BadToken::Expired => Refused::TokenExpired,
        BadToken::TooEarly => Refused::TokenEarly,
    };
    (why, bad.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{Answer, Echo, HttpRequest, rooms};
    use crate::config::Options;
    use crate::protocol::{Protocol, ProtocolEvent, Reader};
    use crate::publisher::Ticket;
    use crate::shard::settings::ShardId;

    /// Returns the status of the answer to a request, 101 for a WebSocket, and the room of the WebSocket.
    fn answer(head: &str, has_page: bool) -> (u16, String) {
        let mut bytes = head.replace('\n', "\r\n").into_bytes();
        let (mut protocol, mut reader) = (Protocol::new(), Reader::default());
        let Some(ProtocolEvent::Request(request)) = protocol.next(&mut &mut bytes[..], &mut reader) else {
            panic!("{head:?} is no request");
        };
        let settings = Settings::new(&Options::default(), ShardId { index: 0, count: 1 }, &Echo);
        if let Err(refusal) = admit(&request, &settings, HostRule::Public) {
            return (refusal.status.code(), String::new());
        }
        let ticket = Ticket { slot: 0, number: 1 };
        let page = || crate::app::Response::text(Status::Ok, "page");
        let status = match rooms(&HttpRequest::new(&request, None, ticket), has_page.then_some(page)) {
            Answer::Open(open) if request.upgrade.is_some() => return (101, open.room),
            Answer::Open(_) => 426,
            Answer::Respond(response) => response.status.code(),
            Answer::Refuse(refusal) => refusal.status.code(),
            Answer::NotMine => 404,
            Answer::Later(_) => panic!("{head:?} is answered at once"),
        };
        (status, String::new())
    }

    #[test]
    fn paths_lead_where_the_design_says() {
        let upgrade = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";
        for (line, headers, has_page, expected) in [
            ("GET /", "", true, 200),
            ("HEAD /", "", true, 200),
            ("GET /?x=1", "", true, 200),
            ("GET /room/garden", "", true, 200),
            ("GET /", "", false, 426),
            ("POST /", "", true, 405),
            ("GET /nowhere", "", true, 404),
            ("GET /nowhere", upgrade, true, 404),
            ("GET /", upgrade, true, 101),
            ("GET /", &format!("{upgrade}Origin: http://x\n"), true, 101),
            ("GET /", &format!("{upgrade}Origin: http://y\n"), true, 403),
            ("GET /", &format!("{upgrade}Origin: http://x\nOrigin: http://y\n"), true, 403),
            ("GET /", "Origin: http://y\n", true, 200),
            ("GET /room/", upgrade, true, 400),
            ("GET /room/a/b", upgrade, true, 400),
            ("GET /room/a%2Fb", upgrade, true, 400),
            ("GET /room/%ff", upgrade, true, 400),
            ("GET /room/.", upgrade, true, 400),
            ("GET /room/%2E%2E", upgrade, true, 400),
            ("GET /room/...", upgrade, true, 101),
            ("GET /room/%", upgrade, true, 101),
        ] {
            let head = format!("{line} HTTP/1.1\nHost: x\n{headers}\n");
            assert_eq!(answer(&head, has_page).0, expected, "{line}");
        }
        for path in ["caf%C3%A9", "cafe%CC%81"] {
            let head = format!("GET /room/{path} HTTP/1.1\nHost: x\n{upgrade}\n");
            assert_eq!(answer(&head, true), (101, "café".to_owned()), "{path}");
        }
    }
}
