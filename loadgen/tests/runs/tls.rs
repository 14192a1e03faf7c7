//! Runs over TLS. The TLS server of the tests passes decrypted bytes on to a plain server.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, SupportedProtocolVersion};
use serde_json::Value;

use crate::processes::with_few_descriptors;
use crate::server::{Fault, Mode, run, serve};

const TIMES: &str = "--threads 2 --duration 300ms --warmup 0 --quiet";

/// A TLS server of a test, and the file with its certificate.
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    pub(crate) cert_file: PathBuf,
}

/// Starts a TLS server with a certificate for `names`. The server passes decrypted bytes on to the server `plain`.
pub(crate) fn serve_tls(
    plain: SocketAddr,
    file: &str,
    names: &[&str],
    is_authority: bool,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsServer {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names).expect("the names are good");
    if is_authority {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let key = rcgen::KeyPair::generate().expect("there is randomness");
    let certificate = params.self_signed(&key).expect("it has a key");
    let cert_file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{file}.pem"));
    // Begins the certificate file with a byte-order mark, as some editors do.
    fs::write(&cert_file, format!("\u{feff}{}", certificate.pem())).expect("the directory can be written");
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("it is a key");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    serve_tls_on(listener, plain, config(chain, key, versions));
    TlsServer { address, cert_file }
}

/// Starts a TLS server on `listener`, with the certificate and the key of two PEM files.
pub(crate) fn serve_with_files(listener: TcpListener, plain: SocketAddr, cert: &Path, key: &Path) {
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).expect("it is a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("it is a key");
    serve_tls_on(listener, plain, config(chain, key, &[&TLS12, &TLS13]));
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> Arc<ServerConfig> {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map(Arc::new)
        .expect("the certificate is good")
}

pub(crate) fn serve_tls_on(listener: TcpListener, plain: SocketAddr, config: Arc<ServerConfig>) {
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let config = config.clone();
            // The result is ignored, because a client may leave at any time.
            thread::spawn(move || pass_on(socket, config, plain).ok());
        }
    });
}

/// Passes bytes between a TLS client and a plain server until the client or the server ends.
fn pass_on(mut socket: TcpStream, config: Arc<ServerConfig>, plain: SocketAddr) -> io::Result<()> {
    let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut inner = TcpStream::connect(plain)?;
    for stream in [&socket, &inner] {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
    }
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut is_idle = true;
        if session.wants_read() {
            match session.read_tls(&mut socket) {
                Ok(0) => return Ok(()),
                Ok(_) => is_idle = false,
                Err(error) => would_block(error)?,
            }
            if let Err(error) = session.process_new_packets() {
                let _ = session.write_tls(&mut socket);
                return Err(io::Error::other(error));
            }
        }
        match session.reader().read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => write_whole(&mut inner, &buffer[..len])?,
            Err(error) => would_block(error)?,
        }
        if !session.is_handshaking() {
            match inner.read(&mut buffer) {
                Ok(0) => {
                    session.send_close_notify();
                    session.write_tls(&mut socket)?;
                    return Ok(());
                }
                Ok(len) => {
                    is_idle = false;
                    session.writer().write_all(&buffer[..len])?;
                }
                Err(error) => would_block(error)?,
            }
        }
        while session.wants_write() {
            match session.write_tls(&mut socket) {
                Ok(_) => is_idle = false,
                Err(error) => {
                    would_block(error)?;
                    thread::yield_now();
                }
            }
        }
        if is_idle {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

fn would_block(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) }
}

fn write_whole(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(error) => would_block(error)?,
        }
    }
    Ok(())
}

fn passes(server: &TlsServer, name: &str, arguments: &str) -> Value {
    let url = format!("wss://{}/room/bench", server.address);
    let (output, figures) = run(&url, name, &format!("{arguments} {TIMES}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&said));
    for fault in ["lost", "duplicated", "reordered", "corrupt", "foreign"] {
        assert_eq!(figures["messages"][fault], 0, "{fault}: {arguments}");
    }
    figures
}

/// Returns the error text of a run that loadgen refuses to start (exit code 2).
fn refused(url: &str, name: &str, arguments: &str) -> String {
    let (output, figures) = run(url, name, &format!("echo -c 2 {arguments} {TIMES}"));
    assert_eq!((output.status.code(), figures), (Some(2), Value::Null), "{url} {arguments}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_scenario_runs_over_tls_of_both_versions() {
    for (version, number) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let [echo, relay] = [Mode::Echo, Mode::Relay].map(|mode| {
            let plain = serve(mode, Fault::None);
            let file = format!("scenarios-{number}-{}", plain.port());
            serve_tls(plain, &file, &["127.0.0.1"], false, &[version])
        });
        for (index, (server, arguments)) in [
            (&echo, "echo -c 4 --pipeline 5"),
            // Each message has many TLS records, and the messages under way are more than the sockets hold.
            (&echo, "echo -c 2 --size 60000 --pipeline 20 --grace 20s"),
            (&echo, "echo -c 4 --rate 100"),
            (&echo, "idle -c 4 --speak 3"),
            (&echo, "connect -c 4"),
            (&relay, "broadcast -c 6 --publishers 2 --rate 60"),
            (&relay, "storm -c 5"),
            (&relay, "idle -c 4"),
        ]
        .into_iter()
        .enumerate()
        {
            let options = format!("--ca-file {} --tls-version {number}", server.cert_file.display());
            let figures = passes(server, &format!("tls-{number}-{index}"), &format!("{arguments} {options}"));
            assert!(figures["messages"]["received"].as_u64() >= Some(1), "{arguments}");
            assert_eq!(figures["options"]["tls_version"], number);
        }
    }
}

#[test]
fn a_certificate_is_checked_unless_the_run_is_insecure() {
    let plain = serve(Mode::Echo, Fault::None);
    let both = [&TLS12, &TLS13];
    let good = serve_tls(plain, "good", &["127.0.0.1"], false, &both);
    // A certificate that says it is an authority, as `openssl req -x509` makes it.
    let authority = serve_tls(plain, "authority", &["127.0.0.1"], true, &both);
    let misnamed = serve_tls(plain, "misnamed", &["example.com"], true, &both);
    for server in [&good, &authority] {
        passes(server, "trusted", &format!("echo -c 2 --ca-file {}", server.cert_file.display()));
    }
    for server in [&good, &authority, &misnamed] {
        passes(server, "insecure", "echo -c 2 --insecure");
    }
    let other = format!("--ca-file {}", authority.cert_file.display());
    let fault = refused(&format!("wss://{}/", good.address), "untrusted", &other);
    assert!(fault.contains("not signed by a trusted authority") && fault.contains("--insecure"), "{fault}");
    let own = format!("--ca-file {}", misnamed.cert_file.display());
    let fault = refused(&format!("wss://{}/", misnamed.address), "other-name", &own);
    assert!(fault.contains("not valid for name"), "{fault}");
}

#[test]
fn an_error_of_tls_is_named() {
    let plain = serve(Mode::Echo, Fault::None);
    let old = serve_tls(plain, "old", &["127.0.0.1"], false, &[&TLS12]);
    let url = format!("wss://{}/", old.address);
    let fault = refused(&url, "too-new", "--insecure --tls-version 1.3");
    assert!(fault.contains("ProtocolVersion"), "{fault}");
    let fault = refused(&format!("wss://{plain}/"), "no-tls", "--insecure --connect-timeout 2s");
    assert!(fault.contains("does not speak TLS") || fault.contains("closed after"), "{fault}");
    let fault = refused(&format!("ws://{}/", old.address), "only-tls", "");
    assert!(fault.contains("speaks TLS; use wss://") || fault.contains("closed after"), "{fault}");
    for (options, reason) in [
        ("--ca-file /no/such/file", "cannot be read"),
        ("--ca-file /dev/null", "has no certificate"),
        ("--insecure --ca-file /dev/null", "cannot be used with"),
        ("--tls-version 1.1", "1.2, 1.3"),
    ] {
        let fault = refused(&url, "options", options);
        assert!(fault.contains(reason), "{options}: {fault}");
    }
    for options in ["--insecure", "--ca-file /dev/null", "--tls-version 1.3"] {
        let fault = refused(&format!("ws://{plain}/"), "plain", options);
        assert!(fault.contains("give a wss:// or https:// URL"), "{options}: {fault}");
    }
}

#[test]
fn helper_processes_use_tls_as_well() {
    let server = serve_tls(serve(Mode::Relay, Fault::None), "helpers", &["127.0.0.1"], false, &[&TLS13]);
    let cert = server.cert_file.display();
    let url = format!("wss://{}/room/bench", server.address);
    let mut command = with_few_descriptors();
    command.args("broadcast -c 60 --rate 20 --duration 500ms --warmup 0 --quiet".split_whitespace());
    command.args(["--url", &url, "--ca-file", &cert.to_string()]);
    let output = command.output().expect("the program can be started");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("10 sent, 600 received"), "{text}");
}

#[test]
fn a_tls_server_that_ends_connections_fails_the_run() {
    let server = serve_tls(serve(Mode::Echo, Fault::Close), "closing", &["127.0.0.1"], false, &[&TLS13]);
    let arguments = format!("echo -c 1 --rate 60 --insecure --grace 500ms {TIMES}");
    let (output, figures) = run(&format!("wss://{}/", server.address), "tls-closing", &arguments);
    assert_eq!(output.status.code(), Some(1), "{figures}");
    assert!(figures["connections"]["ended"].to_string().contains("1013"), "{figures}");
}
