//! The metrics in the text format of Prometheus.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::backends::CallLabels;
#[cfg(feature = "outgoing")]
use crate::outgoing::Counts;
use crate::stats::{Distribution, Exposed, ExposedFamily, State, Stats};
use crate::watch::{LastReload, Watch, Watched};

type Labels = Vec<(&'static str, String)>;

/// Returns the text of all metrics. The gauges of the shards have the values of the last survey.
pub(super) fn render(watch: &Arc<Watch>) -> String {
    let mut server = Registry::with_prefix("uproar");
    server.register_collector(Box::new(OfServer(Arc::clone(watch))));
    let mut process = Registry::with_prefix("process");
    process.register_collector(Box::new(OfProcess(Arc::clone(watch))));
    let mut text = String::new();
    for registry in [server, process] {
        prometheus_text::encode(&mut text, &registry).expect("a string takes all that is written");
    }
    text
}

/// Collector of the metrics of the server and its shards.
#[derive(Debug)]
struct OfServer(Arc<Watch>);

impl Collector for OfServer {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (watch, mut out) = (&*self.0, Writer(encoder));
        for counter in Stats::COUNTERS {
            out.counters(counter.name, counter.help, of_shards(watch, counter))?;
        }
        for family in Stats::FAMILIES {
            out.counters(family.name, family.help, of_values(watch, family))?;
        }
        for gauge in Stats::GAUGES {
            out.gauges(gauge.name, gauge.help, of_shards(watch, gauge))?;
        }
        let name = "connections";
        out.gauges(name, "Connections at this moment, by state.", by_state(watch))?;
        let help = "Bytes reserved for the windows of connections that compress with context takeover.";
        out.gauges("context_bytes", help, by_shard(watch, |shard| shard.stats.context_bytes()))?;
        let help = "Batches from other shards that wait in the mailbox, at most 64 of each kind.";
        out.gauges("mailbox_batches", help, mailboxes(watch))?;
        let help =
            "Seconds since the last turn of the shard's loop began. The shard is woken before this is read.";
        let ages = by_shard(watch, |shard| shard.turn_age_ms() as f64 / 1e3);
        out.gauges("turn_age_seconds", help, ages)?;
        let help = "Duration of a turn of the shard's loop in seconds, without its wait.";
        let turns = by_shard(watch, |shard| shard.stats.turn_duration.distribution());
        out.histograms("turn_duration_seconds", help, turns)?;
        let help =
            "Seconds from the start of a send until the kernel has taken all of it, for every 16th client.";
        let sends = by_shard(watch, |shard| shard.stats.send_latency.distribution());
        out.histograms("send_latency_seconds", help, sends)?;
        encode_whole(watch, &mut out)
    }
}

/// Writes the metrics that exist once for the whole server.
fn encode_whole(watch: &Watch, out: &mut Writer<'_>) -> fmt::Result {
    let limit = watch.shared.admission.limit();
    out.gauges("connections_limit", "Limit of connections at a time.", [(Vec::new(), limit)])?;
    let draining = u64::from(watch.is_draining());
    if let Some(expiry_s) = watch.identity.as_ref().and_then(|identity| identity.expiry_s()) {
        let help = "Expiry of the certificate in use, in seconds since 1970.";
        out.gauges("tls_certificate_expiry_timestamp_seconds", help, [(Vec::new(), expiry_s)])?;
    }
    out.gauges("draining", "1 while the server shuts down, else 0.", [(Vec::new(), draining)])?;
    if watch.backends.is_served() {
        let help = "Answered calls of the HTTP API, by route, name of the key and status.";
        let calls = watch.backends.counts().into_iter().map(|(CallLabels { route, key, status }, count)| {
            (vec![("route", route.to_owned()), ("key", key.into()), ("status", status.to_string())], count)
        });
        out.counters("api_requests", help, calls)?;
    }
    #[cfg(feature = "outgoing")]
    {
        encode_webhooks(watch, out)?;
        encode_keys(watch, out)?;
    }
    let LastReload { is_successful, succeeded } = watch.last_reload();
    let help = "1 if the last reload of the settings (or the start) succeeded, else 0.";
    out.gauges("config_last_reload_successful", help, [(Vec::new(), u64::from(is_successful))])?;
    let help = "Time of the last successful reload of the settings (or the start), in seconds since 1970.";
    out.gauges(
        "config_last_reload_success_timestamp_seconds",
        help,
        [(Vec::new(), unix_seconds(succeeded))],
    )?;
    let labels = vec![("version", env!("CARGO_PKG_VERSION").into()), ("backend", watch.backend.into())];
    out.gauges("info", "Always 1. The labels tell the version and the backend.", [(labels, 1_u64)])
}

/// Writes the metrics of the webhooks, by endpoint. The names of endpoints have no secrets.
#[cfg(feature = "outgoing")]
fn encode_webhooks(watch: &Watch, out: &mut Writer<'_>) -> fmt::Result {
    if watch.webhooks.is_none() && watch.pusher_webhooks.get().is_none() {
        return Ok(());
    }
    let own = watch.webhooks.iter().flat_map(|webhooks| webhooks.counts());
    let pusher = watch.pusher_webhooks.get().into_iter().flat_map(|webhooks| webhooks.counts());
    let counts: Vec<(String, Counts)> = own.chain(pusher).collect();
    let all = |read: fn(&Counts) -> u64| {
        let series = |(name, counts): &(String, Counts)| (vec![("endpoint", name.clone())], read(counts));
        counts.iter().map(series).collect::<Vec<_>>()
    };
    out.counters("webhook_events", "Events that the endpoint has accepted.", all(|counts| counts.sent))?;
    out.counters("webhook_failures", "Failed requests to the endpoint.", all(|counts| counts.failures))?;
    let dropped = counts.iter().flat_map(|(name, counts)| {
        [("full", counts.dropped_full), ("late", counts.dropped_late)]
            .map(|(reason, count)| (vec![("endpoint", name.clone()), ("reason", reason.to_owned())], count))
    });
    let help = "Events that the endpoint never got: its queue was full, or it did not accept them in time.";
    out.counters("webhook_dropped", help, dropped)?;
    out.gauges("webhook_queued", "Events that wait for the endpoint.", all(|counts| counts.queued))?;
    let help = "Bytes of the events that wait for the endpoint.";
    out.gauges("webhook_queued_bytes", help, all(|counts| counts.queued_bytes))
}

/// Writes the metrics of keys that are fetched from a URL.
#[cfg(feature = "outgoing")]
fn encode_keys(watch: &Watch, out: &mut Writer<'_>) -> fmt::Result {
    let Some(state) = watch.remote_keys().as_ref().map(|keys| keys.remote_state()) else { return Ok(()) };
    let outcomes = [("ok", state.fetched), ("failed", state.failed)];
    let series = outcomes.map(|(outcome, count)| (vec![("outcome", outcome.to_owned())], count));
    out.counters("jwks_fetches", "Fetches of the keys of the identity provider, by outcome.", series)?;
    let help = "Keys of the identity provider in force, 0 until the first fetch succeeds.";
    out.gauges("jwks_keys", help, [(Vec::new(), state.keys.unwrap_or(0) as u64)])?;
    let Some(succeeded) = state.succeeded else { return Ok(()) };
    let help = "Time of the last successful fetch of the keys, in seconds since 1970.";
    out.gauges("jwks_last_success_timestamp_seconds", help, [(Vec::new(), unix_seconds(succeeded))])
}

/// Collector of the usual metrics of a process: CPU time, memory and start time.
#[derive(Debug)]
struct OfProcess(Arc<Watch>);

impl Collector for OfProcess {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let time_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            let seconds = time_us as f64 / 1e6;
            out.counters(
                "cpu_seconds",
                "CPU time in user and system mode, in seconds.",
                [(Vec::new(), seconds)],
            )?;
        }
        if let Some(bytes) = resident_bytes() {
            out.gauges("resident_memory_bytes", "Resident memory in bytes.", [(Vec::new(), bytes)])?;
        }
        let started = unix_seconds(self.0.started);
        let help = "Start time of the server, in seconds since 1970.";
        out.gauges("start_time_seconds", help, [(Vec::new(), started)])
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

fn by_shard<T>(watch: &Watch, read: impl Fn(&Watched) -> T) -> impl Iterator<Item = (Labels, T)> {
    watch.shards.iter().enumerate().map(move |(index, shard)| (of_shard(index), read(shard)))
}

fn of_shard(index: usize) -> Labels {
    vec![("shard", index.to_string())]
}

fn of_shards(watch: &Watch, exposed: &Exposed) -> impl Iterator<Item = (Labels, u64)> {
    by_shard(watch, |shard| (exposed.read)(&shard.stats))
}

fn of_values(watch: &Watch, family: &ExposedFamily) -> impl Iterator<Item = (Labels, u64)> {
    with_label(watch, family.label, family.values, |shard, value| (family.read)(&shard.stats, value))
}

fn by_state(watch: &Watch) -> impl Iterator<Item = (Labels, u64)> {
    with_label(watch, "state", State::TEXTS, |shard, state| shard.stats.connections[state].get())
}

fn mailboxes(watch: &Watch) -> impl Iterator<Item = (Labels, u64)> {
    with_label(watch, "kind", &["requests", "deliveries"], |shard, kind| {
        let (requests, deliveries) = shard.address.depth();
        [requests as u64, deliveries as u64][kind]
    })
}

/// Returns a number for each shard and each value of `label`, with the labels of its series.
fn with_label(
    watch: &Watch,
    label: &'static str,
    values: &'static [&'static str],
    read: impl Fn(&Watched, usize) -> u64,
) -> impl Iterator<Item = (Labels, u64)> {
    watch.shards.iter().enumerate().flat_map(move |(index, shard)| {
        let labels = |value: &str| [of_shard(index), vec![(label, value.to_owned())]].concat();
        let numbers: Vec<_> =
            values.iter().enumerate().map(|(at, value)| (labels(value), read(shard, at))).collect();
        numbers
    })
}

/// Encoder of metrics in the Prometheus format, each metric with all its series.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn counters<V: prometheus_client::encoding::EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help.trim(), None, MetricType::Counter)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, V, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<V: prometheus_client::encoding::EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help.trim(), None, MetricType::Gauge)?;
        for (labels, value) in series {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, Distribution)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, Distribution { buckets, sum }) in series {
            let count = buckets.iter().map(|(_, count)| count).sum();
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}
