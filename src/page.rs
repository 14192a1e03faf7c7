//! HTML pages, sent with a content security policy that allows only the page's own script and style.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::protocol::Status;
use crate::protocol::response::{Form, respond};

/// Media type of a page.
pub(crate) const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// Returns the response with a page that has exactly one inline script and one inline style. `head_only` leaves the
/// body out.
pub(crate) fn page_response(page: &str, head_only: bool) -> Vec<u8> {
    let mut response = Vec::new();
    let form = Form::last(head_only);
    respond(Status::Ok, &headers(&policy(page)), CONTENT_TYPE, page.as_bytes(), form, &mut response);
    response
}

/// Returns the content security policy of a page that has one inline style, no script, and a form for this server.
pub(crate) fn form_policy(page: &str) -> String {
    format!(
        "default-src 'none'; style-src '{}'; img-src data:; base-uri 'none'; form-action 'self'; \
         frame-ancestors 'none'",
        source_hash(page, "style"),
    )
}

/// Returns the header fields of a page with this content security policy.
pub(crate) fn headers(policy: &str) -> [(&'static str, &str); 4] {
    [
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    ]
}

/// Returns the content security policy of a page that has exactly one inline script and one inline style.
pub(crate) fn policy(page: &str) -> String {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        source_hash(page, "script"),
        source_hash(page, "style"),
    )
}

/// Returns the hash source that allows the page's inline element of this name in a content security policy (CSP 3
/// §6.7.2.3).
fn source_hash(page: &str, element: &str) -> String {
    let (_, rest) = page.split_once(&format!("<{element}>")).expect("the page has one such element");
    let (content, _) = rest.split_once(&format!("</{element}>")).expect("it ends");
    format!("sha256-{}", STANDARD.encode(Sha256::digest(content)))
}
