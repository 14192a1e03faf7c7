//! The progress of a run on standard error: a bar on a terminal, otherwise one line per second.

use std::io::{IsTerminal as _, Write as _, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::{SECOND_NS, now_ns};
use crate::totals::{Tick, Times};

/// The progress display of a run on standard error.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    phase: &'static str,
    began_ns: u64,
    /// The time when the next progress line is due, in nanoseconds.
    next_ns: u64,
    /// The time when the last progress line was shown, in nanoseconds.
    last_ns: u64,
    open: Vec<usize>,
    faults: Vec<u64>,
    done: u64,
    latency: Times,
}

impl Progress {
    /// Creates the progress display of a run with `workers` workers. With `quiet` nothing is shown.
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

    /// Sets the phase of the run that the progress line names.
    pub(crate) fn enter(&mut self, phase: &'static str) {
        self.phase = phase;
    }

    /// Returns the name of the run's current phase.
    pub(crate) fn phase(&self) -> &'static str {
        self.phase
    }

    /// Adds a worker's progress report to the figures of the next progress line.
    pub(crate) fn add(&mut self, tick: &Tick) {
        self.open[tick.worker] = tick.open;
        self.faults[tick.worker] = tick.faults;
        self.done += tick.done;
        self.latency.add(&tick.latency);
    }

    /// Shows a progress line, at most once per second. `fraction` of the run is done (0 to 1).
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
                // A write error is ignored: a closed standard error must not end the run.
                let _ = writeln!(stderr(), "{seconds:6.1} s  {line}");
            }
        }
        self.last_ns = now;
        self.done = 0;
        self.latency.0.reset();
    }

    /// Removes the progress bar from the terminal.
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
