//! Certificates and their keys: files of no use, new ones, and their end.

use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject;
use uproar::config::{AppName, BackendName, Config};

use crate::support::metrics::Metrics;
use crate::support::process::{expect_start_failure, run_to_end, uproar};
use crate::support::tls::{Identity, TlsClient, VERSIONS, arg};
use crate::support::{TestServer, config, wait_until};
use crate::tls::start;

on_both_backends!(
    a_new_certificate_is_shown_after_sighup,
    a_wrong_certificate_changes_nothing,
    a_certificate_that_expires_soon_is_told_of,
    metrics_tell_when_the_certificate_expires,
);

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn a_new_certificate_is_shown_after_sighup(backend: BackendName) {
    let mut identity = Identity::new();
    let server = start(backend, &identity);
    let address = server.tls_address();
    let mut old = TlsClient::connect(address, "/", &identity.client_config(&VERSIONS));
    identity.renew();
    server.signal(Signal::SIGHUP);
    wait_until("it has read them", || server.log().contains("key.pem again"));
    let mut new = TlsClient::connect(address, "/", &identity.client_config(&VERSIONS));
    assert_ne!(old.certificate(), new.certificate());
    for client in [&mut old, &mut new] {
        client.send_text("nobody is dropped");
        client.expect_text("nobody is dropped");
    }
}

fn a_wrong_certificate_changes_nothing(backend: BackendName) {
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
    wait_until("it has read them", || server.log().contains("key.pem again"));
    TlsClient::connect(address, "/", &identity.client_config(&VERSIONS));
}

fn a_certificate_that_expires_soon_is_told_of(backend: BackendName) {
    let mut identity = Identity::new();
    identity.renew_until(SystemTime::now() + 13 * DAY);
    let server = start(backend, &identity);
    wait_until("it is told at the start", || {
        server.log().contains("cert.pem: the certificate expires on 20")
    });
    // One that is good for long enough is not worth a word, and one that is none any more is.
    for (end, part) in [(15 * DAY, None), (Duration::ZERO, Some("since it expired on 20"))] {
        let seen = server.log().len();
        identity.renew_until(SystemTime::now() + end);
        server.signal(Signal::SIGHUP);
        wait_until("it has read them", || server.log()[seen..].contains("key.pem again"));
        let log = server.log()[seen..].to_owned();
        assert_eq!(log.contains("the certificate"), part.is_some(), "{log}");
        assert!(part.is_none_or(|part| log.contains(part)), "{log}");
    }
}

fn metrics_tell_when_the_certificate_expires(backend: BackendName) {
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
    server.control().reload(&settings).expect("they can be");
    assert_eq!(metrics(&server).sum(name, &[]), second_s);
    let plain = TestServer::start(&with_admin);
    assert!(metrics(&plain).series.iter().all(|series| series.name != name));
}

#[test]
fn a_check_tells_of_a_certificate_that_expires_soon() {
    let mut identity = Identity::new();
    let (cert, key) = (identity.cert(), identity.key());
    let args = ["check", "--listen=tls:127.0.0.1:0", "--tls-cert", arg(&cert), "--tls-key", arg(&key)];
    for (days, is_told) in [(100, false), (3, true)] {
        identity.renew_until(SystemTime::now() + days * DAY);
        let output = run_to_end(&mut uproar(&args));
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(output.status.success(), "it is good yet: {said}");
        assert_eq!(said.contains("cert.pem: the certificate expires on 20"), is_told, "{said}");
    }
}

#[test]
fn what_is_missing_is_said_with_a_way_out() {
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
fn a_file_of_no_use_is_said_with_a_way_out() {
    let identity = Identity::new();
    let (cert, key) = (identity.cert(), identity.key());
    let other = Identity::new().file("other.pem", "");
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
        (&other, &key, &["--tls-cert", "other.pem", "No such file", "name a file"][..]),
        (&cert, &other, &["--tls-key", "other.pem", "No such file", "name a file"]),
        (&empty, &key, &["--tls-cert", "empty.pem", "no certificate", "BEGIN CERTIFICATE"]),
        (&key, &key, &["--tls-cert", "key.pem", "no certificate"]),
        (&no_cert, &key, &["--tls-cert", "no-cert.pem", "not a certificate"]),
        (&cert, &empty, &["--tls-key", "empty.pem", "no private key", "BEGIN PRIVATE KEY"]),
        (&cert, &cert, &["--tls-key", "cert.pem", "no private key"]),
        (&cert, &broken, &["--tls-key", "broken.pem", "broken PEM"]),
        (&cert, &encrypted, &["--tls-key", "encrypted.pem", "encrypted", "openssl pkey"]),
        (&cert, &nonsense, &["--tls-key", "nonsense.pem", "want PEM"]),
        (&cert, &foreign_key, &["--tls-key", "key.pem", "does not belong to", "cert.pem"]),
        (&cert, &"/dev/zero".into(), &["--tls-key", "/dev/zero", "more than"]),
    ] {
        let args = ["--listen=tls:127.0.0.1:0", "--tls-cert", arg(cert), "--tls-key", arg(key)];
        expect_start_failure(&mut uproar(&args), parts);
        expect_start_failure(&mut uproar(&[&["check"], &args[..]].concat()), parts);
        // No line of a key may show.
        let said = String::from_utf8(run_to_end(&mut uproar(&args)).stderr).expect("text");
        for line in key_text.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!said.contains(&line[..20.min(line.len())]), "{said}");
        }
    }
}
