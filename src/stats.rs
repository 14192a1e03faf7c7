//! Counters. Each shard owns its own, so that counting costs no more than an addition.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that one thread changes and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owner calls this.
    pub fn add(&self, count: u64) {
        // With one writer a load and a store lose nothing, and need no locked instruction.
        self.set(self.get() + count);
    }

    /// Takes `count` away, for what comes and goes. Only the owner calls this.
    pub fn take(&self, count: u64) {
        self.set(self.get() - count);
    }

    /// Makes it `value`. Only the owner calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Durations by magnitude: two buckets to each power of two, so that a quantile is known to a third at worst.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; Histogram::BUCKETS],
    sum_ns: Counter,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Upper bounds, in seconds, and how many durations lie below each and above the one before. The last bound is
    /// infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds of all durations together.
    pub sum: f64,
}

impl Histogram {
    /// The first bucket ends at 2^10 ns, about a microsecond.
    const FIRST_BITS: u32 = 10;
    /// The last but one ends at 2^34 ns, about 17 seconds; the last has no end.
    const LAST_BITS: u32 = 34;
    const BUCKETS: usize = 2 * (Self::LAST_BITS - Self::FIRST_BITS) as usize + 2;

    /// Counts a duration. Only the owner calls this.
    pub fn record(&self, ns: u64) {
        self.buckets[Self::index(ns)].add(1);
        self.sum_ns.add(ns);
    }

    /// What was counted so far.
    pub fn distribution(&self) -> Distribution {
        let count_of = |(index, bucket): (usize, &Counter)| (Self::bound(index), bucket.get());
        Distribution {
            buckets: self.buckets.iter().enumerate().map(count_of).collect(),
            sum: self.sum_ns.get() as f64 / 1e9,
        }
    }

    /// Bounds belong to the bucket that they end.
    fn index(ns: u64) -> usize {
        let below = ns.saturating_sub(1);
        if below < 1 << Self::FIRST_BITS {
            return 0;
        }
        let bits = below.ilog2();
        let half = below >> (bits - 1) & 1;
        (1 + 2 * (bits - Self::FIRST_BITS) as usize + half as usize).min(Self::BUCKETS - 1)
    }

    /// Where a bucket ends, in seconds.
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

/// Asks a shard to write down what it does not count as it goes, and shows whether it still turns.
#[derive(Debug, Default)]
pub struct Survey {
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Survey {
    /// Asks, from any thread; the shard is then to be woken. Returns what [`Survey::is_answered`] wants to know.
    pub fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether the shard has answered this question or a later one.
    pub fn is_answered(&self, question: u64) -> bool {
        self.answered.load(Ordering::Acquire) >= question
    }

    /// The question to answer, if there is one.
    pub(crate) fn question(&self) -> Option<u64> {
        let asked = self.asked.load(Ordering::Relaxed);
        (asked != self.answered.load(Ordering::Relaxed)).then_some(asked)
    }

    /// What was asked for is written down.
    pub(crate) fn answer(&self, question: u64) {
        self.answered.store(question, Ordering::Release);
    }
}

/// A counter as monitoring knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exposed {
    /// Without the prefix and the suffix that all have.
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) read: fn(&Stats) -> u64,
}

/// Counters of one name, told apart by a label.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExposedFamily {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) label: &'static str,
    pub(crate) values: &'static [&'static str],
    pub(crate) read: fn(&Stats, usize) -> u64,
}

/// Defines a label: a fixed set of values, each with its text.
macro_rules! label {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $about:literal])* $variant:ident = $text:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $about])* $variant,)*
        }

        impl $name {
            /// The texts of all values, in their order.
            pub const TEXTS: &[&str] = &[$($text),*];
        }
    };
}

/// Defines the counters of a shard: name of the field, and name outside. Their texts are what monitoring says.
macro_rules! stats {
    (
        counters { $($(#[doc = $doc:literal])* $name:ident = $outside:literal,)* }
        families { $($(#[doc = $about:literal])* $family:ident = $exposed:literal by $label:literal: $type:ident,)* }
        internal { $($(#[doc = $note:literal])* $hidden:ident,)* }
        gauges { $($(#[doc = $text:literal])* $gauge:ident = $shown:literal,)* }
    ) => {
        /// What one shard has counted. Two of them share no line of the processors' caches.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Stats {
            $($(#[doc = $doc])* pub $name: Counter,)*
            $($(#[doc = $about])* pub $family: [Counter; $type::TEXTS.len()],)*
            $($(#[doc = $note])* pub $hidden: Counter,)*
            $($(#[doc = $text])* pub $gauge: Counter,)*
            /// Connections at this moment, by state.
            pub connections: [Counter; State::TEXTS.len()],
            /// How long turns took, from the end of the wait to the next.
            pub turn_duration: Histogram,
            /// How long sends to a part of the clients took, from their hand-over to the kernel's word that all is taken.
            pub send_latency: Histogram,
            /// When the last turn began, in milliseconds of the backend's clock.
            pub turned_ms: Counter,
            /// What monitoring asks for.
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

        /// The counts of several shards together.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Totals {
            $($(#[doc = $doc])* pub $name: u64,)*
            $($(#[doc = $about])* pub $family: u64,)*
            $($(#[doc = $note])* pub $hidden: u64,)*
        }

        impl Totals {
            /// Adds up what the shards have counted.
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
    /// Where connections are in their lives.
    State {
        /// The request is awaited.
        Handshake = "handshake",
        /// Messages are exchanged.
        Open = "open",
        /// The client's answer to our close frame is awaited.
        Closing = "closing",
        /// The last bytes are on their way.
        Ending = "ending",
        /// The client's end of the stream is awaited.
        Lingering = "lingering",
        /// The kernel was told to close.
        Gone = "gone",
    }
}

label! {
    /// Why requests are answered with an error.
    Refused {
        /// The server has all the connections that it may have.
        Connections = "connections",
        /// The address has.
        Address = "address",
        /// Too many have not sent their request yet.
        Handshakes = "handshakes",
        /// The TLS handshake failed: no common version, no TLS at all, or the client did not like the certificate.
        Tls = "tls",
        /// Plain HTTP came where TLS is spoken.
        NoTls = "no_tls",
        /// The request did not come in time.
        TimedOut = "timeout",
        /// The server ends.
        Draining = "draining",
        /// The PROXY protocol header that a proxy owes did not come.
        ProxyHeader = "proxy_header",
        /// A proxy's header fields name different clients.
        Forwarded = "forwarded",
        /// The page is of an origin that may not.
        Origin = "origin",
        /// A token is wanted, and none came.
        TokenMissing = "token_missing",
        /// It is no JWT with HS256 and the claims that there must be.
        TokenMalformed = "token_malformed",
        /// It is signed with another secret.
        TokenSignature = "token_signature",
        /// It has expired.
        TokenExpired = "token_expired",
        /// It is not valid yet.
        TokenEarly = "token_early",
        /// It does not allow the room.
        TokenRoom = "token_room",
        /// Nothing is at the path.
        NotFound = "not_found",
        /// The method is not for the path.
        Method = "method",
        /// No or another kind of upgrade was asked for.
        Upgrade = "upgrade",
        /// The request is too long, or has content.
        TooLarge = "too_large",
        /// The request breaks another rule.
        Malformed = "malformed",
    }
}

label! {
    /// How WebSockets end: the code of the close frame that came first, whoever sent it. RFC 6455 §7.4.1
    Ended {
        /// As it should.
        Normal = "1000",
        /// The server, or the client's page, goes away.
        GoingAway = "1001",
        /// A rule of the protocol was broken.
        Protocol = "1002",
        /// That kind of message is not taken.
        Unsupported = "1003",
        /// A close frame without a code.
        NoCode = "1005",
        /// No close frame: the connection ended or broke.
        NoFrame = "1006",
        /// Not UTF-8, or not to be inflated.
        Invalid = "1007",
        /// No answer to a ping, a token that expired, or the application's rules.
        Policy = "1008",
        /// A message was too long.
        TooBig = "1009",
        /// The application made a mistake.
        Internal = "1011",
        /// The client lagged.
        TryAgain = "1013",
        /// Any other code.
        Other = "other",
    }
}

impl Ended {
    /// The value that stands for a code.
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
        /// TCP connections accepted.
        accepted = "accepted",
        /// TCP connections gone.
        closed = "closed",
        /// WebSocket handshakes completed.
        opened = "opened",
        /// Messages received.
        messages_in = "received_messages",
        /// Bytes received.
        bytes_in = "received_bytes",
        /// Messages that got their place in a room's order here.
        ordered = "ordered_messages",
        /// Messages handed to members of rooms, each member counted.
        deliveries = "deliveries",
        /// Sends handed to the kernel.
        sends = "sends",
        /// Bytes handed to the kernel.
        bytes_out = "sent_bytes",
        /// Clients that read too slowly.
        lagged = "lagged",
        /// Times that a client sent too fast and had to wait.
        throttled = "throttled",
        /// Times that a client had to wait since what it published could not be passed on yet.
        publisher_pauses = "publisher_pauses",
        /// Clients closed for breaking a rule of the protocol.
        failed = "protocol_failures",
        /// Handlers of the application that panicked.
        panics = "handler_panics",
        /// Turns of the loop.
        turns = "turns",
        /// Batches that another shard's mailbox did not take at once.
        mailbox_full = "mailbox_full",
        /// Times that completions were found to have overflowed the ring; the kernel keeps them.
        ring_overflows = "ring_overflows",
        /// Times that receiving waited for a free buffer; long messages on io_uring do so often, since few are lent.
        starved = "receive_buffer_shortages",
        /// TLS handshakes completed.
        tls_handshakes = "tls_handshakes",
        /// Those among them that went on with a former session.
        tls_resumed = "tls_resumptions",
    }
    families {
        /// Requests answered with an error.
        refused = "refused" by "reason": Refused,
        /// WebSockets ended, by the code of the close frame that came first; 1006: without one.
        ended = "websocket_closes" by "code": Ended,
    }
    internal {
        /// Bytes set aside for the windows of connections that compress with context takeover.
        context_bytes_reserved,
        /// Those of connections that are gone.
        context_bytes_released,
    }
    gauges {
        /// Rooms that have members or a past on this shard.
        rooms = "rooms",
        /// Bytes that the logs of rooms hold.
        log_bytes = "log_bytes",
        /// Bytes of answers and other private messages that wait for their clients.
        outbox_bytes = "outbox_bytes",
        /// Bytes received from clients that have to wait, kept until it is their turn.
        held_bytes = "held_bytes",
        /// Bytes of the receive buffers.
        receive_buffer_bytes = "receive_buffer_bytes",
        /// Sends that the kernel has not completed.
        sends_under_way = "sends_under_way",
        /// Clients that wait since what they published cannot be passed on yet.
        paused_publishers = "paused_publishers",
    }
}

impl Stats {
    /// Bytes that the windows of the connections there are may come to. Another thread than the owner may see one
    /// counter before the other.
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
    fn a_distribution_has_all_that_was_recorded() {
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
    fn a_survey_is_answered_once_and_for_all_who_asked_before() {
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
