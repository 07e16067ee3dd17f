//! A certificate that clients refuse because of its dates is still loaded, with a warning at each load.
#![cfg(feature = "tls")]

use crate::support::logs;
use crate::support::pem_files::File::{Certificates, Key};
use crate::support::pem_files::Good;
use log::Level;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

/// Issues a self-signed certificate for these years. Returns it and its key.
fn issued(from: i32, to: i32) -> (String, String) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(from, 1, 2), date_time_ymd(to, 3, 4));
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_certificate_that_is_not_valid_now_is_loaded_with_a_warning() {
    let logs = logs::remember();
    let mut files = Good::new().files();
    let (valid, key) = issued(2020, 4000);
    let path = files.write(Certificates, valid.as_bytes()).display().to_string();
    files.write(Key, key.as_bytes());
    let tls = files.load().unwrap();
    assert_eq!(logs.lines_with(&path), [], "a valid certificate gives no warning");

    let (expired, expired_key) = issued(2020, 2021);
    let (early, early_key) = issued(3000, 4000);
    let remedy = "and clients refuse it; renew it, and call `Tls::reload` or start the program again";
    for (content, key, words) in [
        (
            expired.clone(),
            expired_key,
            vec![
                format!("certificate in `{path}`, line 1: it has expired on 2021-03-04 00:00 UTC, "),
                remedy.to_owned(),
            ],
        ),
        (
            early,
            early_key,
            vec![
                format!("certificate in `{path}`, line 1: it is not valid before 3000-01-02 00:00 UTC, in "),
                "and clients refuse it; is this machine's clock right, 2".to_owned(),
            ],
        ),
        (
            format!("{valid}{expired}"), // the second one as if it were an issuer's
            key,
            vec![format!("certificate 2 of 2 in `{path}`, line {}: it has expired on", valid.lines().count() + 1)],
        ),
    ] {
        files.write(Certificates, content.as_bytes());
        files.write(Key, key.as_bytes());
        let load: [&dyn Fn() -> bool; 2] = [&|| files.load().is_ok(), &|| tls.reload().is_ok()];
        for load in load {
            let before = logs.lines_with(&path).len();
            assert!(load(), "the certificate must be loaded all the same");
            let new = &logs.lines_with(&path)[before..];
            println!("{new:#?}");
            assert_eq!(new.len(), 1, "{new:?}");
            assert_eq!(new[0].0, Level::Warn);
            for word in &words {
                assert!(new[0].1.contains(word), "{word}: {new:?}");
            }
        }
    }
}
