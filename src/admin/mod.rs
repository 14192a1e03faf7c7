//! The admin listener: metrics, health and a live page, on threads of their own.
//!
//! It answers while shards hang, so it shares nothing with them but numbers that it reads, and never waits for one
//! without a limit. A few blocking threads accept from one listener; each serves one connection at a time, one
//! request, within a few seconds.

mod metrics;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket;
use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;
use tracing::warn;

use crate::page::page_response;
use crate::protocol::response::respond;
use crate::protocol::{Protocol, ProtocolEvent, Reader, Refusal, Request, Status};
use crate::watch::Watch;

/// The live page.
const DASHBOARD: &str = include_str!("dashboard.html");

/// Connections that are served at a time; further ones wait.
const THREADS: usize = 4;
/// What such a thread needs, generously.
const STACK_BYTES: usize = 512 << 10;
/// How long a client may take for its request, and again for reading the answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may take to close after that.
const LAST_PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait when accepting fails, for want of descriptors for instance.
const RETRY: Duration = Duration::from_millis(100);

/// The running threads.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    stopping: Arc<AtomicBool>,
}

impl Admin {
    /// Serves what `watch` sees.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start(listener: TcpListener, watch: &Arc<Watch>) -> std::io::Result<Self> {
        let admin =
            Self { address: listener.local_addr()?, listener: Arc::new(listener), stopping: Arc::default() };
        for number in 1..=THREADS {
            let own = (Arc::clone(&admin.listener), Arc::clone(watch), Arc::clone(&admin.stopping));
            let builder = std::thread::Builder::new().name(format!("admin-{number}")).stack_size(STACK_BYTES);
            builder.spawn(move || accept_all(&own.0, &own.1, &own.2))?;
        }
        Ok(admin)
    }

    /// The address, with the port that the kernel chose.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nobody any more. Threads that serve somebody end when they have; nobody waits for them.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Ends the waiting of all who accept, and fails only when nobody listens any more.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
    }
}

fn accept_all(listener: &TcpListener, watch: &Arc<Watch>, stopping: &AtomicBool) {
    loop {
        match listener.accept() {
            // What fails with one client is of no interest to anybody else.
            Ok((stream, _)) => drop(serve(&stream, watch)),
            Err(_) if stopping.load(Ordering::SeqCst) => return,
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => {
                warn!(%error, "the admin listener cannot accept a connection; it tries again");
                std::thread::sleep(RETRY);
            }
        }
    }
}

/// Reads one request and answers it.
fn serve(mut stream: &TcpStream, watch: &Arc<Watch>) -> std::io::Result<()> {
    let Some(response) = take_request(stream, watch)? else { return Ok(()) };
    let deadline = Instant::now() + PATIENCE;
    let mut rest = &response[..];
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left_until(deadline)?))?;
        let len = stream.write(rest)?;
        rest = &rest[len..];
    }
    stream.shutdown(Shutdown::Write)?;
    // What the client still sends must not turn our end into a reset that eats the answer.
    let deadline = Instant::now() + LAST_PATIENCE;
    let mut unread = [0; 1024];
    loop {
        stream.set_read_timeout(Some(left_until(deadline)?))?;
        if stream.read(&mut unread)? == 0 {
            return Ok(());
        }
    }
}

/// The answer to the request that comes; none when the client goes without one.
fn take_request(mut stream: &TcpStream, watch: &Arc<Watch>) -> std::io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + PATIENCE;
    let (mut protocol, mut reader) = (Protocol::new(), Reader::default());
    let mut buffer = [0; 1024];
    loop {
        let read = left_until(deadline).and_then(|left| {
            stream.set_read_timeout(Some(left))?;
            stream.read(&mut buffer)
        });
        let mut input = match read {
            Ok(0) => return Ok(None),
            Ok(len) => &mut buffer[..len],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let reason = "The request did not come in time; send it right after connecting.";
                return Ok(Some(refusal(Refusal::new(Status::RequestTimeout, reason))));
            }
            Err(error) => return Err(error),
        };
        match protocol.next(&mut input, &mut reader) {
            Some(ProtocolEvent::Request(request)) => return Ok(Some(answer(&request, watch))),
            Some(ProtocolEvent::Refused(refused)) => return Ok(Some(refusal(refused))),
            // Nothing else comes before an upgrade, and there is none.
            Some(_) => return Ok(None),
            None => {}
        }
    }
}

/// The time left, of which there is some.
fn left_until(deadline: Instant) -> std::io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn answer(request: &Request<'_>, watch: &Arc<Watch>) -> Vec<u8> {
    let head_only = request.is_head();
    let refuse = |refused| refusal(Refusal { head_only, ..refused });
    if !["/", "/metrics", "/healthz", "/readyz"].contains(&request.path) {
        let reason = "Nothing is here; try /, /metrics, /healthz or /readyz.";
        return refuse(Refusal::new(Status::NotFound, reason));
    }
    if request.method != "GET" && !head_only {
        let reason = "Only GET and HEAD requests are answered here.";
        return refuse(Refusal { allow: "GET, HEAD", ..Refusal::new(Status::MethodNotAllowed, reason) });
    }
    match request.path {
        "/" => page_response(DASHBOARD, head_only),
        "/metrics" => text(Status::Ok, CONTENT_TYPE, &metrics::render(watch), head_only),
        "/healthz" => state(watch.hung(), head_only),
        _ => state(watch.is_draining().then(|| "draining: the server ends".into()), head_only),
    }
}

/// The answer to the question whether all is well: what is wrong, if anything.
fn state(wrong: Option<String>, head_only: bool) -> Vec<u8> {
    let status = if wrong.is_some() { Status::ServiceUnavailable } else { Status::Ok };
    let body = wrong.unwrap_or_else(|| "ok".into()) + "\n";
    text(status, "text/plain; charset=utf-8", &body, head_only)
}

fn text(status: Status, content_type: &str, body: &str, head_only: bool) -> Vec<u8> {
    let mut response = Vec::new();
    respond(
        status,
        &[("Cache-Control", "no-store")],
        content_type,
        body.as_bytes(),
        head_only,
        &mut response,
    );
    response
}

fn refusal(refused: Refusal) -> Vec<u8> {
    let mut response = Vec::new();
    refused.respond(&mut response);
    response
}
