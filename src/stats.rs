//! Counters, gauges and histograms. Each shard has its own, so that counting costs no more than an addition.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread, its owner, changes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owner thread calls this.
    pub fn add(&self, count: u64) {
        // With a single writer, a load and a store lose no update, and need no locked instruction.
        self.set(self.get() + count);
    }

    /// Subtracts `count`, for numbers that go up and down. Only the owner thread calls this.
    pub fn take(&self, count: u64) {
        self.set(self.get() - count);
    }

    /// Sets the value. Only the owner thread calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns the current value. Any thread may call this.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram of durations, with two buckets for each power of two, so that a quantile is off by a third at worst.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; Histogram::BUCKETS],
    sum_ns: Counter,
}

/// The counts and the sum of a histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The upper bound of each bucket, in seconds, and the number of durations in it. The last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Sum of all durations, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Exponent of the first bucket's upper bound: 2^10 ns, about a microsecond.
    const FIRST_BITS: u32 = 10;
    /// Exponent of the last finite upper bound: 2^34 ns, about 17 seconds. The last bucket has no upper bound.
    const LAST_BITS: u32 = 34;
    const BUCKETS: usize = 2 * (Self::LAST_BITS - Self::FIRST_BITS) as usize + 2;

    /// Counts a duration, in nanoseconds. Only the owner thread calls this.
    pub fn record(&self, ns: u64) {
        self.buckets[Self::index(ns)].add(1);
        self.sum_ns.add(ns);
    }

    /// Returns the current counts of all buckets, and the sum of all durations.
    pub fn distribution(&self) -> Distribution {
        let count_of = |(index, bucket): (usize, &Counter)| (Self::bound(index), bucket.get());
        Distribution {
            buckets: self.buckets.iter().enumerate().map(count_of).collect(),
            sum: self.sum_ns.get() as f64 / 1e9,
        }
    }

    /// Returns the index of the bucket for a duration in nanoseconds. A bucket includes its upper bound.
    fn index(ns: u64) -> usize {
        let below = ns.saturating_sub(1);
        if below < 1 << Self::FIRST_BITS {
            return 0;
        }
        let bits = below.ilog2();
        let half = below >> (bits - 1) & 1;
        (1 + 2 * (bits - Self::FIRST_BITS) as usize + half as usize).min(Self::BUCKETS - 1)
    }

    /// Returns the inclusive upper bound of the bucket with this index, in seconds.
    fn bound(index: usize) -> f64 {
        if index == Self::BUCKETS - 1 {
            return f64::INFINITY;
        }
        let bits = Self::FIRST_BITS + (index / 2) as u32;
        let ns = if index.is_multiple_of(2) { 1 << bits } else { 3_u64 << (bits - 1) };
        ns as f64 / 1e9
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum_ns: Counter::default() }
    }
}

/// Numbered questions to a shard, which answers by updating its gauges. An answer also shows that the shard still runs.
#[derive(Debug, Default)]
pub struct Survey {
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Survey {
    /// Asks the shard to update its gauges, and returns the number of the question. Any thread may call this. The
    /// caller must then wake the shard.
    pub fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Returns whether the shard has answered the question with this number, or a later one.
    pub fn is_answered(&self, question: u64) -> bool {
        self.answered.load(Ordering::Acquire) >= question
    }

    /// Returns the number of the latest question if it is not answered yet, or else `None`.
    pub(crate) fn question(&self) -> Option<u64> {
        let asked = self.asked.load(Ordering::Relaxed);
        (asked != self.answered.load(Ordering::Relaxed)).then_some(asked)
    }

    /// Marks the question with this number, and all earlier questions, as answered.
    pub(crate) fn answer(&self, question: u64) {
        self.answered.store(question, Ordering::Release);
    }
}

/// A counter or gauge as it appears in the metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exposed {
    /// Name of the metric, without the prefix and the suffix that all metrics have.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) read: fn(&Stats) -> u64,
}

/// A family of counters in the metrics, which share a name and differ in the value of a label.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExposedFamily {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) label: &'static str,
    pub(crate) values: &'static [&'static str],
    pub(crate) read: fn(&Stats, usize) -> u64,
}

/// Defines the enum of a metrics label. Its variants are the label's values, each with its text in the metrics.
macro_rules! label {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $about:literal])* $variant:ident = $text:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $about])* $variant,)*
        }

        impl $name {
            /// The texts of all label values in the metrics, in the order of the variants.
            pub const TEXTS: &[&str] = &[$($text),*];
        }
    };
}

/// Defines the counters of a shard, each with its field name and its name in the metrics. The doc comments of the
/// counters are the help texts of the metrics.
macro_rules! stats {
    (
        counters { $($(#[doc = $doc:literal])* $name:ident = $outside:literal,)* }
        families { $($(#[doc = $about:literal])* $family:ident = $exposed:literal by $label:literal: $type:ident,)* }
        internal { $($(#[doc = $note:literal])* $hidden:ident,)* }
        gauges { $($(#[doc = $text:literal])* $gauge:ident = $shown:literal,)* }
    ) => {
        /// The counters of one shard, aligned so that the counters of two shards share no cache line.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: Counter,)*
            $($(#[doc = $about])* pub $family: [Counter; $type::TEXTS.len()],)*
            $($(#[doc = $note])* pub $hidden: Counter,)*
            $($(#[doc = $text])* pub $gauge: Counter,)*
            /// Gauges of the current number of connections, by state.
            pub connections: [Counter; State::TEXTS.len()],
            /// Durations of turns, from the end of one wait to the beginning of the next.
            pub turn_duration: Histogram,
            /// Latency of sends to a sample of the clients, from the hand-over to the backend until the kernel has
            /// taken all bytes.
            pub send_latency: Histogram,
            /// Time at which the last turn began, in milliseconds of the backend's clock.
            pub turned_ms: Counter,
            /// Questions of other threads, which ask the shard to update its gauges.
            pub survey: Survey,
        }

        impl Stats {
            pub(crate) const COUNTERS: &[Exposed] = &[$(Exposed {
                name: $outside,
                help: concat!($($doc),*),
                read: |stats| stats.$name.get(),
            }),*];
            pub(crate) const FAMILIES: &[ExposedFamily] = &[$(ExposedFamily {
                name: $exposed,
                help: concat!($($about),*),
                label: $label,
                values: $type::TEXTS,
                read: |stats, value| stats.$family[value].get(),
            }),*];
            pub(crate) const GAUGES: &[Exposed] = &[$(Exposed {
                name: $shown,
                help: concat!($($text),*),
                read: |stats| stats.$gauge.get(),
            }),*];
        }

        /// Sums of the counters of several shards, usually all shards of a server.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[doc = $doc])* pub $name: u64,)*
            $($(#[doc = $about])* pub $family: u64,)*
            $($(#[doc = $note])* pub $hidden: u64,)*
        }

        impl Totals {
            /// Adds up the counters of shards.
            pub fn of<'a>(shards: impl IntoIterator<Item = &'a Stats>) -> Self {
                let mut totals = Self::default();
                for shard in shards {
                    $(totals.$name += shard.$name.get();)*
                    $(totals.$family += shard.$family.iter().map(Counter::get).sum::<u64>();)*
                    $(totals.$hidden += shard.$hidden.get();)*
                }
                totals
            }
        }
    };
}

label! {
    /// State of a connection, a label value of the metrics.
    State {
        /// Handshake state: the client's HTTP request is not complete.
        Handshake = "handshake",
        /// An HTTP request waits for a deferred answer of the application.
        Answering = "answering",
        /// An HTTP request was answered, and nothing of the next one has arrived.
        Idle = "idle",
        /// The WebSocket is open: messages flow in both directions.
        Open = "open",
        /// The server's close frame is sent or queued; the client's close frame is awaited.
        Closing = "closing",
        /// The server's last bytes are being sent; its FIN follows.
        Ending = "ending",
        /// The server's FIN is sent; the client's FIN is awaited.
        Lingering = "lingering",
        /// The backend was told to close the socket.
        Gone = "gone",
    }
}

label! {
    /// Reason for which a request is answered with an error.
    Refused {
        /// Refusal reason: the server has reached its connection limit.
        Connections = "connections",
        /// Refusal reason: the client's address has reached its connection limit.
        Address = "address",
        /// Refusal reason: the client's address opened connections too fast.
        ConnectionRate = "connection_rate",
        /// Refusal reason: too many requests were not complete, so the oldest one of the address with the most was closed.
        Handshakes = "handshakes",
        /// Refusal reason: the TLS handshake failed, for lack of a common version, without TLS at all, or because the
        /// client rejected the certificate.
        Tls = "tls",
        /// Refusal reason: plain HTTP was sent to a TLS listener.
        NoTls = "no_tls",
        /// Refusal reason: the request was not complete within the handshake timeout.
        TimedOut = "timeout",
        /// Refusal reason: the request came while the server was shutting down.
        Draining = "draining",
        /// Refusal reason: a trusted proxy did not send the required PROXY protocol header.
        ProxyHeader = "proxy_header",
        /// Refusal reason: header fields of a trusted proxy name different clients.
        Forwarded = "forwarded",
        /// Refusal reason: the origin of the web page is not allowed.
        Origin = "origin",
        /// Refusal reason: the Host header names another server.
        Host = "host",
        /// Refusal reason: a token is required, and the request has none.
        TokenMissing = "token_missing",
        /// Refusal reason: the token is not a JWT with HS256 and the required claims, or the request has several
        /// tokens.
        TokenMalformed = "token_malformed",
        /// Refusal reason: the token's signature does not match.
        TokenSignature = "token_signature",
        /// Refusal reason: the key of the token is being fetched from the identity provider.
        TokenKeys = "token_keys",
        /// Refusal reason: the token has expired.
        TokenExpired = "token_expired",
        /// Refusal reason: the token is not valid yet.
        TokenEarly = "token_early",
        /// Refusal reason: the token does not allow the room.
        TokenRoom = "token_room",
        /// Refusal reason: the user that the token names is banned.
        Banned = "banned",
        /// Refusal reason: no page or room is at the path of the request.
        NotFound = "not_found",
        /// Refusal reason: the method is not allowed for the path.
        Method = "method",
        /// Refusal reason: the request asks for no upgrade, or for one to another protocol.
        Upgrade = "upgrade",
        /// Refusal reason: the request is too long, or has a body.
        TooLarge = "too_large",
        /// Refusal reason: the application refused the request for a reason of its own, or its handler panicked.
        Application = "application",
        /// Refusal reason: the request breaks another rule of HTTP, of WebSockets or of room names.
        Malformed = "malformed",
    }
}

label! {
    /// Close code of a WebSocket, from the first close frame of either side (RFC 6455 §7.4.1).
    Ended {
        /// Close code 1000: normal closure of the WebSocket.
        Normal = "1000",
        /// Close code 1001: the server shuts down, or the client leaves the page.
        GoingAway = "1001",
        /// Close code 1002: a side broke the WebSocket protocol.
        Protocol = "1002",
        /// Close code 1003: a message kind that the receiver does not support.
        Unsupported = "1003",
        /// Close code 1005: a close frame without a code.
        NoCode = "1005",
        /// Close code 1006: the connection ended or failed without a close frame.
        NoFrame = "1006",
        /// Close code 1007: a message with text that is not UTF-8, or with compressed data that cannot be inflated.
        Invalid = "1007",
        /// Close code 1008: an unanswered ping, an expired token, or a rule of the application.
        Policy = "1008",
        /// Close code 1009: a message over the size limit.
        TooBig = "1009",
        /// Close code 1011: a handler of the application panicked.
        Internal = "1011",
        /// Close code 1013: the client read too slowly.
        TryAgain = "1013",
        /// Any close code without a label.
        Other = "other",
    }
}

impl Ended {
    /// Returns the metrics label of a close code.
    pub fn of(code: u16) -> Self {
        match code {
            1000 => Self::Normal,
            1001 => Self::GoingAway,
            1002 => Self::Protocol,
            1003 => Self::Unsupported,
            1005 => Self::NoCode,
            1006 => Self::NoFrame,
            1007 => Self::Invalid,
            1008 => Self::Policy,
            1009 => Self::TooBig,
            1011 => Self::Internal,
            1013 => Self::TryAgain,
            _ => Self::Other,
        }
    }
}

stats! {
    counters {
        /// Connections accepted.
        accepted = "accepted",
        /// Connections closed.
        closed = "closed",
        /// WebSocket handshakes completed.
        opened = "opened",
        /// HTTP requests received, including WebSocket handshakes.
        requests = "http_requests",
        /// Messages received.
        messages_in = "received_messages",
        /// Bytes received.
        bytes_in = "received_bytes",
        /// Messages put in order for their room.
        ordered = "ordered_messages",
        /// Messages delivered to members of rooms, counted once for each member.
        deliveries = "deliveries",
        /// Sends handed to the kernel.
        sends = "sends",
        /// Bytes handed to the kernel.
        bytes_out = "sent_bytes",
        /// Times that a client read too slowly and missed messages.
        lagged = "lagged",
        /// Times that a client was paused because it was over its message or byte rate.
        throttled = "throttled",
        /// Times that a client was paused because its messages could not be passed on yet.
        publisher_pauses = "publisher_pauses",
        /// Times that a client was paused because the worker was short of memory.
        memory_pauses = "memory_pauses",
        /// Clients closed because the worker was short of memory and they held the most.
        memory_closes = "memory_closes",
        /// Clients closed because they took none of the bytes sent to them for too long.
        stalled = "stalled_sends",
        /// Clients closed because a message of theirs was not complete in time.
        late_messages = "late_messages",
        /// Clients closed because they broke the WebSocket protocol.
        failed = "protocol_failures",
        /// Handlers of the application that panicked.
        panics = "handler_panics",
        /// Turns of the worker's loop.
        turns = "turns",
        /// Batches that had to wait because another worker's mailbox was full.
        mailbox_full = "mailbox_full",
        /// Times that completions overflowed the ring; none are lost, since the kernel keeps them.
        ring_overflows = "ring_overflows",
        /// Times that receiving waited for a free buffer. Long messages on io_uring often do, since few buffers are
        /// lent.
        starved = "receive_buffer_shortages",
        /// Sessions whose connection has ended.
        sessions_detached = "sessions_detached",
        /// Sessions that a returning client has got.
        sessions_resumed = "sessions_resumed",
        /// Sessions whose client did not return in time.
        sessions_expired = "sessions_expired",
        /// Messages that returning clients got because they had not acknowledged them.
        replayed = "replayed_messages",
        /// Messages that returning clients were told to have missed.
        missed = "missed_messages",
        /// TLS handshakes completed.
        tls_handshakes = "tls_handshakes",
        /// TLS handshakes that resumed an earlier session.
        tls_resumed = "tls_resumptions",
    }
    families {
        /// Requests answered with an error.
        refused = "refused" by "reason": Refused,
        /// WebSockets closed, by the code of the first close frame; 1006 means without one.
        ended = "websocket_closes" by "code": Ended,
    }
    internal {
        /// Total bytes ever reserved for the compression windows of connections, including closed connections.
        context_bytes_reserved,
        /// Total bytes that were reserved for the compression windows of connections that are closed now.
        context_bytes_released,
    }
    gauges {
        /// Rooms that have members or a history on this worker.
        rooms = "rooms",
        /// Sessions: those of connected clients, those that wait for their client's return, and the positions of expired
        /// ones.
        sessions = "sessions",
        /// Bytes in the logs of rooms.
        log_bytes = "log_bytes",
        /// Bytes of answers and private messages that were not sent yet.
        outbox_bytes = "outbox_bytes",
        /// Bytes received from paused clients that were not handled yet.
        held_bytes = "held_bytes",
        /// Bytes of all receive buffers.
        receive_buffer_bytes = "receive_buffer_bytes",
        /// Sends that the kernel has not completed yet.
        sends_under_way = "sends_under_way",
        /// Clients that are paused because their messages cannot be passed on yet.
        paused_publishers = "paused_publishers",
        /// Bytes that are held for clients: logs of rooms, unread and unfinished messages, messages between workers.
        memory_bytes = "memory_bytes",
        /// Limit of the bytes that are held for clients.
        memory_limit_bytes = "memory_limit_bytes",
        /// Clients that are paused because the worker is short of memory.
        short_of_memory = "paused_for_memory",
    }
}

impl Stats {
    /// Returns the number of bytes reserved for the compression windows of current connections. A thread other than the
    /// owner may see one of the two underlying counters change before the other.
    pub fn context_bytes(&self) -> u64 {
        self.context_bytes_reserved.get().saturating_sub(self.context_bytes_released.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_between_the_bounds_of_its_bucket() {
        let edges = (0..40).flat_map(|bits| [1_u64 << bits, 3 << bits]);
        for ns in edges.flat_map(|edge| [edge - 1, edge, edge + 1]) {
            let index = Histogram::index(ns);
            assert!(ns as f64 / 1e9 <= Histogram::bound(index), "{ns} ns is above bucket {index}");
            assert!(index == 0 || ns as f64 / 1e9 > Histogram::bound(index - 1), "{ns} ns is below {index}");
        }
    }

    #[test]
    fn bounds_rise_by_a_half_at_most() {
        let bounds: Vec<f64> = (0..Histogram::BUCKETS - 1).map(Histogram::bound).collect();
        for pair in bounds.windows(2) {
            assert!(pair[0] < pair[1] && pair[1] <= pair[0] * 1.5, "{pair:?}");
        }
        assert_eq!(bounds[bounds.len() - 1], (1_u64 << Histogram::LAST_BITS) as f64 / 1e9);
    }

    #[test]
    fn a_distribution_contains_every_recorded_duration() {
        let histogram = Histogram::default();
        for ns in [0, 1_500, 1_500, u64::from(u32::MAX), 60_000_000_000] {
            histogram.record(ns);
        }
        let distribution = histogram.distribution();
        let counts: Vec<u64> =
            distribution.buckets.iter().map(|(_, count)| *count).filter(|count| *count > 0).collect();
        assert_eq!(counts, [1, 2, 1, 1]);
        assert!((distribution.sum - 64.294_970_295).abs() < 1e-9, "{}", distribution.sum);
    }

    #[test]
    fn one_answer_to_a_survey_is_for_all_questions_before_it() {
        let survey = Survey::default();
        assert_eq!(survey.question(), None);
        let (first, second) = (survey.ask(), survey.ask());
        assert!(!survey.is_answered(first));
        survey.answer(survey.question().expect("two were asked"));
        assert!(survey.is_answered(first) && survey.is_answered(second));
        assert_eq!(survey.question(), None);
    }

    #[test]
    fn every_code_with_a_name_has_its_label() {
        for code in 1000..1016 {
            let label = Ended::TEXTS[Ended::of(code) as usize];
            assert!(label == code.to_string() || label == "other", "{code} is {label}");
        }
        assert_eq!(Ended::TEXTS[Ended::of(4000) as usize], "other");
    }
}
