//! A small HTTP server to which the tested server sends requests: a webhook endpoint, or an identity provider.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::TIMEOUT;
use super::tls::Identity;

/// A request that the receiver got.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The header fields, with names in small letters.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: String,
    /// Number of the connection, from 0 on.
    pub(crate) connection: usize,
}

impl Received {
    /// Returns the value of a header field; `name` is in small letters.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// The receiver's answer to a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A response with a status, header lines that each end with a line break, and a body.
    Respond(u16, String, String),
    /// No answer until the receiver ends.
    Hang,
    /// The end of the connection without an answer.
    Disconnect,
}

impl Reply {
    /// Returns an empty response.
    pub(crate) fn status(status: u16) -> Self {
        Self::Respond(status, String::new(), String::new())
    }
}

type Answer = dyn Fn(usize, &Received) -> Reply + Send + Sync;

/// A running receiver. Dropping the value ends it, with all its connections.
pub(crate) struct Receiver {
    address: SocketAddr,
    has_tls: bool,
    requests: Arc<Mutex<Vec<Received>>>,
    is_over: Arc<AtomicBool>,
}

impl Receiver {
    /// Starts a receiver. `answer` gets each request with its number, from 0 on.
    pub(crate) fn start(answer: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), answer)
    }

    /// Starts a receiver at an address.
    pub(crate) fn start_at(
        address: SocketAddr,
        answer: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(address, None, Arc::new(answer))
    }

    /// Starts a receiver that speaks TLS with the certificate of `identity`.
    pub(crate) fn start_tls(
        identity: &Identity,
        answer: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let certificate = CertificateDer::from_pem_file(identity.cert()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(identity.key()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions that the provider supports")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a certificate with its key");
        Self::serve(([127, 0, 0, 1], 0).into(), Some(Arc::new(config)), Arc::new(answer))
    }

    fn serve(address: SocketAddr, tls: Option<Arc<ServerConfig>>, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind(address).expect("a free address");
        let receiver = Self {
            address: listener.local_addr().expect("bound"),
            has_tls: tls.is_some(),
            requests: Arc::default(),
            is_over: Arc::default(),
        };
        let (requests, is_over) = (Arc::clone(&receiver.requests), Arc::clone(&receiver.is_over));
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.expect("a connection");
                let connection = Connection {
                    number,
                    requests: Arc::clone(&requests),
                    is_over: Arc::clone(&is_over),
                    answer: Arc::clone(&answer),
                };
                let tls = tls.clone();
                std::thread::spawn(move || connection.serve(stream, tls));
            }
        });
        receiver
    }

    /// Returns the URL of `path` at the receiver.
    pub(crate) fn url(&self, path: &str) -> String {
        match self.has_tls {
            true => format!("https://localhost:{}{path}", self.address.port()),
            false => format!("http://{}{path}", self.address),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns all requests so far.
    pub(crate) fn requests(&self) -> Vec<Received> {
        self.requests.lock().expect("no thread panicked").clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // The connection wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

/// A connection of a receiver.
struct Connection {
    number: usize,
    requests: Arc<Mutex<Vec<Received>>>,
    is_over: Arc<AtomicBool>,
    answer: Arc<Answer>,
}

impl Connection {
    fn serve(self, stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a TCP socket");
        stream.set_write_timeout(Some(TIMEOUT)).expect("a TCP socket");
        match tls {
            Some(config) => {
                let session = ServerConnection::new(config).expect("valid settings");
                self.serve_stream(StreamOwned::new(session, stream));
            }
            None => self.serve_stream(stream),
        }
    }

    fn serve_stream(&self, mut stream: impl Read + Write) {
        let mut bytes = Vec::new();
        while let Some(received) = self.read(&mut stream, &mut bytes) {
            let number = {
                let mut requests = self.requests.lock().expect("no thread panicked");
                requests.push(received.clone());
                requests.len() - 1
            };
            match (self.answer)(number, &received) {
                Reply::Respond(status, fields, body) => {
                    let head =
                        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{fields}\r\n", body.len());
                    if stream
                        .write_all(format!("{head}{body}").as_bytes())
                        .and_then(|()| stream.flush())
                        .is_err()
                    {
                        return;
                    }
                }
                Reply::Hang => {
                    while !self.is_over.load(Ordering::SeqCst) {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    return;
                }
                Reply::Disconnect => return,
            }
        }
    }

    /// Reads the next request. `bytes` has what was read already.
    fn read(&self, stream: &mut impl Read, bytes: &mut Vec<u8>) -> Option<Received> {
        loop {
            if let Some((received, len)) = self.parse(bytes) {
                bytes.drain(..len);
                return Some(received);
            }
            let mut buffer = [0; 16 << 10];
            match stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(len) => bytes.extend_from_slice(&buffer[..len]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.is_over.load(Ordering::SeqCst) {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// Parses a request at the start of `bytes`. Returns it with its length, or `None` if it is incomplete.
    fn parse(&self, bytes: &[u8]) -> Option<(Received, usize)> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(head) = request.parse(bytes).expect("a valid request") else {
            return None;
        };
        let field = |header: &httparse::Header<'_>| {
            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
        };
        let fields: Vec<_> = request.headers.iter().map(field).collect();
        let len = fields
            .iter()
            .find(|(name, _)| name == "content-length")
            .map_or(0, |(_, len)| len.parse().expect("a length"));
        let body = bytes.get(head..head + len)?;
        let received = Received {
            method: request.method?.into(),
            path: request.path?.into(),
            fields,
            body: String::from_utf8(body.to_vec()).expect("UTF-8"),
            connection: self.number,
        };
        Some((received, head + len))
    }
}
