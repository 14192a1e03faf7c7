//! The server as a child process with arguments, output and an exit code, as its users start it.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uproar::config::BackendName;

use super::wait_until;

/// The path of the server program.
pub(crate) const UPROAR: &str = env!("CARGO_BIN_EXE_uproar");

/// Returns the command-line option that selects `backend`.
pub(crate) fn backend_arg(backend: BackendName) -> &'static str {
    if backend == BackendName::IoUring { "--backend=io-uring" } else { "--backend=epoll" }
}

/// A running server process. Dropping the value kills the process if it is still running.
pub(crate) struct Process {
    child: Child,
    /// The first line on the server's stdout, with its line feed.
    pub(crate) ready_line: String,
    /// The listen address that `ready_line` reports.
    pub(crate) address: SocketAddr,
    /// All lines on the server's stdout after the first line.
    printed: Arc<Mutex<String>>,
    /// All lines on the server's stderr so far.
    log: Arc<Mutex<String>>,
    log_reader: Option<JoinHandle<()>>,
}

/// The result of a server process that has ended.
#[derive(Debug)]
pub(crate) struct Exit {
    /// The exit code; `None` when a signal killed the process.
    pub(crate) code: Option<i32>,
    /// The complete stderr of the process.
    pub(crate) log: String,
}

impl Process {
    /// Starts a server process on a free port.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::run(uproar(args).args(["--listen", "127.0.0.1:0"]))
    }

    /// Starts a server process on a free port. The process may have at most `limit` open descriptors.
    pub(crate) fn start_with_descriptors(limit: u32, args: &[&str]) -> Self {
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, UPROAR, "--listen", "127.0.0.1:0"]).args(args);
        Self::run(&mut command)
    }

    /// Starts a server process and waits until it listens. Panics when the process ends instead.
    pub(crate) fn run(command: &mut Command) -> Self {
        Self::try_run(command)
            .unwrap_or_else(|exit| panic!("the server ended with {:?}: {}", exit.code, exit.log))
    }

    /// Starts a server process and waits until it listens. Returns the exit when the process ends instead.
    pub(crate) fn try_run(command: &mut Command) -> Result<Self, Exit> {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be run");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("piped");
        let log_reader = collect_lines(BufReader::new(stderr), &log);
        let mut ready_line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        stdout.read_line(&mut ready_line).expect("a line in UTF-8");
        let printed = Arc::default();
        collect_lines(stdout, &printed);
        let address = ready_line.strip_prefix("listening on ").and_then(|rest| rest.split(' ').next());
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            let code = child.wait().expect("a child process").code();
            log_reader.join().expect("the reader does not panic");
            let log = log.lock().expect("no reader panicked").clone();
            return Err(Exit { code, log });
        };
        Ok(Self { child, ready_line, address, printed, log, log_reader: Some(log_reader) })
    }

    /// Returns the address of the server's admin listener.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.printed_address("admin on http://", '/')
    }

    /// Returns the address of the server's TLS listener, which must not be the first listener.
    pub(crate) fn tls_address(&self) -> SocketAddr {
        self.printed_address("listening on tls:", ' ')
    }

    /// Waits for a line on the server's stdout that starts with `before`. Returns the address between `before` and
    /// `after`.
    fn printed_address(&self, before: &str, after: char) -> SocketAddr {
        let find = || {
            let printed = self.printed.lock().expect("no reader panicked");
            let line = printed.lines().find_map(|line| line.strip_prefix(before).map(str::to_owned));
            line.and_then(|line| line.split(after).next()?.parse().ok())
        };
        let mut found = None;
        wait_until(before, || {
            found = find();
            found.is_some()
        });
        found.expect("found above")
    }

    /// Returns the server's stderr so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no reader panicked").clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a child process");
    }

    /// Waits until the process ends. Returns its exit code and stderr.
    pub(crate) fn wait(mut self) -> Exit {
        let code = self.child.wait().expect("a child process").code();
        if let Some(reader) = self.log_reader.take() {
            reader.join().expect("the reader does not panic");
        }
        Exit { code, log: self.log() }
    }

    /// Returns the id of the server's thread called `name`.
    pub(crate) fn thread(&self, name: &str) -> Pid {
        let tasks =
            std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process is running");
        let named = |task: &std::path::PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let task =
            tasks.map(|task| task.expect("readable").path()).find(named).expect("a thread with this name");
        let id = task.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a number");
        Pid::from_raw(id)
    }

    /// Returns a value of `/proc/PID/status` in KiB. The key `VmHWM` is the peak of the resident memory.
    pub(crate) fn memory_kib(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the process is running");
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

/// Starts a thread that collects all lines into `into`, so that the process that writes the lines never blocks.
fn collect_lines(lines: impl BufRead + Send + 'static, into: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        for line in lines.lines().map_while(Result::ok) {
            let mut text = into.lock().expect("no reader panicked");
            text.push_str(&line);
            text.push('\n');
        }
    })
}

/// Returns a command that runs the server with `args` and without the environment's `UPROAR_` variables.
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

/// Writes `text` to the settings file `uproar.toml` in a directory called `name`. Returns the path of the file.
pub(crate) fn settings_file(name: &str, text: impl AsRef<[u8]>) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("uproar.toml");
    std::fs::write(&path, text).expect("a writable directory");
    path.into_os_string().into_string().expect("a path in UTF-8")
}

/// Runs a command to its end and returns its output.
pub(crate) fn run_to_end(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("the program can be run")
}

/// Asserts that the server refuses to start: exit code 2 and one line on stderr that contains all of `parts`.
pub(crate) fn expect_start_failure(command: &mut Command, parts: &[&str]) {
    let output = run_to_end(command);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(2), "{command:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{command:?} printed something on stdout");
    assert_eq!(stderr.lines().count(), 1, "{command:?}: {stderr}");
    for part in parts {
        assert!(stderr.starts_with("uproar: ") && stderr.contains(part), "{part:?} is missing: {stderr}");
    }
}
