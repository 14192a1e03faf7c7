//! Slow and simple parsers for PROXY headers, `Forwarded` and `X-Forwarded-For`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::proxy_header::Source;

/// Returns the length and source of the PROXY header at the start of `bytes`. Returns `None` if the header is
/// incomplete or invalid.
pub(crate) fn proxy_header(bytes: &[u8]) -> Option<(usize, Source)> {
    let lens = 1..=bytes.len().min(4096);
    lens.into_iter().find_map(|len| Some((len, line(&bytes[..len]).or_else(|| binary(&bytes[..len]))?)))
}

/// Parses a complete PROXY header of version 1.
fn line(bytes: &[u8]) -> Option<Source> {
    let content = bytes.strip_suffix(b"\r\n").filter(|_| bytes.len() <= 107)?;
    if content.contains(&b'\n') {
        return None;
    }
    let words: Vec<String> =
        content.split(|byte| *byte == b' ').map(|word| String::from_utf8_lossy(word).into()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Some(Source::Hidden),
        ["PROXY", family, source, destination, source_port, destination_port] => {
            let address = |text: &str| {
                let address: IpAddr = text.parse().ok()?;
                (family == if address.is_ipv4() { "TCP4" } else { "TCP6" }).then_some(address)
            };
            let port = |text: &str| text.parse().ok().filter(|port: &u16| port.to_string() == text);
            address(destination)?;
            port(destination_port)?;
            Some(Source::Client(SocketAddr::new(address(source)?, port(source_port)?)))
        }
        _ => None,
    }
}

/// Parses a complete PROXY header of version 2.
fn binary(bytes: &[u8]) -> Option<Source> {
    let rest =
        bytes.strip_prefix(&[0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a])?;
    let (head, data) = rest.split_at_checked(4)?;
    if data.len() != usize::from(head[2]) * 256 + usize::from(head[3]) {
        return None;
    }
    let port = |at: usize| u16::from(data[at]) * 256 + u16::from(data[at + 1]);
    match (head[0], head[1], data.len()) {
        (0x20, _, _) => Some(Source::Proxy),
        (0x21, 0, _) | (0x21, 0x31, 216..) => Some(Source::Hidden),
        (0x21, 0x11, 12..) => {
            let address = Ipv4Addr::new(data[0], data[1], data[2], data[3]);
            Some(Source::Client(SocketAddr::new(address.into(), port(8))))
        }
        (0x21, 0x21, 36..) => {
            let address = Ipv6Addr::from(<[u8; 16]>::try_from(&data[..16]).ok()?);
            Some(Source::Client(SocketAddr::new(address.into(), port(32))))
        }
        _ => None,
    }
}

/// Returns the hops in a value of `X-Forwarded-For` from the left.
pub(crate) fn usual(value: &str) -> Vec<Option<IpAddr>> {
    value.split(',').map(trim).filter(|item| !item.is_empty()).map(node).collect()
}

/// Returns the hops in a value of `Forwarded` from the left, or `None` if it violates the grammar of RFC 7239 §4.
pub(crate) fn forwarded(value: &str) -> Option<Vec<Option<IpAddr>>> {
    let mut hops = Vec::new();
    let mut rest = value;
    loop {
        let list = trim(rest);
        let (pairs, left) = element(list)?;
        let named: Vec<&String> = pairs
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("for"))
            .map(|(_, value)| value)
            .collect();
        match named[..] {
            [value] => hops.push(node(value)),
            _ if left.len() == list.len() => {}
            _ => hops.push(None),
        }
        let left = trim(left);
        if left.is_empty() {
            return Some(hops);
        }
        rest = left.strip_prefix(',')?;
    }
}

type Pair = (String, String);

/// Splits the first element of a `Forwarded` list off `text`: returns its pairs and the rest. A quoted value is
/// returned without quotes but with its backslashes, so that a value with escapes is not a valid node.
fn element(text: &str) -> Option<(Vec<Pair>, &str)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    loop {
        let (name, left) = token(rest);
        if !name.is_empty() {
            let left = left.strip_prefix('=')?;
            let (value, left) = match left.starts_with('"') {
                true => quoted(left)?,
                false => Some(token(left)).filter(|(value, _)| !value.is_empty())?,
            };
            pairs.push((name.to_owned(), value.to_owned()));
            rest = left;
        }
        match rest.strip_prefix(';') {
            Some(left) => rest = left,
            None => return Some((pairs, rest)),
        }
    }
}

/// Splits a token off the start of `text`. Returns the token and the rest. RFC 9110 §5.6.2
fn token(text: &str) -> (&str, &str) {
    let is_token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
    text.split_at(text.find(|char| !is_token(char)).unwrap_or(text.len()))
}

/// Returns the text in the quotation marks at the start of `text`, and the rest behind them. RFC 9110 §5.6.4
fn quoted(text: &str) -> Option<(&str, &str)> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((&text[1..at], &text[at + 1..])),
            '\\' => {
                chars.next()?;
            }
            _ => {}
        }
    }
    None
}

/// Returns the IP address of a node (a hop). RFC 7239 §6, and IPv6 addresses without brackets.
fn node(text: &str) -> Option<IpAddr> {
    let ports = text.rfind(':').map(|at| (&text[..at], &text[at + 1..]));
    let with_port = ports
        .filter(|(name, port)| (name.ends_with(']') || name.parse::<Ipv4Addr>().is_ok()) && is_port(port));
    let name = with_port.map_or(text, |(name, _)| name);
    let address: IpAddr = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(name) => IpAddr::V6(name.parse().ok()?),
        None => name.parse().ok()?,
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    let all = |text: &str, is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let is_number = text.len() <= 5 && all(text, |char| char.is_ascii_digit());
    is_number
        || text
            .strip_prefix('_')
            .is_some_and(|name| all(name, |char| char.is_ascii_alphanumeric() || "._-".contains(char)))
}

/// Removes the white space around the value of a header field.
fn trim(text: &str) -> &str {
    text.trim_matches(|char: char| char.is_ascii_whitespace())
}
