//! Reads the files that the server is configured with: settings, certificates, keys and secrets.
//!
//! All such files are read by [`read`]. It limits the length, removes a byte-order mark, and gives up on a named pipe
//! that nobody writes to.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::O_NONBLOCK;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Time limit for input from a named pipe.
const PIPE_PATIENCE: Duration = Duration::from_secs(5);

/// The byte-order mark of UTF-8.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The reason why a file cannot be used. The text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The file is missing: no file is at the path.
    #[error("no such file; check the path")]
    Missing,
    /// Permission denied: the server's user may not read the file.
    #[error("permission denied; let the user that the server runs as read it")]
    Denied,
    /// The path is a directory, not a file.
    #[error("this is a directory; name the file in it")]
    Directory,
    /// The path is a pipe or a terminal, and no input came in time.
    #[error("no input came within {} s; name a regular file", PIPE_PATIENCE.as_secs())]
    Silent,
    /// The file is longer than the given limit in bytes, which depends on the file's purpose.
    #[error("the file has more than {0} bytes; check that this is the right file")]
    TooLong(u64),
    /// The file is UTF-16 text, as some editors and shells on Windows write it.
    #[error("the file is UTF-16 text; save it as UTF-8")]
    Utf16,
    /// Another error of the operating system.
    #[error("{0}; check that this is a readable file")]
    Other(io::Error),
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::NotFound => Self::Missing,
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::IsADirectory => Self::Directory,
            _ => Self::Other(error),
        }
    }
}

/// Reads a whole file of at most `max_len` bytes and removes its byte-order mark, if it has one.
///
/// # Errors
/// See [`FileError`].
pub(crate) fn read(path: &Path, max_len: u64) -> Result<Vec<u8>, FileError> {
    read_within(path, max_len, PIPE_PATIENCE)
}

fn read_within(path: &Path, max_len: u64, patience: Duration) -> Result<Vec<u8>, FileError> {
    // Without O_NONBLOCK, opening a named pipe waits for a writer.
    let mut file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    if file.metadata()?.is_dir() {
        return Err(FileError::Directory);
    }
    let deadline = Instant::now() + patience;
    // Reading a pipe without a writer returns the end of the stream at once, so wait for a writer first.
    wait_for_input(&file, deadline)?;
    let mut bytes = Vec::new();
    loop {
        let left = (max_len + 1).saturating_sub(bytes.len() as u64);
        match file.by_ref().take(left).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > max_len => return Err(FileError::TooLong(max_len)),
            Ok(_) => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait_for_input(&file, deadline)?,
            Err(error) => return Err(error.into()),
        }
    }
    if is_utf16(&bytes) {
        return Err(FileError::Utf16);
    }
    if bytes.starts_with(UTF8_MARK) {
        bytes.drain(..UTF8_MARK.len());
    }
    Ok(bytes)
}

/// Waits until the file can be read without blocking. A regular file can always be read.
fn wait_for_input(file: &File, deadline: Instant) -> Result<(), FileError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(FileError::Silent),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}

/// Returns whether the bytes are a UTF-16 byte-order mark followed by ASCII text in UTF-16. Random bytes of a secret
/// are not.
fn is_utf16(bytes: &[u8]) -> bool {
    let (pairs, high) = match bytes {
        [0xff, 0xfe, pairs @ ..] => (pairs, 1),
        [0xfe, 0xff, pairs @ ..] => (pairs, 0),
        _ => return false,
    };
    let mut pairs = pairs.chunks_exact(2).take(8).peekable();
    pairs.peek().is_some() && pairs.all(|pair| pair[high] == 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn written(bytes: &[u8]) -> Result<Vec<u8>, FileError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), bytes).expect("written");
        read(file.path(), 100)
    }

    #[test]
    fn a_byte_order_mark_is_taken_off_and_nothing_else() {
        for (bytes, expected) in [
            (&b"\xef\xbb\xbftext\n"[..], &b"text\n"[..]),
            (b"\xef\xbb\xbf", b""),
            (b"\xef\xbb\xbf\xef\xbb\xbfx", b"\xef\xbb\xbfx"),
            (b"\xef\xbbtext", b"\xef\xbbtext"),
            (b" \xef\xbb\xbftext", b" \xef\xbb\xbftext"),
            (b"", b""),
            (b"\xff\xfe", b"\xff\xfe"),
            (b"\xff\xfe\x80\x81\x82\x83", b"\xff\xfe\x80\x81\x82\x83"),
        ] {
            assert_eq!(written(bytes).expect("readable"), expected, "{bytes:?}");
        }
    }

    #[test]
    fn utf_16_is_named() {
        for bytes in [&b"\xff\xfea\0b\0"[..], b"\xfe\xff\0a\0b", b"\xff\xfe-\0-\0-\0-\0-\0B\0E\0G\0I\0N\0"] {
            assert!(matches!(written(bytes), Err(FileError::Utf16)), "{bytes:?}");
        }
    }

    #[test]
    fn a_file_over_its_limit_is_refused_and_one_at_it_is_read() {
        assert_eq!(written(&[b'x'; 100]).expect("short enough").len(), 100);
        assert!(matches!(written(&[b'x'; 101]), Err(FileError::TooLong(100))));
        assert!(matches!(read(Path::new("/dev/zero"), 100), Err(FileError::TooLong(100))));
    }

    #[test]
    fn each_reason_has_its_own_remedy() {
        let directory = tempfile::tempdir().expect("a directory");
        for (path, part) in [
            (directory.path().to_owned(), "name the file in it"),
            (directory.path().join("missing"), "no such file"),
            ("/dev/null/x".into(), "Not a directory"),
        ] {
            let error = read(&path, 100).expect_err("no file").to_string();
            assert!(error.contains(part) && error.contains("; "), "{error}");
        }
    }

    #[test]
    fn a_pipe_is_read_and_one_without_a_writer_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
        let silent = read_within(&path, 100, Duration::from_millis(50));
        assert!(matches!(silent, Err(FileError::Silent)), "{silent:?}");
        let writer = std::thread::spawn({
            let path = path.clone();
            move || fs::write(path, "\u{feff}through a pipe").expect("written")
        });
        assert_eq!(read(&path, 100).expect("it is written"), b"through a pipe");
        writer.join().expect("no panic");
    }
}
