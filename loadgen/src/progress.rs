//! The live line: a bar on a terminal, a plain line a second otherwise.

use std::io::{IsTerminal as _, Write as _, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::{SECOND_NS, now_ns};
use crate::totals::{Tick, Times};

/// Shows what goes on, on standard error.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    phase: &'static str,
    began_ns: u64,
    /// When the next line is due, and when the last one was.
    next_ns: u64,
    last_ns: u64,
    open: Vec<usize>,
    faults: Vec<u64>,
    done: u64,
    latency: Times,
}

impl Progress {
    /// For so many workers; shows nothing when `quiet`.
    pub(crate) fn new(workers: usize, quiet: bool) -> Self {
        let bar = (!quiet && stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{bar:30} {msg}").expect("the template is valid");
            ProgressBar::new(1000).with_style(style)
        });
        let now = now_ns();
        Self {
            bar,
            quiet,
            phase: "starting",
            began_ns: now,
            next_ns: 0,
            last_ns: now,
            open: vec![0; workers],
            faults: vec![0; workers],
            done: 0,
            latency: Times::default(),
        }
    }

    /// Another part of the run begins.
    pub(crate) fn enter(&mut self, phase: &'static str) {
        self.phase = phase;
    }

    /// A worker's news.
    pub(crate) fn add(&mut self, tick: &Tick) {
        self.open[tick.worker] = tick.open;
        self.faults[tick.worker] = tick.faults;
        self.done += tick.done;
        self.latency.add(&tick.latency);
    }

    /// Shows it if it is time; `fraction` of the whole is done.
    pub(crate) fn show(&mut self, fraction: f64) {
        let now = now_ns();
        if self.quiet || now < self.next_ns {
            return;
        }
        self.next_ns = now + SECOND_NS;
        let line = self.line(now);
        match &self.bar {
            Some(bar) => {
                bar.set_position((fraction.clamp(0.0, 1.0) * 1000.0) as u64);
                bar.set_message(line);
            }
            None => {
                let seconds = (now - self.began_ns) as f64 / 1e9;
                // The run goes on when nobody reads its progress any more.
                let _ = writeln!(stderr(), "{seconds:6.1} s  {line}");
            }
        }
        self.last_ns = now;
        self.done = 0;
        self.latency.0.reset();
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, now: u64) -> String {
        let open: usize = self.open.iter().sum();
        let faults: u64 = self.faults.iter().sum();
        let mut line = format!("{}: {open} open", self.phase);
        if self.done > 0 {
            let per_second = self.done as f64 * 1e9 / (now - self.last_ns).max(1) as f64;
            let p99_ms = self.latency.0.value_at_quantile(0.99) as f64 / 1e6;
            line += &format!(", {per_second:.0}/s, p99 {p99_ms:.2} ms");
        }
        if faults > 0 {
            line += &format!(", {faults} FAULTS");
        }
        line
    }
}
