//! Warns of certificates that have expired, are not valid yet, or expire soon.
//!
//! rustls has no public function for a certificate's dates, so [`Validity::of`] reads them out of its verifier's
//! errors.

use super::files::Certificate;
use crate::panic::log_line;
use futures_rustls::pki_types::{CertificateDer, UnixTime};
use futures_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use futures_rustls::rustls::server::ParsedCertificate;
use futures_rustls::rustls::{CertificateError, Error, RootCertStore};
use std::fmt;
use std::path::Path;
use std::time::Duration;

const DAY: u64 = 24 * 60 * 60;

/// "Soon" is less than this, since automatic renewal is done weeks before; and less than one [`SOON_OF_LIFE`]th of the
/// certificate's lifetime, for certificates that live for days.
const SOON: u64 = 7 * DAY;
const SOON_OF_LIFE: u64 = 4;

/// Logs a warning for every certificate in the file that clients refuse, or will refuse soon.
pub(super) fn warn(path: &Path, chain: &[Certificate]) {
    let now = UnixTime::now().as_secs();
    for (n, certificate) in chain.iter().enumerate() {
        if let Some(text) = Validity::of(&certificate.der).and_then(|validity| validity.warning(now)) {
            let file = path.display();
            let which = match chain.len() {
                1 => String::new(),
                all => format!(" {} of {all}", n + 1),
            };
            let line = certificate.line;
            log_line!(warn, file:% = file; "certificate{which} in `{file}`, line {line}: {text}");
        }
    }
}

/// The first and the last second in which a certificate is valid, in seconds since 1970.
#[derive(Debug, PartialEq)]
struct Validity {
    not_before: u64,
    not_after: u64,
}

impl Validity {
    /// Reads the dates of a certificate; `None` if it cannot be read. (rustls reads only the first certificate of a
    /// chain, so the others may be damaged.)
    fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = ParsedCertificate::try_from(certificate).ok()?;
        // The verifier checks the dates before anything else, and its error has the date that does not hold.
        let verified_at = |seconds| {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            verify_server_cert_signed_by_trust_anchor(&certificate, &RootCertStore::empty(), &[], now, &[])
        };
        let not_before = match verified_at(0) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                not_before.as_secs()
            }
            _ => 0, // since 1970
        };
        match verified_at(u64::MAX) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                Some(Self { not_before, not_after: not_after.as_secs() })
            }
            _ => None, // it ends before it begins
        }
    }

    /// Returns the text of the warning at the time `now`, if there is one.
    fn warning(&self, now: u64) -> Option<String> {
        const REMEDY: &str = "renew it, and call `Tls::reload` or start the program again";
        let &Self { not_before, not_after } = self;
        let (begin, end, clock) = (Date(not_before), Date(not_after), Date(now));
        if now < not_before {
            let wait = Days(not_before - now);
            Some(format!(
                "it is not valid before {begin}, in {wait}, and clients refuse it; is this machine's clock right, \
                 {clock}?"
            ))
        } else if now > not_after {
            Some(format!("it has expired on {end}, {} ago, and clients refuse it; {REMEDY}", Days(now - not_after)))
        } else if not_after - now < SOON.min((not_after - not_before) / SOON_OF_LIFE) {
            Some(format!("it expires on {end}, in {}; {REMEDY}", Days(not_after - now)))
        } else {
            None
        }
    }
}

/// Shows a number of seconds in days, below two days in hours, below one hour in minutes.
struct Days(u64);

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (n, unit) = match self.0 {
            0..3_600 => (self.0 / 60, "minute"),
            3_600..172_800 => (self.0 / 3_600, "hour"),
            _ => (self.0 / DAY, "day"),
        };
        write!(f, "{n} {unit}{}", if n == 1 { "" } else { "s" })
    }
}

/// Shows seconds since 1970 as a date and time.
struct Date(u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Years that begin in March have their leap day at the end. 400 years have 146,097 days.
        let (days, second) = (self.0 / DAY, self.0 % DAY);
        let days = days + 719_468; // since 1 March of the year 0
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153; // 0 is March
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, january) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + january;
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3_600, second / 60 % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_735_689_600, "2025-01-01 00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59 UTC"),
        ] {
            assert_eq!(Date(seconds).to_string(), date);
        }
        let _ = Date(u64::MAX).to_string();
    }

    #[test]
    fn warnings_depend_on_the_time_that_is_left() {
        const LONG: Validity = Validity { not_before: 100 * DAY, not_after: 190 * DAY };
        const SHORT: Validity = Validity { not_before: 100 * DAY, not_after: 106 * DAY };
        for (validity, now, begins) in [
            (&LONG, 95 * DAY, "it is not valid before 1970-04-11 00:00 UTC, in 5 days"),
            (&LONG, 100 * DAY, ""),
            (&LONG, 183 * DAY, ""),
            (&LONG, 183 * DAY + 1, "it expires on 1970-07-10 00:00 UTC, in 6 days; renew it"),
            (&LONG, 190 * DAY, "it expires on 1970-07-10 00:00 UTC, in 0 minutes"),
            (
                &LONG,
                190 * DAY + 7_200,
                "it has expired on 1970-07-10 00:00 UTC, 2 hours ago, and clients refuse it; renew",
            ),
            (&SHORT, 104 * DAY, ""),
            (&SHORT, 105 * DAY, "it expires on 1970-04-17 00:00 UTC, in 24 hours"),
        ] {
            let text = validity.warning(now).unwrap_or_default();
            assert!(text.starts_with(begins) && text.is_empty() == begins.is_empty(), "{now}: {text}");
        }
    }
}
