//! A slow and simple reader of request bodies, written from RFC 9112 alone. Used by the tests, and by the fuzz targets,
//! which include this file by its path.

use super::{MessageLimits, Protocol, Seen, Status, feed, feed_bytewise, feed_cut};

/// The body at the beginning of a stream, as the naive reader sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body<'s> {
    /// The content, and the bytes of the stream that follow the body.
    Whole(Vec<u8>, &'s [u8]),
    /// The stream ends within the body.
    Partial,
    Refused(Status),
}

/// Maximum number of bytes of chunk extensions and trailer fields.
const MAX_EXTRA: usize = 16 << 10;

/// Reads a chunked body of at most `max` bytes, line by line. RFC 9112 §7.1
pub(super) fn read_chunked(mut rest: &[u8], max: usize) -> Body<'_> {
    let (mut content, mut extra) = (Vec::new(), 0);
    loop {
        // A malformed line is refused at its first wrong byte, so an incomplete line is judged, too.
        let (line, is_whole) = match rest.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => (&rest[..at], true),
            None => (rest.strip_suffix(b"\r").unwrap_or(rest), false),
        };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let after = line[digits..].trim_ascii_start();
        let is_blank = line[digits..].iter().all(|byte| matches!(byte, b' ' | b'\t'));
        let blanks = line.len() - digits - after.len();
        let has_odd_blank = line[digits..digits + blanks].iter().any(|byte| !matches!(byte, b' ' | b'\t'));
        let ends_blank = is_blank && !line[digits..].is_empty();
        if digits > 16
            || digits == 0 && (!line.is_empty() || rest.starts_with(b"\r"))
            || has_odd_blank
            || ends_blank && (is_whole || rest.len() > line.len())
            || !after.is_empty() && after[0] != b';'
        {
            return Body::Refused(Status::BadRequest);
        }
        if let Some(status) = judge_extra(&line[digits..], &mut extra) {
            return Body::Refused(status);
        }
        if !is_whole {
            return Body::Partial;
        }
        let size = u64::from_str_radix(str::from_utf8(&line[..digits]).expect("digits"), 16).expect("digits");
        rest = &rest[line.len() + 2..];
        if size == 0 {
            break;
        }
        if size > (max - content.len()) as u64 {
            return Body::Refused(Status::ContentTooLarge);
        }
        let size = size as usize;
        let Some((data, after)) = rest.split_at_checked(size) else { return Body::Partial };
        content.extend_from_slice(data);
        match after {
            [] | [b'\r'] => return Body::Partial,
            [b'\r', b'\n', ..] => rest = &after[2..],
            _ => return Body::Refused(Status::BadRequest),
        }
    }
    loop {
        let (line, is_whole) = match rest.windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => (&rest[..at], true),
            None => (rest.strip_suffix(b"\r").unwrap_or(rest), false),
        };
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Body::Refused(Status::BadRequest);
        }
        if let Some(status) = judge_extra(line, &mut extra) {
            return Body::Refused(status);
        }
        if !is_whole {
            return Body::Partial;
        }
        rest = &rest[line.len() + 2..];
        if line.is_empty() {
            return Body::Whole(content, rest);
        }
    }
}

/// Returns the status of the refusal of a chunk extension or a trailer field, or `None` if it is allowed.
fn judge_extra(text: &[u8], extra: &mut usize) -> Option<Status> {
    let is_bad = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let good = text.iter().position(is_bad).unwrap_or(text.len());
    *extra += good;
    if *extra > MAX_EXTRA {
        return Some(Status::HeaderFieldsTooLarge);
    }
    (good < text.len()).then_some(Status::BadRequest)
}

/// Checks that `Protocol` reads a body like the naive reader, however `stream` is cut into reads, and that the requests
/// after the body are the ones of a connection that begins there. `is_chunked`: the body is `stream` in chunks, else
/// its first `len` bytes.
pub(super) fn check_body(is_chunked: bool, len: usize, max: usize, cuts: &[usize], stream: &[u8]) {
    // Two empty lines complete a head at the end of the stream. How early an incomplete head is refused depends on the
    // cuts.
    let stream = &[stream, b"\r\n\r\n"].concat()[..];
    let field = match is_chunked {
        true => "transfer-encoding: Chunked".to_owned(),
        false => format!("Content-Length: {len}"),
    };
    let head = format!("POST /body HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
    let body = match stream.split_at_checked(len) {
        _ if is_chunked => read_chunked(stream, max),
        _ if len > max => Body::Refused(Status::ContentTooLarge),
        Some((content, rest)) => Body::Whole(content.to_vec(), rest),
        None => Body::Partial,
    };
    let limits = MessageLimits { max_request_body: max, ..MessageLimits::default() };
    let whole = [head.as_bytes(), stream].concat();
    let seen = feed(&mut Protocol::new(), &whole, &limits);
    match body {
        Body::Partial => assert_eq!(seen, []),
        Body::Refused(status) => assert_eq!(seen, [Seen::Refused(status)]),
        Body::Whole(content, rest) => {
            let (Some(Seen::Request(_, body)), later) = (seen.first(), &seen[1..]) else {
                panic!("{seen:?}")
            };
            assert_eq!(*body, content);
            assert_eq!(later, feed(&mut Protocol::new(), rest, &limits));
        }
    }
    assert_eq!(feed_cut(&mut Protocol::new(), &whole, cuts, &limits), seen);
    assert_eq!(feed_bytewise(&mut Protocol::new(), &whole, &limits), seen);
}
