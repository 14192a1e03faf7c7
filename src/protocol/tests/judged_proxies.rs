//! Compares the parsers of PROXY headers, `Forwarded` and `X-Forwarded-For` with naive parsers. Used by the tests, and
//! by the fuzz targets, which include this file by its path.

use std::net::IpAddr;

use super::forwarded::{forwarded_hops, usual_hops};
use super::naive_proxies;
use super::proxy_header::{MAX_HEADER_LEN, ProxyHeader};

/// Checks that the parser and the naive parser accept the same PROXY headers. Checks that the parser asks for more
/// bytes at each shorter prefix.
pub fn judge_proxy_header(bytes: &[u8]) {
    let expected = naive_proxies::proxy_header(bytes);
    let found = (0..=bytes.len()).find_map(|len| ProxyHeader::parse(&bytes[..len]).transpose());
    match found {
        Some(Ok(ProxyHeader { len, source })) => assert_eq!(Some((len, source)), expected),
        Some(Err(_)) => assert_eq!(expected, None),
        None => assert!(expected.is_none() && bytes.len() < MAX_HEADER_LEN),
    }
    assert_eq!(ProxyHeader::parse(bytes).transpose(), found);
}

/// Checks that the parser and the naive parser return the same hops of `X-Forwarded-For`. Checks that text before the
/// hops changes no hop.
pub fn judge_usual_hops(value: &[u8]) {
    let hops: Vec<_> = usual_hops(&[value]).collect();
    if let Ok(text) = str::from_utf8(value) {
        let expected: Vec<_> = naive_proxies::usual(text).into_iter().rev().collect();
        assert_eq!(hops, expected);
    }
    let appended = [value, b", 192.0.2.1"].concat();
    assert_appended(usual_hops(&[&appended]), &hops);
}

/// Compares the hops of lists that follow the grammar of `Forwarded`. For all other lists, checks only that a proxy can
/// append hops.
pub fn judge_forwarded_hops(value: &[u8]) {
    let hops: Vec<_> = forwarded_hops(&[value]).collect();
    if let Some(mut expected) = str::from_utf8(value).ok().and_then(naive_proxies::forwarded) {
        expected.reverse();
        assert_eq!(hops, expected);
    }
    let appended = [value, b", for=192.0.2.1"].concat();
    assert_appended(forwarded_hops(&[&appended]), &hops);
}

fn assert_appended(mut hops: impl Iterator<Item = Option<IpAddr>>, before: &[Option<IpAddr>]) {
    assert_eq!(hops.next(), Some(Some(IpAddr::from([192, 0, 2, 1]))));
    assert_eq!(hops.collect::<Vec<_>>(), before);
}
