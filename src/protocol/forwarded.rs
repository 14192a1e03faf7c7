//! Finds the client's address behind proxies, from the header fields `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Each proxy appends the address of its peer to the list in the header field. So the last entry comes from the proxy
//! that is connected to the server, and entries further left come from earlier hops. The server reads the list from the
//! right and skips trusted proxies. The first address that is not trusted is the client's.

use std::net::IpAddr;

use super::request::Request;
use super::response::{Refusal, Status};
use smallvec::SmallVec;

/// Returns the client's address for a request from a trusted proxy: the first address from the right that `is_trusted`
/// rejects. If all hops are trusted, returns the leftmost known hop. Without hops, returns `peer`, the proxy itself.
///
/// The search for the client ends at a hop without an address (`unknown`, obfuscated or malformed).
///
/// # Errors
/// Returns an error if both header fields are present and name different clients. A proxy sets one of these fields and
/// forwards the other as the client sent it. The server cannot tell the two fields apart.
pub fn client(
    request: &Request<'_>,
    peer: Option<IpAddr>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Result<Option<IpAddr>, Refusal> {
    let lines = |name| request.headers(name).collect::<Lines<'_>>();
    let (standard, usual) = (lines("Forwarded"), lines("X-Forwarded-For"));
    let by_standard = walk(peer, forwarded_hops(&standard), &is_trusted);
    let by_usual = walk(peer, usual_hops(&usual), &is_trusted);
    match (standard.is_empty(), usual.is_empty()) {
        (false, false) if by_standard != by_usual => Err(Refusal::new(
            Status::BadRequest,
            "Forwarded and X-Forwarded-For name different clients; have the proxy remove the one that it does not set.",
        )),
        (false, _) => Ok(by_standard),
        _ => Ok(by_usual),
    }
}

/// The values of all header fields with one name, in the order of the request.
type Lines<'a> = SmallVec<[&'a [u8]; 4]>;

fn walk(
    peer: Option<IpAddr>,
    hops: impl Iterator<Item = Option<IpAddr>>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut client = peer;
    for hop in hops.map_while(|hop| hop) {
        client = Some(hop);
        if !is_trusted(hop) {
            break;
        }
    }
    client
}

/// Returns the addresses of the hops in the `X-Forwarded-For` values `lines`, from right to left. `None` is a hop
/// without an address.
pub fn usual_hops<'a>(lines: &'a [&'a [u8]]) -> impl Iterator<Item = Option<IpAddr>> + 'a {
    let items = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    // RFC 9110 §5.6.1.2: empty items of a list are ignored.
    items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()).map(node_address)
}

/// Returns the addresses of the hops in the `Forwarded` values `lines`, from right to left. `None` is a hop without an
/// address.
pub fn forwarded_hops<'a>(lines: &'a [&'a [u8]]) -> impl Iterator<Item = Option<IpAddr>> + 'a {
    let items = lines.iter().rev().flat_map(|line| Elements(Some(line)));
    items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()).map(element_address)
}

/// An iterator over the elements of a `Forwarded` list, from right to left. In this direction, a quote that the client
/// left open cannot hide elements that a proxy appended.
struct Elements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let list = self.0.take()?;
        let mut is_quoted = false;
        for at in (0..list.len()).rev() {
            match list[at] {
                b'"' if !is_quoted || !is_escaped(list, at) => is_quoted = !is_quoted,
                b',' if !is_quoted => {
                    self.0 = Some(&list[..at]);
                    return Some(&list[at + 1..]);
                }
                _ => {}
            }
        }
        Some(list)
    }
}

/// Returns whether the quotation mark at index `at` is escaped: an odd number of backslashes precedes the mark.
fn is_escaped(list: &[u8], at: usize) -> bool {
    list[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Returns the address in the parameter `for` of a `Forwarded` element. Returns `None` unless the parameter occurs once
/// and has an address. RFC 7239 §4
fn element_address(element: &[u8]) -> Option<IpAddr> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let pairs = element.split(|byte| {
        if !std::mem::take(&mut is_escaped) {
            is_escaped = is_quoted && *byte == b'\\';
            is_quoted ^= *byte == b'"';
        }
        *byte == b';' && !is_quoted
    });
    let mut named = pairs.filter_map(|pair| {
        let (name, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| value[1..].trim_ascii())
    });
    let (value, None) = (named.next()?, named.next()) else { return None };
    match value.strip_prefix(b"\"") {
        // An IP address needs no escapes, so a quoted value with a backslash is invalid.
        Some(quoted) => node_address(quoted.strip_suffix(b"\"")?),
        None => node_address(value),
    }
}

/// Parses the address of a node (one hop), with or without a port, in the forms of RFC 7239 §6 and of
/// `X-Forwarded-For`.
fn node_address(node: &[u8]) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?;
    let (address, port) = match node.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            (
                IpAddr::V6(address.parse().ok()?),
                if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) },
            )
        }
        // Several colons mean an IPv6 address without brackets.
        None => match node.split_once(':').filter(|(_, port)| !port.contains(':')) {
            Some((address, port)) => (IpAddr::V4(address.parse().ok()?), Some(port)),
            None => (node.parse().ok()?, None),
        },
    };
    port.is_none_or(is_port).then(|| address.to_canonical())
}

/// Returns whether `text` is the port of a node: one to five digits, or an obfuscated name behind `_`. RFC 7239 §6.2
fn is_port(text: &str) -> bool {
    let is_obfuscated = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    match text.strip_prefix('_') {
        Some(name) => is_obfuscated(name),
        None => (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}
