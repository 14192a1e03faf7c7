//! Collects the events of a stream that reads may cut anywhere. Used by the tests, and by the fuzz targets, which
//! include this file and the naive decoder by their paths.

use super::{CloseCode, Kind, MessageLimits, Protocol, ProtocolEvent, Reader, Status};

/// A [`ProtocolEvent`] that owns its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The request, and its body apart.
    Request(String, Vec<u8>),
    Refused(Status),
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
    Failed(CloseCode),
}

impl From<ProtocolEvent<'_>> for Seen {
    /// # Panics
    /// For [`ProtocolEvent::Continue`]: whether it comes depends on where reads end.
    fn from(event: ProtocolEvent<'_>) -> Self {
        match event {
            ProtocolEvent::Continue => panic!("no event of the request itself"),
            ProtocolEvent::Request(request) => Self::Request(format!("{request:?}"), request.body.to_vec()),
            ProtocolEvent::Refused(refusal) => Self::Refused(refusal.status),
            ProtocolEvent::Message { kind, payload } => Self::Message(kind, payload.to_vec()),
            ProtocolEvent::Ping(payload) => Self::Ping(payload.to_vec()),
            ProtocolEvent::Pong(payload) => Self::Pong(payload.to_vec()),
            ProtocolEvent::Close(frame) => {
                Self::Close(frame.map(|frame| (frame.code.0, frame.reason.to_owned())))
            }
            ProtocolEvent::Failed(failure) => Self::Failed(failure.code),
        }
    }
}

/// Feeds one read to `protocol` and returns the events. Answers requests like a server, and checks that all input is
/// consumed.
pub(super) fn feed(protocol: &mut Protocol, read: &[u8], limits: &MessageLimits) -> Vec<Seen> {
    let mut read = read.to_vec();
    let mut input = &mut read[..];
    let mut seen = Vec::new();
    let mut reader = Reader::new(*limits);
    while let Some(event) = protocol.next(&mut input, &mut reader) {
        let asked = match event {
            ProtocolEvent::Continue => continue,
            ProtocolEvent::Request(request) => Some((request.upgrade.is_some(), request.keep_alive)),
            _ => None,
        };
        seen.push(event.into());
        match asked {
            Some((true, _)) => protocol.upgrade(None),
            Some((false, true)) => protocol.answered(),
            Some((false, false)) => protocol.discard(),
            None => {}
        }
    }
    assert!(input.is_empty(), "{} bytes were left", input.len());
    seen
}

/// Feeds a stream to `protocol` in reads that end at `cuts` and returns the events. The cuts may be unordered and
/// beyond the end of the stream.
pub(super) fn feed_cut(
    protocol: &mut Protocol,
    stream: &[u8],
    cuts: &[usize],
    limits: &MessageLimits,
) -> Vec<Seen> {
    let mut ends: Vec<usize> = cuts.iter().map(|&cut| cut.min(stream.len())).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let mut start = 0;
    let mut seen = Vec::new();
    for end in ends {
        seen.extend(feed(protocol, &stream[start..end], limits));
        start = end;
    }
    seen
}

pub(super) fn feed_bytewise(protocol: &mut Protocol, stream: &[u8], limits: &MessageLimits) -> Vec<Seen> {
    stream.iter().flat_map(|&byte| feed(protocol, &[byte], limits)).collect()
}
