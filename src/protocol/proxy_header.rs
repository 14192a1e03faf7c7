//! The header of the PROXY protocol, versions 1 and 2. A proxy sends this header before the client's bytes.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Maximum length in bytes of a PROXY header, including the extensions of version 2.
pub const MAX_HEADER_LEN: usize = 4096;

/// Maximum length in bytes of a PROXY header of version 1. §2.1
const MAX_LINE_LEN: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
/// The first 12 bytes of a PROXY header of version 2. §2.2
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Length in bytes of the fixed part of a PROXY header of version 2: signature, version and command, family, length.
const FIXED_LEN: usize = 16;

/// A decoded PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The length of the PROXY header in bytes. The client's bytes follow the header.
    pub len: usize,
    /// The source of the connection: a client or the proxy itself.
    pub source: Source,
}

/// The source of a connection, as its PROXY header gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The proxy itself opened the connection (LOCAL, §2.2).
    Proxy,
    /// A client without a known IP address: the proxy does not tell the address (UNKNOWN, UNSPEC), or the client uses a
    /// Unix socket.
    Hidden,
    /// A client with this IP address and port.
    Client(SocketAddr),
}

/// The error for bytes that are not a valid PROXY header. The text names the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoProxyHeader(pub &'static str);

const NONE: NoProxyHeader = NoProxyHeader(
    "A connection from this proxy must begin with a PROXY protocol header; have the proxy send it, or run the server \
     without --proxy-protocol.",
);
const BROKEN_LINE: NoProxyHeader = NoProxyHeader(
    "The PROXY protocol header is broken; version 1 is a line such as \"PROXY TCP4 192.0.2.1 192.0.2.2 40000 80\" of \
     107 bytes at most, which ends in CR LF.",
);
const BROKEN: NoProxyHeader = NoProxyHeader(
    "The PROXY protocol header is broken; version 2 has the command LOCAL or PROXY, a family of stream sockets, and \
     room for its addresses.",
);
const TOO_LONG: NoProxyHeader =
    NoProxyHeader("The PROXY protocol header is too long; have the proxy send at most 4096 bytes.");

impl ProxyHeader {
    /// Parses the PROXY header at the start of `bytes`, which are all bytes of the connection so far. Returns `None` if
    /// more bytes are needed; [`MAX_HEADER_LEN`] bytes are always enough.
    ///
    /// # Errors
    /// Returns an error if the bytes cannot become a valid PROXY header.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, NoProxyHeader> {
        let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted);
        if begins(LINE_START) {
            parse_line(bytes)
        } else if begins(SIGNATURE) {
            parse_binary(bytes)
        } else {
            Err(NONE)
        }
    }
}

/// Parses a PROXY header of version 1, a line of text. §2.1
fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let window = &bytes[..bytes.len().min(MAX_LINE_LEN)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() == MAX_LINE_LEN { Err(BROKEN_LINE) } else { Ok(None) };
    };
    let line = window[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(LINE_START));
    let source = line.and_then(line_source).ok_or(BROKEN_LINE)?;
    Ok(Some(ProxyHeader { len: end + 1, source }))
}

fn line_source(line: &[u8]) -> Option<Source> {
    // §2.1: the rest of the line behind UNKNOWN is ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Some(Source::Hidden);
    }
    let mut fields = str::from_utf8(line).ok()?.split(' ');
    let parse: fn(&str) -> Option<IpAddr> = match fields.next()? {
        "TCP4" => |text| text.parse().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse().ok().map(IpAddr::V6),
        _ => return None,
    };
    let (source, _destination) = (parse(fields.next()?)?, parse(fields.next()?)?);
    let (port, _destination_port) = (parse_port(fields.next()?)?, parse_port(fields.next()?)?);
    fields.next().is_none().then_some(Source::Client(SocketAddr::new(source, port)))
}

/// Parses a decimal port number. Returns `None` if it has a sign or leading zeros.
fn parse_port(text: &str) -> Option<u16> {
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_canonical)
}

/// Parses a binary PROXY header of version 2. §2.2
fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, NoProxyHeader> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LEN>() else { return Ok(None) };
    let [.., command, family, high, low] = *fixed;
    let payload_len = usize::from(u16::from_be_bytes([high, low]));
    let len = FIXED_LEN + payload_len;
    if len > MAX_HEADER_LEN {
        return Err(TOO_LONG);
    }
    let (is_local, addresses_len) = match (command, family) {
        (0x20, _) => (true, 0),
        (0x21, 0x00) => (false, 0),
        (0x21, 0x11) => (false, 12),
        (0x21, 0x21) => (false, 36),
        // The family of Unix sockets: two paths of 108 bytes each.
        (0x21, 0x31) => (false, 216),
        _ => return Err(BROKEN),
    };
    if payload_len < addresses_len {
        return Err(BROKEN);
    }
    let Some(payload) = rest.get(..payload_len) else { return Ok(None) };
    let client = binary_client(family, payload).map_or(Source::Hidden, Source::Client);
    Ok(Some(ProxyHeader { len, source: if is_local { Source::Proxy } else { client } }))
}

/// Returns the client's address from a payload of version 2: the source and destination address, then both ports.
/// Returns `None` if the family has no IP addresses. The payload is long enough for its family.
fn binary_client(family: u8, payload: &[u8]) -> Option<SocketAddr> {
    let (address, ports): (IpAddr, _) = match family {
        0x11 => (Ipv4Addr::from(*payload.first_chunk()?).into(), payload.get(8..)?),
        0x21 => (Ipv6Addr::from(*payload.first_chunk()?).into(), payload.get(32..)?),
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_be_bytes(*ports.first_chunk()?)))
}
