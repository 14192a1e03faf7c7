//! Finds warnings about a run: facts that a reader of the figures must know, each with a likely cause and a remedy.

use crate::plan::Scenario;
use crate::totals::Counts;

use super::{Outcome, busiest, largest};

/// Share of the time (0 to 1) above which a load generator thread waited too long for a core. The server is not to
/// blame for the delay.
const WAIT_SHARE: f64 = 0.1;
/// Messages per second that uproar's chat accepts from each client by default.
const CHAT_MESSAGE_RATE: f64 = 20.0;
/// Factor around [`CHAT_MESSAGE_RATE`] within which a measured rate is taken for the chat's limit. The chat lets short
/// bursts pass, so the measured rate may be higher than the limit.
const CHAT_RATE_MARGIN: f64 = 1.25;
/// Share of a core (0 to 1) below which a server or a load generator thread counts as idle.
const IDLE_SHARE: f64 = 0.5;

/// Returns all warnings that apply to `outcome`.
pub(super) fn of(outcome: &Outcome) -> Vec<String> {
    let all = [
        server_end(outcome),
        generator(outcome),
        waiting(outcome),
        unfinished(outcome),
        unsent(outcome),
        chat_rate(outcome),
        misdelivered(outcome),
        echoed(outcome),
        foreign(outcome),
        unheard(outcome),
        orders(outcome),
        no_server(outcome),
    ];
    all.into_iter().flatten().collect()
}

fn server_end(outcome: &Outcome) -> Option<String> {
    let end = outcome.server_end.as_ref()?;
    Some(format!("{end}, so its CPU time and memory are not known; see its log"))
}

fn generator(outcome: &Outcome) -> Option<String> {
    outcome.generator_was_bottleneck.then(|| {
        format!(
            "the load generator was the bottleneck: a thread ran {:.0}% of the time; use more --threads on more \
             cores, or less load",
            busiest(&outcome.generator) * 100.0
        )
    })
}

fn waiting(outcome: &Outcome) -> Option<String> {
    let share = largest(&outcome.generator, |thread| thread.wait_ns);
    (share > WAIT_SHARE).then(|| {
        format!(
            "a thread of the load generator waited for a core {:.0}% of the time; pin server and generator to \
             different cores",
            share * 100.0
        )
    })
}

fn unfinished(outcome: &Outcome) -> Option<String> {
    let Counts { unfinished, .. } = outcome.messages.counts;
    (unfinished > 0).then(|| {
        format!(
            "{unfinished} messages had not arrived when the time was up: the server is slower than the load, and \
             the latency is that of the messages that arrived"
        )
    })
}

fn unsent(outcome: &Outcome) -> Option<String> {
    let Counts { unsent, .. } = outcome.messages.counts;
    (unsent > 0).then(|| {
        format!(
            "{unsent} messages that were due were not sent, because the server read or answered no more, or had \
             closed; the rate or the size is more than it can handle"
        )
    })
}

/// Warns that the chat's message rate limit may be what was measured: a chat that pauses fast senders looks slow.
fn chat_rate(outcome: &Outcome) -> Option<String> {
    if !outcome.options.chat || outcome.seconds < 0.001 {
        return None;
    }
    let opened = outcome.connections.opened.max(1) as f64;
    let per_second = outcome.messages.per_second;
    let is_limited = match outcome.scenario {
        Scenario::Storm => {
            let rounds = per_second / (opened * opened);
            let server_cores = outcome.server.as_ref().map(|server| server.cores);
            let all_idle = busiest(&outcome.generator) < IDLE_SHARE
                && server_cores.is_some_and(|cores| cores < IDLE_SHARE);
            is_chat_rate(rounds) || (rounds <= CHAT_MESSAGE_RATE * CHAT_RATE_MARGIN && all_idle)
        }
        Scenario::Broadcast { publishers, rate } => {
            let (wanted, publishers) = (rate / f64::from(publishers), f64::from(publishers));
            let got = per_second / opened / publishers;
            wanted > CHAT_MESSAGE_RATE && got < 0.95 * wanted
        }
        _ => false,
    };
    is_limited.then(|| {
        format!(
            "the chat's own limit may be what was measured: it takes {CHAT_MESSAGE_RATE} messages (--message-rate) \
             and 262144 bytes (--byte-rate) a second from each client by default and lets the rest wait; start \
             uproar with --message-rate 0 --byte-rate 0 to measure it without"
        )
    })
}

fn is_chat_rate(per_second: f64) -> bool {
    (CHAT_MESSAGE_RATE / CHAT_RATE_MARGIN..=CHAT_MESSAGE_RATE * CHAT_RATE_MARGIN).contains(&per_second)
}

/// Warns that an echo scenario seems to have run against a relay.
fn misdelivered(outcome: &Outcome) -> Option<String> {
    let Counts { misdelivered, corrupt, .. } = outcome.messages.counts;
    (misdelivered > 0).then(|| {
        format!(
            "{misdelivered} of the {corrupt} corrupt messages are intact, but another connection sent them: this \
             server seems to send each message to everybody, as a relay does; start it in echo mode (uproar --app \
             echo), or use `loadgen broadcast`"
        )
    })
}

/// Warns that a broadcast, storm or idle scenario seems to have run against an echo server.
fn echoed(outcome: &Outcome) -> Option<String> {
    let is_room = match outcome.scenario {
        Scenario::Broadcast { .. } | Scenario::Storm | Scenario::Idle { speak: 0 } => true,
        Scenario::Echo { .. }
        | Scenario::Idle { .. }
        | Scenario::Connect { .. }
        | Scenario::Requests { .. }
        | Scenario::Publish { .. }
        | Scenario::Presence { .. }
        | Scenario::Reconnect { .. } => false,
    };
    let Counts { received, lost, from_others, .. } = outcome.messages.counts;
    (is_room && received > 0 && lost > 0 && from_others == 0).then(|| {
        "every message that arrived came back to its sender only: this server seems to echo; start it in relay mode \
         (uproar --app relay), or use `loadgen echo`"
            .to_owned()
    })
}

fn foreign(outcome: &Outcome) -> Option<String> {
    let Counts { foreign, received, .. } = outcome.messages.counts;
    let hint = if received == 0 {
        "; this server does not send messages back unchanged, which a relay or an echo must do (give --chat for \
         uproar's chat)"
    } else {
        ""
    };
    (foreign > 0).then(|| format!("{foreign} messages arrived that are not from this run{hint}"))
}

/// Warns that no message reached any subscriber, although the server accepted messages.
fn unheard(outcome: &Outcome) -> Option<String> {
    let publish = outcome.publish.as_ref()?;
    let Counts { received, lost, .. } = outcome.messages.counts;
    (publish.subscribers > 0 && received == 0 && lost > 0).then(|| {
        "no message reached a subscriber: --publish-url and --url seem to name different rooms, or the body does not \
         have the form that the server expects"
            .to_owned()
    })
}

fn orders(outcome: &Outcome) -> Option<String> {
    (outcome.one_order == Some(false))
        .then(|| "receivers got the messages of different publishers in different orders".to_owned())
}

fn no_server(outcome: &Outcome) -> Option<String> {
    let is_unknown = outcome.server.is_none() && outcome.server_end.is_none() && outcome.returns.is_none();
    is_unknown.then(|| {
        "the server's process was not found, so its CPU time and memory are not known; give --server-pid"
            .to_owned()
    })
}
