//! TLS certificates and private keys: reloads, invalid files and expiry.

use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use uproar::config::{AppName, BackendName, Config};

use crate::support::metrics::Metrics;
use crate::support::process::{expect_start_failure, run_to_end, uproar};
use crate::support::tls::{Identity, TlsClient, VERSIONS, arg};
use crate::support::{TestServer, config, wait_until};
use crate::tls::start;

on_both_backends!(
    a_new_certificate_is_shown_after_sighup,
    a_byte_order_mark_before_the_certificate_and_the_key_is_ignored,
    an_invalid_certificate_changes_nothing,
    the_log_warns_of_a_certificate_that_expires_soon,
    a_metric_has_the_expiry_time_of_the_certificate,
);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn a_new_certificate_is_shown_after_sighup(backend: BackendName) {
    let mut identity = Identity::new();
    let server = start(backend, &identity);
    let address = server.tls_address();
    let mut old = TlsClient::connect(address, "/", &identity.client_config(&VERSIONS));
    identity.renew();
    server.signal(Signal::SIGHUP);
    wait_until("the files are reloaded", || server.log().contains("key.pem again: 1 changed"));
    let mut new = TlsClient::connect(address, "/", &identity.client_config(&VERSIONS));
    assert_ne!(old.certificate(), new.certificate());
    let fingerprint: Vec<_> =
        Sha256::digest(new.certificate()).iter().map(|byte| format!("{byte:02X}")).collect();
    let log = server.log();
    let line = log.lines().find(|line| line.contains("tls-cert: new certificate in")).expect("a line");
    for part in ["cert.pem", "CN=", "expires 2", &format!("SHA-256 {}", fingerprint.join(":"))] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let seen = log.len();
    server.signal(Signal::SIGHUP);
    wait_until("the same files are reloaded", || server.log()[seen..].contains("key.pem again: 0 changed"));
    assert!(!server.log()[seen..].contains("new certificate"), "{}", server.log());
    for client in [&mut old, &mut new] {
        client.send_text("still connected");
        client.expect_text("still connected");
    }
}

fn a_byte_order_mark_before_the_certificate_and_the_key_is_ignored(backend: BackendName) {
    let identity = Identity::new();
    for path in [identity.cert(), identity.key()] {
        let text = std::fs::read_to_string(&path).expect("there");
        std::fs::write(&path, format!("\u{feff}{text}")).expect("written");
    }
    let server = start(backend, &identity);
    let mut client = TlsClient::connect(server.tls_address(), "/", &identity.client_config(&VERSIONS));
    client.send_text("hello");
    client.expect_text("hello");
}

fn an_invalid_certificate_changes_nothing(backend: BackendName) {
    let mut identity = Identity::new();
    let server = start(backend, &identity);
    let address = server.tls_address();
    let client = identity.client_config(&VERSIONS);
    let right = std::fs::read(identity.cert()).expect("there");
    let other = Identity::new();
    let foreign = std::fs::read_to_string(other.cert()).expect("there");
    for (text, why) in
        [("", "no certificate is in it"), (&foreign, "does not belong to"), ("-----BEGIN", "--tls-cert")]
    {
        let seen = server.log().len();
        identity.file("cert.pem", text);
        server.signal(Signal::SIGHUP);
        wait_until(why, || {
            let log = &server.log()[seen..];
            log.contains("SIGHUP: nothing changes") && log.contains(why) && log.contains("cert.pem")
        });
        let mut shown = TlsClient::connect(address, "/", &client);
        let kept = rustls::pki_types::CertificateDer::from_pem_slice(&right).expect("a certificate");
        shown.send_text("hello");
        shown.expect_text("hello");
        assert_eq!(shown.certificate(), kept.to_vec());
    }
    identity.renew();
    server.signal(Signal::SIGHUP);
    wait_until("the files are reloaded", || server.log().contains("key.pem again"));
    TlsClient::connect(address, "/", &identity.client_config(&VERSIONS));
}

fn the_log_warns_of_a_certificate_that_expires_soon(backend: BackendName) {
    let mut identity = Identity::new();
    identity.renew_until(SystemTime::now() + 13 * DAY);
    let server = start(backend, &identity);
    wait_until("the log warns at the start", || {
        server.log().contains("cert.pem: the certificate expires on 20")
    });
    // The server does not warn earlier than two weeks before a certificate's expiry. It warns again after the expiry.
    for (end, part) in [(15 * DAY, None), (Duration::ZERO, Some("since it expired on 20"))] {
        let seen = server.log().len();
        identity.renew_until(SystemTime::now() + end);
        server.signal(Signal::SIGHUP);
        wait_until("the files are reloaded", || server.log()[seen..].contains("key.pem again"));
        let log = server.log()[seen..].to_owned();
        assert_eq!(log.contains("the certificate"), part.is_some(), "{log}");
        assert!(part.is_none_or(|part| log.contains(part)), "{log}");
    }
}

fn a_metric_has_the_expiry_time_of_the_certificate(backend: BackendName) {
    let name = "uproar_tls_certificate_expiry_timestamp_seconds";
    let with_admin =
        Config { admin: Some("127.0.0.1:0".parse().expect("valid")), ..config(backend, AppName::Echo, 1) };
    let mut identity = Identity::new();
    let end_s = |days: u32| {
        let end = SystemTime::now() + days * DAY;
        (end, end.duration_since(SystemTime::UNIX_EPOCH).expect("later").as_secs() as f64)
    };
    let ((end, first_s), (new_end, second_s)) = (end_s(100), end_s(200));
    identity.renew_until(end);
    let settings = identity.with_tls_listener(with_admin.clone());
    let server = TestServer::start(&settings);
    let metrics = |server: &TestServer| Metrics::fetch(server.admin_address().expect("there is one"));
    assert_eq!(metrics(&server).sum(name, &[]), first_s);
    identity.renew_until(new_end);
    server.control().reload(&settings).expect("valid settings");
    assert_eq!(metrics(&server).sum(name, &[]), second_s);
    let plain = TestServer::start(&with_admin);
    assert!(metrics(&plain).series.iter().all(|series| series.name != name));
}

#[test]
fn check_warns_of_a_certificate_that_expires_soon() {
    let mut identity = Identity::new();
    let (cert, key) = (identity.cert(), identity.key());
    let args = ["check", "--listen=tls:127.0.0.1:0", "--tls-cert", arg(&cert), "--tls-key", arg(&key)];
    for (days, is_warned) in [(100, false), (3, true)] {
        identity.renew_until(SystemTime::now() + days * DAY);
        let output = run_to_end(&mut uproar(&args));
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success(), "it is good yet: {said}");
        assert_eq!(said.contains("cert.pem: the certificate expires on 20"), is_warned, "{said}");
    }
}

#[test]
fn missing_tls_options_are_refused_with_a_remedy() {
    let identity = Identity::new();
    let (cert, key) = (identity.cert(), identity.key());
    let (cert, key) = (arg(&cert), arg(&key));
    let listen = "--listen=tls:127.0.0.1:0";
    for (args, parts) in [
        (&[listen][..], &["tls:127.0.0.1:0", "--tls-cert FILE and --tls-key FILE"][..]),
        (&[listen, "--tls-cert", cert], &[cert, "--tls-key FILE"]),
        (&[listen, "--tls-key", key], &[key, "--tls-cert FILE"]),
        (&["--tls-cert", cert, "--tls-key", key], &[cert, "--listen tls:0.0.0.0:8443"]),
    ] {
        expect_start_failure(&mut uproar(args), parts);
        expect_start_failure(&mut uproar(&[&["check"], args].concat()), parts);
    }
}

#[test]
fn invalid_tls_files_are_refused_with_a_remedy() {
    let identity = Identity::new();
    let (cert, key) = (identity.cert(), identity.key());
    let missing = identity.cert().with_file_name("missing.pem");
    let rsa_1024 = identity.file("rsa-1024.pem", RSA_1024);
    let p521 = identity.file("p521.pem", P521);
    let wide = identity.file("wide.pem", "");
    let text = std::fs::read_to_string(identity.cert()).expect("there");
    let utf16: Vec<u8> =
        "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    std::fs::write(&wide, utf16).expect("written");
    let key_text = std::fs::read_to_string(&key).expect("there");
    let empty = identity.file("empty.pem", "");
    let broken = identity.file("broken.pem", &key_text[..key_text.len() - 20]);
    let encrypted = identity.file(
        "encrypted.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    let nonsense =
        identity.file("nonsense.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let no_cert =
        identity.file("no-cert.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let foreign = Identity::new();
    let foreign_key = foreign.key();
    for (cert, key, parts) in [
        (&missing, &key, &["--tls-cert", "missing.pem", "no such file", "check the path"][..]),
        (&cert, &missing, &["--tls-key", "missing.pem", "no such file", "check the path"]),
        (&cert, &rsa_1024, &["--tls-key", "rsa-1024.pem", "RSA", "1024 bits", "2048"]),
        (&cert, &p521, &["--tls-key", "p521.pem", "curve P-521", "P-256 or P-384"]),
        (&wide, &key, &["--tls-cert", "wide.pem", "UTF-16", "save it as UTF-8"]),
        (&empty, &key, &["--tls-cert", "empty.pem", "no certificate", "BEGIN CERTIFICATE"]),
        (&key, &key, &["--tls-cert", "key.pem", "no certificate"]),
        (&no_cert, &key, &["--tls-cert", "no-cert.pem", "not a certificate"]),
        (&cert, &empty, &["--tls-key", "empty.pem", "no private key", "BEGIN PRIVATE KEY"]),
        (&cert, &cert, &["--tls-key", "cert.pem", "no private key"]),
        (&cert, &broken, &["--tls-key", "broken.pem", "broken PEM"]),
        (&cert, &encrypted, &["--tls-key", "encrypted.pem", "encrypted", "openssl pkey"]),
        (&cert, &nonsense, &["--tls-key", "nonsense.pem", "expected PEM"]),
        (&cert, &foreign_key, &["--tls-key", "key.pem", "does not belong to", "cert.pem"]),
        (&cert, &"/dev/zero".into(), &["--tls-key", "/dev/zero", "more than"]),
    ] {
        let args = ["--listen=tls:127.0.0.1:0", "--tls-cert", arg(cert), "--tls-key", arg(key)];
        expect_start_failure(&mut uproar(&args), parts);
        expect_start_failure(&mut uproar(&[&["check"], &args[..]].concat()), parts);
        // The error message must not contain a line of the private key.
        let said = String::from_utf8(run_to_end(&mut uproar(&args)).stderr).expect("text");
        for line in key_text.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!said.contains(&line[..20.min(line.len())]), "{said}");
        }
    }
}

/// A private key that is too short to be safe, made for this test.
const RSA_1024: &str = "\
-----BEGIN PRIVATE KEY-----
MIICdgIBADANBgkqhkiG9w0BAQEFAASCAmAwggJcAgEAAoGBANS6gOxEGLgXi30r
BjcgWlbFbT4xdMw/wUOVQbGBWXpbdX/4uTevccHfXu/LNPuOf3IDZJccZxnINH2M
Q3KuC2x5k9dPHMawJ9n9A/mP9QKOYsKmjQ5A0Q8360BkTqYj4mhLMHHsWeaA4Bqz
Hs4GI/ih4cvlbPlQWLunc8/U9LOhAgMBAAECgYEAmfODe/loPkpj26j4bYrPdj6Y
6cqW8X4uWr+49EJdRCzOY1fYi1FALYN/TGEureMZnqSP9sBKaSE3w6hv453Li1rA
o7V1/skR8pAfYaivQHNL3GVIf5aqxxlBDvGP/Zy6N+1gC95VOukTkySGgjr8Pj1i
BLdYZSqABopFULC/bGUCQQDsNKdAJZtLclAresUsXhJevh6UuJ+2p7yCCt0djZT2
zJ7B2fPutZmC7U7eCMgTKCvhNwhoo/suesE4pk5YizLLAkEA5o4xQvYszqSJv3ng
dli28pcAwscqUx2FGgsSC6E+A9fpZRwVg5CoZG3OFSVb5Z3hod9nwnjhL5NpNzxg
fY+pwwJAA++MqeD2iXdKJq9RAcA/hhyc3dWFs8Fvvqr3rDpjtQkLzCcZjWyxNiFG
IyT6UHdm48XK+hNhaBDbj1oWDBulqQJASYg0Qe0N4WIs5LrUUip9PuXWQkkPQK77
kpDRUpA8nTExqSPJ4Mo0SsOSpL/jjVpLajs8dpPjDi9vsUQ6ahF1zQJAdsli1y/W
GdSMhBmC41T5XvKJm4JH1xehhReQGjkOVW0phdkNQHjcNS+XBkRpNU/SgCsiCTkP
W/5s1ZX09V+aHA==
-----END PRIVATE KEY-----
";

/// A private key on a curve that the server does not support, made for this test.
const P521: &str = "\
-----BEGIN PRIVATE KEY-----
MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIA4m5NWBUcaVS+g4E+
aJPMSOAa9+NHN7nObJcYRkSnMWOTf3maoI/UXHSr1LfY0DRSJl58iXX6+YKNMSDZ
KpWauZmhgYkDgYYABAAJbZUysxKsmXle+nDmzLFiaCLGELnCcVDWcGxVVi3a90h3
9s+A47xq8WZUDgR28alHe3/PoX74CBsU1AoIacxuCQA/buyCpuXtJPtzu7499yG9
RMwvt93ym2RUh5dDpMopMzbYsWd2xsZepLf1CF4DSu06xv4+Zm6H4gfk8AepYmX4
yA==
-----END PRIVATE KEY-----
";
