//! Starts servers and load generators as child processes, and stops each one when its handle is dropped.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// Longest wait for a started server to print `listening on`.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between SIGTERM and SIGKILL when a process is stopped.
const END_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval between checks whether a process has ended.
const LOOK: Duration = Duration::from_millis(5);
/// Number of last output lines kept per process, for error messages.
const KEPT_LINES: usize = 5;

/// A server process that is ready for connections. Dropping the value stops the server.
pub(crate) struct Running {
    process: Process,
    pub(crate) address: SocketAddr,
}

/// A child process in its own process group, so that Ctrl-C in a terminal does not reach it directly. Dropping the
/// value stops the process.
pub(crate) struct Process {
    child: Child,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

/// Returns 127.0.0.1 with a free port, where the next server can listen.
pub(crate) fn free_address() -> Result<SocketAddr, String> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map_err(|error| format!("no local port is free: {error}"))
}

impl Running {
    /// Starts the server `command`, and waits until a line of the server's output contains `listening on`.
    pub(crate) fn start(command: &[String], address: SocketAddr) -> Result<Self, String> {
        let (lines, news) = channel();
        let process = Process::start(command, Some(lines))?;
        let mut running = Self { process, address };
        running.await_listening(&news)?;
        Ok(running)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Returns the exit status and the last output lines of a server that has ended, or `None` while the server runs.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.process.ended()?;
        Some(format!("{status}{}", self.process.words()))
    }

    fn await_listening(&mut self, news: &Receiver<String>) -> Result<(), String> {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            match news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.to_ascii_lowercase().contains("listening on") => return Ok(()),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = START_TIMEOUT.as_secs();
                    return Err(format!(
                        "it did not print `listening on` within {seconds} s{}",
                        self.process.words()
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.process.end();
                    return Err(format!("it ended before it listened ({status}){}", self.process.words()));
                }
            }
        }
    }
}

impl Process {
    /// Starts `command`. Sends each line of the process's output to `lines`, and keeps the last lines for error
    /// messages.
    pub(crate) fn start(command: &[String], lines: Option<Sender<String>>) -> Result<Self, String> {
        let (program, arguments) = command.split_first().ok_or("the command is empty")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{program} cannot be started: {error}"))?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        for pipe in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
            let (kept, lines) = (last_lines.clone(), lines.clone());
            thread::spawn(move || listen(pipe, &kept, lines.as_ref()));
        }
        Ok(Self { child, last_lines })
    }

    /// Returns the exit status of the process, or `None` while the process runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until the process has ended or the time `until` has come. Returns the exit status, or `None` if the
    /// process still runs.
    pub(crate) fn wait(&mut self, until: Instant) -> Option<ExitStatus> {
        loop {
            let status = self.ended();
            if status.is_some() || Instant::now() >= until {
                return status;
            }
            thread::sleep(LOOK);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // The error is ignored: it means that the process has already ended.
        let _: Result<(), Errno> = kill(self.pid(), signal);
    }

    /// Returns the last output lines of the process, to be appended to an error message. Empty if there are none.
    pub(crate) fn words(&self) -> String {
        let lines = self.last_lines.lock().expect("no reader panics");
        if lines.is_empty() { String::new() } else { format!(": {}", Vec::from(lines.clone()).join(" / ")) }
    }

    /// Stops the process with SIGTERM, then its whole group with SIGKILL. Returns the exit status as text.
    fn end(&mut self) -> String {
        if self.ended().is_none() {
            self.signal(Signal::SIGTERM);
        }
        let status = self.wait(Instant::now() + END_TIMEOUT);
        // The process group contains only the process and its descendants.
        let _: Result<(), Errno> = killpg(self.pid(), Signal::SIGKILL);
        let status = status.or_else(|| self.child.wait().ok());
        status.map_or_else(|| "no exit status".to_owned(), |status| status.to_string())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn boxed(pipe: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(pipe)
}

fn listen(pipe: Box<dyn Read + Send>, kept: &Mutex<VecDeque<String>>, mut lines: Option<&Sender<String>>) {
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        let mut last = kept.lock().expect("no reader panics");
        last.push_back(line.clone());
        if last.len() > KEPT_LINES {
            last.pop_front();
        }
        drop(last);
        // The receiver is gone once the server listens. Reading goes on, because a full pipe would block the process.
        lines = lines.filter(|lines| lines.send(line).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str) -> Result<Running, String> {
        let command = ["sh", "-c", script].map(str::to_owned);
        Running::start(&command, SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    #[test]
    fn a_server_that_does_not_listen_says_why() {
        let reason = start("echo no port for you >&2; exit 3").err().expect("it cannot listen");
        assert!(reason.contains("exit status: 3") && reason.contains("no port for you"), "{reason}");
        let reason = Running::start(&["/no/such/server".to_owned()], SocketAddr::from(([127, 0, 0, 1], 1)));
        assert!(reason.is_err_and(|reason| reason.contains("/no/such/server cannot be started")));
    }

    #[test]
    fn a_server_that_ignores_sigterm_ends_with_its_children() {
        // The script's background `sleep` holds the output pipe open until it is killed.
        let mut server = start("trap '' TERM; sleep 1000 & echo listening on $!; wait; sleep 1000")
            .unwrap_or_else(|reason| panic!("{reason}"));
        let child = server.process.words().rsplit(' ').next().and_then(|pid| pid.parse().ok());
        let child = Pid::from_raw(child.expect("it named its child"));
        assert_eq!(kill(child, None), Ok(()));
        server.process.end();
        let is_gone = |pid: Pid| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            state.map_or(true, |state| state.contains(") Z "))
        };
        let until = Instant::now() + START_TIMEOUT;
        while !is_gone(child) && Instant::now() < until {
            thread::yield_now();
        }
        assert!(is_gone(child));
    }
}
