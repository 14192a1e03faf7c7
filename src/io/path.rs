//! Listening Unix sockets. A server whose start fails leaves the socket path as it was. Two servers that start at the
//! same time do not disturb each other.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};

use super::listen::{BACKLOG, Listener};

/// A Unix socket that listens at `PATH.new` until [`Pending::commit`] moves it to `PATH`. Dropping a `Pending` before
/// `commit` removes the socket.
#[derive(Debug)]
pub(crate) struct Pending {
    path: PathBuf,
    beside: PathBuf,
    /// The lock on `PATH.starting`. Only its holder creates or replaces a socket at the path.
    _lock: Lock,
}

impl Pending {
    /// Listens on a Unix socket for `path`, where nothing is or a socket that an earlier process left. With `instead`,
    /// another process may still listen at the path. That process keeps the connections that wait at its socket. The
    /// umask determines the permissions of the new socket.
    ///
    /// # Errors
    /// When something else is at the path or another process is starting at the path (`AddrInUse`), or the file system
    /// refuses.
    pub(crate) fn bind(path: &Path, instead: bool) -> io::Result<(Listener, Self)> {
        let beside = with_suffix(path, ".new");
        let address = UnixAddr::new(&beside)?;
        let lock = Lock::take(with_suffix(path, ".starting"))?;
        let is_free = match look(path)? {
            Found::Nothing | Found::Abandoned => true,
            Found::Listening => instead,
            Found::Other => false,
        };
        if !is_free {
            return Err(Errno::EADDRINUSE.into());
        }
        // A process that was killed during its start has left this abandoned socket. Any other file stays, and `bind`
        // fails.
        if look(&beside)? == Found::Abandoned {
            fs::remove_file(&beside)?;
        }
        let socket = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None)?;
        bind(socket.as_raw_fd(), &address)?;
        let pending = Self { path: path.into(), beside, _lock: lock };
        listen(&socket, BACKLOG)?;
        Ok((Listener::Unix(UnixListener::from(socket)), pending))
    }

    /// Moves the socket to its path, and replaces the file at that path.
    ///
    /// # Errors
    /// When the directory has changed since `bind`.
    pub(crate) fn commit(self) -> io::Result<()> {
        fs::rename(&self.beside, &self.path)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // After `commit`, no file is left at `PATH.new`.
        let _ = fs::remove_file(&self.beside);
    }
}

/// A lock file that one process at a time holds locked. Dropping the `Lock` removes the file.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Creates and locks the lock file at `path`.
    ///
    /// # Errors
    /// When another process holds the lock (`AddrInUse`), or the file system refuses.
    fn take(path: PathBuf) -> io::Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            // Without O_NONBLOCK, opening a named pipe would wait for a reader of the pipe.
            options.write(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW | O_NONBLOCK);
            let file = match options.open(&path) {
                // The file is a named pipe without a reader, or a socket.
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
                    return Err(no_lock(&path));
                }
                opened => opened?,
            };
            if !file.metadata()?.is_file() {
                return Err(no_lock(&path));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let text = "another server is just starting there";
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The last holder of the lock may have removed the file after this process opened it. Then no other process
            // would see this process's lock.
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
        // The file is still locked here, so no other process uses it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the error for a lock file that is not a regular file.
fn no_lock(path: &Path) -> io::Error {
    let text = format!("{} is not a regular file; remove it", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// The kind of file at a path.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket on which no process listens.
    Abandoned,
    /// A socket on which a process may listen.
    Listening,
    /// A file that is not a socket.
    Other,
}

/// Determines the kind of file at `path`.
fn look(path: &Path) -> io::Result<Found> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
        // Without this check, a file that is not a socket would look abandoned: it refuses connections, too.
        Ok(found) if !found.file_type().is_socket() => return Ok(Found::Other),
        Ok(_) => {}
    }
    // The socket is non-blocking, because a blocking connect to a listener with a full queue would wait.
    let socket = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None)?;
    let is_refused = connect(socket.as_raw_fd(), &UnixAddr::new(path)?) == Err(Errno::ECONNREFUSED);
    Ok(if is_refused { Found::Abandoned } else { Found::Listening })
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

    use nix::sys::socket::Backlog;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
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
    fn an_abandoned_socket_is_replaced_and_a_live_one_or_a_file_is_not() {
        let (directory, path) = place();
        let first = at(&path, false);
        refused(&path, false);
        drop(first);
        let second = at(&path, false);
        let third = at(&path, true);
        drop(second);
        let _client = UnixStream::connect(&path).expect("the third listener is at the path");
        third.accept().expect("the third listener gets the connection");
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
    fn without_a_commit_the_path_is_unchanged() {
        let (directory, path) = place();
        drop(Pending::bind(&path, false).expect("listen"));
        assert!(names(&directory).is_empty());
        let first = at(&path, false);
        let pending = Pending::bind(&path, true).expect("beside");
        assert_eq!(names(&directory), ["socket", "socket.new", "socket.starting"]);
        // Only one process at a time may start at the path.
        refused(&path, true);
        drop(pending);
        assert_eq!(names(&directory), ["socket"]);
        let _client = UnixStream::connect(&path).expect("the first one listens");
        first.accept().expect("it is the first one's");
    }

    #[test]
    fn files_of_a_process_that_was_killed_while_it_started_are_replaced() {
        let (directory, path) = place();
        drop(UnixListener::bind(with_suffix(&path, ".new")).expect("bound"));
        File::create(with_suffix(&path, ".starting")).expect("made");
        let _listener = at(&path, false);
        assert_eq!(names(&directory), ["socket"]);
    }

    #[test]
    fn a_lock_that_is_not_a_regular_file_is_refused_without_waiting() {
        let (directory, path) = place();
        let lock = with_suffix(&path, ".starting");
        mkfifo(&lock, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        let refused = || Pending::bind(&path, false).expect_err("no lock").to_string();
        assert!(refused().contains("socket.starting is not a regular file; remove it"), "{}", refused());
        let reader = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(&lock).expect("a reader");
        assert!(refused().contains("socket.starting is not a regular file"), "{}", refused());
        drop(reader);
        fs::remove_file(&lock).expect("it is there");
        let _socket = UnixListener::bind(&lock).expect("bound");
        assert!(refused().contains("socket.starting is not a regular file"), "{}", refused());
        fs::remove_file(&lock).expect("it is there");
        fs::create_dir(&lock).expect("made");
        let error = Pending::bind(&path, false).expect_err("no lock");
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory, "{error}");
        assert_eq!(names(&directory), ["socket.starting"]);
    }

    #[test]
    fn a_listener_with_a_full_queue_counts_as_listening() {
        let (_directory, path) = place();
        let socket = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None).expect("a socket");
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).expect("short")).expect("bound");
        listen(&socket, Backlog::new(0).expect("a number")).expect("it listens");
        let _waiting = UnixStream::connect(&path).expect("there is room for one");
        refused(&path, false);
    }

    #[test]
    fn of_several_processes_that_start_at_once_one_gets_the_path_and_keeps_it() {
        let (directory, path) = place();
        for _ in 0..50 {
            // The abandoned socket of the last round is still at the path.
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
            let [winner] = &started[..] else { panic!("{} threads got the path", started.len()) };
            let _client = UnixStream::connect(&path).expect("the winner listens");
            winner.accept().expect("the winner gets the connection");
            assert_eq!(names(&directory), ["socket"]);
        }
    }
}
