//! The numbers of the server in the text format of Prometheus.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::stats::{Distribution, Exposed, ExposedFamily, State, Stats};
use crate::watch::{Watch, Watched};

type Labels = Vec<(&'static str, String)>;

/// All numbers, as of now.
pub(super) fn render(watch: &Arc<Watch>) -> String {
    watch.survey();
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

/// What the shards count, and what can be seen of them.
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
        out.gauges(name, "Connections at this moment, by where they are in their lives.", by_state(watch))?;
        let help = "Bytes set aside for the windows of connections that compress with context takeover.";
        out.gauges("context_bytes", help, by_shard(watch, |shard| shard.stats.context_bytes()))?;
        let help = "Batches from other shards that wait in the mailbox, 64 of a kind at most.";
        out.gauges("mailbox_batches", help, mailboxes(watch))?;
        let help = "Seconds since the last turn of the loop began; the shards are woken before this is read.";
        let ages = by_shard(watch, |shard| shard.turn_age_ms() as f64 / 1e3);
        out.gauges("turn_age_seconds", help, ages)?;
        let help = "Seconds that a turn of the loop took, from the end of its wait to the next.";
        let turns = by_shard(watch, |shard| shard.stats.turn_duration.distribution());
        out.histograms("turn_duration_seconds", help, turns)?;
        let help =
            "Seconds from a send's hand-over to the kernel's word that it took all; to each 16th client.";
        let sends = by_shard(watch, |shard| shard.stats.send_latency.distribution());
        out.histograms("send_latency_seconds", help, sends)?;
        encode_whole(watch, &mut out)
    }
}

/// What the server has once, whatever the number of its shards.
fn encode_whole(watch: &Watch, out: &mut Writer<'_>) -> fmt::Result {
    let limit = watch.shared.admission.limit();
    out.gauges("connections_limit", "Connections that there may be at a time.", [(Vec::new(), limit)])?;
    let draining = u64::from(watch.is_draining());
    if let Some(expiry_s) = watch.identity.as_ref().and_then(|identity| identity.expiry_s()) {
        let help = "When the certificate expires that is shown, in seconds since 1970.";
        out.gauges("tls_certificate_expiry_timestamp_seconds", help, [(Vec::new(), expiry_s)])?;
    }
    out.gauges("draining", "1 while the server ends, else 0.", [(Vec::new(), draining)])?;
    let labels = vec![("version", env!("CARGO_PKG_VERSION").into()), ("backend", watch.backend.into())];
    out.gauges("info", "1; its labels say what runs.", [(labels, 1_u64)])
}

/// What monitoring expects of every process.
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
                "Seconds of processor time, of user and system.",
                [(Vec::new(), seconds)],
            )?;
        }
        if let Some(bytes) = resident_bytes() {
            out.gauges("resident_memory_bytes", "Bytes of memory that are resident.", [(Vec::new(), bytes)])?;
        }
        let started = self.0.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let help = "When the server started, in seconds since 1970.";
        out.gauges("start_time_seconds", help, [(Vec::new(), started)])
    }
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

/// A number for each shard and each of these values of a label.
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

/// Writes metrics with all their series.
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
