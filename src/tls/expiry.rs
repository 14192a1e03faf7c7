//! Warns in the log before the certificate expires.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use tracing::warn;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::Identity;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Number of days before the certificate's expiry in which the log warns of it.
const WARNING_DAYS: u32 = 14;

/// The date and time at which a certificate expires.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry(ASN1Time);

impl Expiry {
    /// Reads the end of a certificate's validity. Returns `None` when it cannot be read; clients then report the fault.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(Self(certificate.validity().not_after))
    }

    /// Returns the end of the validity in seconds since 1970.
    pub(super) fn timestamp_s(self) -> i64 {
        self.0.timestamp()
    }

    /// Returns the warning about the certificate in file `cert` if it expires soon or has expired, else `None`.
    pub(super) fn warning(self, cert: &Path, now: SystemTime) -> Option<String> {
        let now_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
        let left_s = self.timestamp_s() - now_s;
        if left_s > (WARNING_DAYS * DAY).as_secs() as i64 {
            return None;
        }
        let what = if left_s > 0 { "expires" } else { "is refused by clients, since it expired" };
        let date = self.0.to_datetime().date();
        Some(format!(
            "--tls-cert {}: the certificate {what} on {date}; renew it and its key, and send SIGHUP",
            cert.display()
        ))
    }
}

impl Identity {
    /// Warns in the log if the certificate expires soon, now and every day until the identity is dropped.
    ///
    /// # Errors
    /// When the thread for the daily warnings cannot start.
    pub(crate) fn keep_warning(self: &Arc<Self>) -> io::Result<()> {
        self.warn();
        self.each(DAY, Self::warn).map(drop)
    }

    /// Warns in the log if the certificate expires soon or has expired.
    pub(crate) fn warn(&self) {
        if let Some(warning) = self.warning(SystemTime::now()) {
            warn!("{warning}");
        }
    }

    /// Calls `tell` after every `interval`, on a thread that ends when the identity is dropped.
    fn each(
        self: &Arc<Self>,
        interval: Duration,
        tell: impl Fn(&Self) + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let (alive, gone) = channel();
        let identity = Arc::downgrade(self);
        let thread = Builder::new().name("certificate".into()).spawn(move || {
            while gone.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                identity.upgrade().as_deref().into_iter().for_each(&tell);
            }
        })?;
        // The sender is dropped with the identity, which ends the thread.
        let _ = self.alive.set(alive);
        Ok(thread)
    }
}

#[cfg(test)]
mod tests {
    use crate::tls::tests::rig::credentials_until;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_certificate_that_expires_within_two_weeks_causes_a_warning() {
        // The time is 2036-01-31 12:00:00 UTC.
        let end = UNIX_EPOCH + Duration::from_secs(2_085_393_600);
        let identity = Identity::new(credentials_until(end).0);
        assert_eq!(identity.expiry_s(), Some(2_085_393_600));
        assert_eq!(identity.warning(end - 14 * DAY - HOUR), None);
        for (now, part) in [
            (end - 14 * DAY + HOUR, "cert.pem: the certificate expires on 2036-01-31;"),
            (end - HOUR, "the certificate expires on 2036-01-31;"),
            (end + HOUR, "the certificate is refused by clients, since it expired on 2036-01-31;"),
            (end + 1_000 * DAY, "since it expired on 2036-01-31;"),
        ] {
            let warning = identity.warning(now).expect("the certificate expires soon");
            assert!(warning.contains(part) && warning.contains("SIGHUP"), "{warning}");
        }
    }

    #[test]
    fn the_daily_warning_ends_with_the_identity() {
        let identity = Arc::new(Identity::new(credentials_until(SystemTime::now() + HOUR).0));
        let (told, hears) = channel();
        let tell = move |identity: &Identity| {
            let _ = told.send(identity.warning(SystemTime::now()).is_some());
        };
        let thread = identity.each(Duration::from_millis(1), tell).expect("a thread");
        assert_eq!(hears.iter().take(3).collect::<Vec<_>>(), [true; 3]);
        identity.replace(credentials_until(SystemTime::now() + 100 * DAY).0);
        assert!(hears.iter().any(|is_due| !is_due), "the new certificate is looked at");
        drop(identity);
        thread.join().expect("the thread ends");
        let identity = Arc::new(Identity::new(credentials_until(SystemTime::now()).0));
        let thread = identity.each(1_000 * DAY, |_| {}).expect("a thread");
        drop(identity);
        thread.join().expect("the thread ends without waiting for the next day");
    }
}
