//! Pages that a browser gets, under a policy that lets nothing run or load but what the page holds itself.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::protocol::Status;
use crate::protocol::response::respond;

/// The response with a page that has one inline script and one inline style; without its body for HEAD.
pub(crate) fn page_response(page: &str, head_only: bool) -> Vec<u8> {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        source_hash(page, "script"),
        source_hash(page, "style"),
    );
    let headers = [
        ("Content-Security-Policy", policy.as_str()),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-cache"),
    ];
    let mut response = Vec::new();
    respond(Status::Ok, &headers, "text/html; charset=utf-8", page.as_bytes(), head_only, &mut response);
    response
}

/// The hash by which a policy allows the page's one inline element of this name. CSP 3 §6.7.2.3
fn source_hash(page: &str, element: &str) -> String {
    let (_, rest) = page.split_once(&format!("<{element}>")).expect("the page has one such element");
    let (content, _) = rest.split_once(&format!("</{element}>")).expect("it ends");
    format!("sha256-{}", STANDARD.encode(Sha256::digest(content)))
}
