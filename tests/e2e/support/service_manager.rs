//! A test service manager like systemd: passes sockets to servers and receives the servers' notifications.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use command_fds::{CommandFdExt, FdMapping};
use tempfile::TempDir;

use super::TIMEOUT;
use super::process::UPROAR;

/// A service manager's notification socket: receives what servers send with `sd_notify`.
pub(crate) struct ServiceManager {
    directory: TempDir,
    messages: Receiver<String>,
    /// Empties the socket, because the socket's queue is short and a full queue blocks the server. Ends at an empty
    /// message. `None` while the manager is dropped.
    receiver: Option<JoinHandle<()>>,
}

impl ServiceManager {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a free path");
        let (sender, messages) = channel();
        let receiver = std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(len @ 1..) = socket.recv(&mut message) {
                let message = str::from_utf8(&message[..len]).expect("UTF-8");
                if sender.send(message.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { directory, messages, receiver: Some(receiver) }
    }

    /// Sets the environment of `command` so that the server notifies this manager.
    pub(crate) fn attach<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"))
    }

    /// Waits for a notification that contains `part` and returns it. Drops all notifications before it.
    pub(crate) fn wait_for(&self, part: &str) -> String {
        loop {
            let message = self.messages.recv_timeout(TIMEOUT);
            let message = message.unwrap_or_else(|_| panic!("timed out waiting for {part}"));
            if message.contains(part) {
                return message;
            }
        }
    }

    /// Returns all notifications received since the last call of any method. Does not wait.
    pub(crate) fn take_messages(&self) -> Vec<String> {
        self.messages.try_iter().collect()
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        let socket = UnixDatagram::unbound().expect("a descriptor");
        let told = socket.send_to(b"", self.directory.path().join("notify"));
        if let (Ok(_), Some(receiver)) = (told, self.receiver.take()) {
            let _ = receiver.join();
        }
    }
}

/// Returns a command that starts the server with inherited sockets, each with its name.
pub(crate) fn command_with_sockets<const N: usize>(sockets: [(OwnedFd, &str); N], args: &[&str]) -> Command {
    // LISTEN_PID is the server's own process id, which only the new process knows.
    let script = "export LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, UPROAR]).args(args).env("LISTEN_FDS", N.to_string());
    command.env("LISTEN_FDNAMES", sockets.each_ref().map(|(_, name)| *name).join(":"));
    let mappings = sockets.into_iter().zip(3..);
    let mappings = mappings.map(|((parent_fd, _), child_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).expect("distinct descriptors");
    command
}
