//! Sockets that listen on a path: a start that fails takes the path from nobody, and two that start at a time do not get
//! in each other's way.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::O_NOFOLLOW;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use super::listen::{BACKLOG, Listener};

/// A socket that listens beside its path, at `PATH.new`, until [`Pending::commit`] puts it there. When it is dropped
/// before, nothing of it is left.
#[derive(Debug)]
pub(crate) struct Pending {
    path: PathBuf,
    beside: PathBuf,
    /// Who has it is the only one that makes or replaces a socket there.
    _lock: Lock,
}

impl Pending {
    /// Listens for `path`, which is free or has the socket that a former process left. With `instead` somebody may listen
    /// there, who keeps those that wait for it already. The permissions are those of the umask.
    ///
    /// # Errors
    /// When something else is there or another process is at this (`AddrInUse`), or the path cannot be had.
    pub(crate) fn bind(path: &Path, instead: bool) -> io::Result<(Listener, Self)> {
        let beside = with_suffix(path, ".new");
        let address = UnixAddr::new(&beside)?;
        let lock = Lock::take(with_suffix(path, ".starting"))?;
        let is_free = match look(path)? {
            Found::Nothing | Found::Left => true,
            Found::Living => instead,
            Found::Other => false,
        };
        if !is_free {
            return Err(Errno::EADDRINUSE.into());
        }
        // Of a process that was killed while it started. Whatever else is there stays, and binding says so.
        if look(&beside)? == Found::Left {
            fs::remove_file(&beside)?;
        }
        let socket = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None)?;
        bind(socket.as_raw_fd(), &address)?;
        let pending = Self { path: path.into(), beside, _lock: lock };
        listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok((Listener::Unix(UnixListener::from(socket)), pending))
    }

    /// Puts the socket at its path, instead of what is there.
    ///
    /// # Errors
    /// When the directory has changed meanwhile.
    pub(crate) fn commit(self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After `commit` there is none.
        let _ = fs::remove_file(&self.beside);
    }
}

/// A file that one process at a time has open and locked. It is gone when the lock is.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(path: PathBuf) -> io::Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            options.write(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW);
            let file = options.open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let text = "another server is just starting there";
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Who had it may have removed it after we had opened it; then the lock is one that nobody else sees.
            let own = file.metadata()?;
            if path.symlink_metadata().is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()))
            {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked still, so that it is ours.
        let _ = fs::remove_file(&self.path);
    }
}

/// What is at a path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket that nobody listens on.
    Left,
    /// A socket that may have a listener.
    Living,
    /// No socket.
    Other,
}

fn look(path: &Path) -> io::Result<Found> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
        // It would refuse connections, too.
        Ok(found) if !found.file_type().is_socket() => return Ok(Found::Other),
        Ok(_) => {}
    }
    // Without blocking: a listener with a full queue has one wait for as long as it likes.
    let socket = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None)?;
    let is_refused = connect(socket.as_raw_fd(), &UnixAddr::new(path)?) == Err(Errno::ECONNREFUSED);
    Ok(if is_refused { Found::Left } else { Found::Living })
}

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;

    use tempfile::TempDir;

    use super::*;

    fn place() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        (directory, path)
    }

    fn names(directory: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(directory.path()).expect("readable");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("readable").file_name().into_string().expect("text")).collect();
        names.sort_unstable();
        names
    }

    fn at(path: &Path, instead: bool) -> Listener {
        let (listener, pending) = Pending::bind(path, instead).expect("listen");
        pending.commit().expect("the path is ours");
        listener
    }

    fn refused(path: &Path, instead: bool) {
        let taken = Pending::bind(path, instead).expect_err("it is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "{taken}");
    }

    #[test]
    fn a_path_that_a_dead_process_left_is_taken_over_and_others_are_not() {
        let (directory, path) = place();
        let first = at(&path, false);
        refused(&path, false);
        drop(first);
        let second = at(&path, false);
        let third = at(&path, true);
        drop(second);
        let _client = UnixStream::connect(&path).expect("the third one listens");
        third.accept().expect("it is the third one's");
        assert_eq!(names(&directory), ["socket"]);

        let file = directory.path().join("file");
        fs::write(&file, "precious").expect("written");
        for instead in [false, true] {
            refused(&file, instead);
        }
        assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
        assert_eq!(names(&directory), ["file", "socket"]);
    }

    #[test]
    fn who_does_not_commit_takes_nothing_and_leaves_nothing() {
        let (directory, path) = place();
        drop(Pending::bind(&path, false).expect("listen"));
        assert!(names(&directory).is_empty());
        let first = at(&path, false);
        let pending = Pending::bind(&path, true).expect("beside");
        assert_eq!(names(&directory), ["socket", "socket.new", "socket.starting"]);
        // It is one at a time.
        refused(&path, true);
        drop(pending);
        assert_eq!(names(&directory), ["socket"]);
        let _client = UnixStream::connect(&path).expect("the first one listens");
        first.accept().expect("it is the first one's");
    }

    #[test]
    fn what_a_process_left_that_was_killed_while_it_started_is_in_nobodys_way() {
        let (directory, path) = place();
        drop(UnixListener::bind(with_suffix(&path, ".new")).expect("bound"));
        File::create(with_suffix(&path, ".starting")).expect("made");
        let _listener = at(&path, false);
        assert_eq!(names(&directory), ["socket"]);
    }

    #[test]
    fn a_listener_with_a_full_queue_lives() {
        let (_directory, path) = place();
        let socket = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None).expect("a socket");
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).expect("short")).expect("bound");
        listen(&socket, Backlog::new(0).expect("a number")).expect("it listens");
        let _waiting = UnixStream::connect(&path).expect("there is room for one");
        refused(&path, false);
    }

    #[test]
    fn one_of_many_that_start_at_a_time_has_the_path_and_keeps_it() {
        let (directory, path) = place();
        for _ in 0..50 {
            // What the last round left is there.
            let barrier = Barrier::new(4);
            let start = || {
                barrier.wait();
                let (listener, pending) = Pending::bind(&path, false).ok()?;
                pending.commit().expect("the path is ours");
                Some(listener)
            };
            let started: Vec<_> = std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(start));
                threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
            });
            let [winner] = &started[..] else { panic!("{} have it", started.len()) };
            let _client = UnixStream::connect(&path).expect("the winner listens");
            winner.accept().expect("it is the winner's");
            assert_eq!(names(&directory), ["socket"]);
        }
    }
}
