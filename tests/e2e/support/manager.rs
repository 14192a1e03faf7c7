//! A service manager, as systemd is one: it passes sockets to servers and hears what they tell it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use command_fds::{CommandFdExt, FdMapping};
use tempfile::TempDir;

use super::PATIENCE;
use super::process::UPROAR;

pub(crate) struct Manager {
    directory: TempDir,
    messages: Receiver<String>,
}

impl Manager {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("bound");
        let (sender, messages) = channel();
        // The socket holds ten messages; whoever sends more waits until they are taken.
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(len) = socket.recv(&mut message) {
                let message = str::from_utf8(&message[..len]).expect("text");
                if sender.send(message.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { directory, messages }
    }

    /// Has a server tell what it does.
    pub(crate) fn listens_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"))
    }

    /// Waits until it hears something with `part`; that message, whatever comes before it.
    pub(crate) fn hears(&self, part: &str) -> String {
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let message = message.unwrap_or_else(|_| panic!("waited in vain for {part}"));
            if message.contains(part) {
                return message;
            }
        }
    }

    /// What it was told since it last heard something.
    pub(crate) fn heard(&self) -> Vec<String> {
        self.messages.try_iter().collect()
    }
}

/// The command of a server to which sockets are passed, each with its name.
pub(crate) fn passing<const N: usize>(sockets: [(OwnedFd, &str); N], args: &[&str]) -> Command {
    // Only the new process knows its number.
    let script = "export LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, UPROAR]).args(args).env("LISTEN_FDS", N.to_string());
    command.env("LISTEN_FDNAMES", sockets.each_ref().map(|(_, name)| *name).join(":"));
    let mappings = sockets.into_iter().zip(3..);
    let mappings = mappings.map(|((parent_fd, _), child_fd)| FdMapping { parent_fd, child_fd }).collect();
    command.fd_mappings(mappings).expect("each has its own number");
    command
}
