//! The server as its users start it: a process with arguments, output and an exit code.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uproar::config::BackendName;

use super::until;

pub(crate) const UPROAR: &str = env!("CARGO_BIN_EXE_uproar");

/// The command line of `backend`.
pub(crate) fn backend_arg(backend: BackendName) -> &'static str {
    if backend == BackendName::IoUring { "--backend=io-uring" } else { "--backend=epoll" }
}

/// A server process; killed when it is dropped before its end.
pub(crate) struct Process {
    child: Child,
    /// What it printed when it was ready.
    pub(crate) ready_line: String,
    pub(crate) address: SocketAddr,
    /// What it printed after that.
    printed: Arc<Mutex<String>>,
    log: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; none after a signal.
    pub(crate) code: Option<i32>,
    /// All that it wrote to stderr.
    pub(crate) log: String,
}

impl Process {
    /// Starts it on a free port.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::run(uproar(args).args(["--listen", "127.0.0.1:0"]))
    }

    /// Starts it with room for so many descriptors.
    pub(crate) fn start_with_descriptors(limit: u32, args: &[&str]) -> Self {
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, UPROAR, "--listen", "127.0.0.1:0"]).args(args);
        Self::run(&mut command)
    }

    pub(crate) fn run(command: &mut Command) -> Self {
        Self::try_run(command).unwrap_or_else(|ended| panic!("it ended with {:?}: {}", ended.code, ended.log))
    }

    /// Starts it, or tells how it ended instead.
    pub(crate) fn try_run(command: &mut Command) -> Result<Self, Ended> {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the server starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("piped");
        let log_reader = gather(BufReader::new(stderr), &log);
        let mut ready_line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut ready_line).expect("a line");
        let printed = Arc::default();
        gather(stdout, &printed);
        let address = ready_line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next());
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            let code = child.wait().expect("it ends").code();
            log_reader.join().expect("all was read");
            let log = log.lock().expect("nobody panics with it").clone();
            return Err(Ended { code, log });
        };
        Ok(Self { child, ready_line, address, printed, log, log_reader: Some(log_reader) })
    }

    /// The address of its admin listener, which it was told to have.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.printed_address("admin on http://", '/')
    }

    /// The address of its listener with TLS, which is not its first one.
    pub(crate) fn tls_address(&self) -> SocketAddr {
        self.printed_address("listening on tls:", ' ')
    }

    /// The address between these in one of the lines that it prints after the first one.
    fn printed_address(&self, before: &str, after: char) -> SocketAddr {
        let find = || {
            let printed = self.printed.lock().expect("nobody panics with it");
            let line = printed.lines().find_map(|line| line.strip_prefix(before).map(str::to_owned));
            line.and_then(|line| line.split(after).next()?.parse().ok())
        };
        let mut found = None;
        until(before, || {
            found = find();
            found.is_some()
        });
        found.expect("it was waited for")
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("nobody panics with it").clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("nobody has waited for its end");
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) -> Ended {
        let code = self.child.wait().expect("it ends").code();
        if let Some(reader) = self.log_reader.take() {
            reader.join().expect("all was read");
        }
        Ended { code, log: self.log() }
    }

    /// The thread with this name.
    pub(crate) fn thread(&self, name: &str) -> Pid {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let named = |task: &std::path::PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let task = tasks.map(|task| task.expect("readable").path()).find(named).expect("such a thread");
        let id = task.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a number");
        Pid::from_raw(id)
    }

    /// A value of `/proc/PID/status` in KiB; `VmHWM` is the most memory that was ever resident.
    pub(crate) fn memory_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let value = line.and_then(|value| value.trim().strip_suffix(" kB")).expect("a value in kB");
        value.parse().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines to the end on a thread, so that who writes them never has to wait.
fn gather(lines: impl BufRead + Send + 'static, into: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let mut text = into.lock().expect("nobody panics with it");
            text.push_str(&line);
            text.push('\n');
        }
    })
}

/// The command with arguments, and nothing of our environment's settings.
pub(crate) fn uproar(args: &[&str]) -> Command {
    let mut command = Command::new(UPROAR);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UPROAR_") {
            command.env_remove(name);
        }
    }
    command.args(args);
    command
}

/// Writes a file with settings, `uproar.toml` in a directory of this name; its path.
pub(crate) fn settings_file(name: &str, text: impl AsRef<[u8]>) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("uproar.toml");
    std::fs::write(&path, text).expect("written");
    path.into_os_string().into_string().expect("a path in UTF-8")
}

/// Runs a command that ends by itself.
pub(crate) fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("it runs")
}
