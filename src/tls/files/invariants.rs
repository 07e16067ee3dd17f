//! Checks what is read from a file of certificates or a key, on any bytes: for the tests and for the fuzzer.
//!
//! 1. No certificate is skipped: whatever the reader of rustls finds in a file that is accepted is there, and each line
//!    with `-BEGIN CERTIFICATE`, damaged or not, is one certificate.
//! 2. A key that is accepted is the one that the reader of rustls finds.
//! 3. An error is one line, names the file, and shows nothing of a key.

use super::super::pem::contains;
use super::{Role, certificates_in, chain_in, key_in};
use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer};
use futures_rustls::rustls::crypto::{CryptoProvider, ring};
use std::io::{self, ErrorKind};
use std::path::Path;

const PATH: &str = "x.pem";

/// The length of a part of a key that an error must not show. (It may show the label of a section, which is in capitals.)
const SECRET: usize = 12;

/// Reads the bytes as each kind of file.
///
/// # Panics
///
/// If an invariant is broken.
pub(crate) fn check(bytes: &[u8]) -> &'static str {
    let path = Path::new(PATH);
    let authorities = check_certificates(bytes, Role::Authorities);
    let chain = check_certificates(bytes, Role::Certificates);
    match chain_in(bytes, path) {
        Ok(_) => assert!(chain),
        Err(error) => check_error(&error, "certificate"),
    }
    let key = check_key(bytes, &ring::default_provider());
    match (chain || authorities, key) {
        (true, true) => "certificates and a key",
        (true, false) => "certificates",
        (false, true) => "a key",
        (false, false) => "refused",
    }
}

/// Returns whether the file is accepted.
fn check_certificates(bytes: &[u8], role: Role) -> bool {
    let found = match certificates_in(bytes, Path::new(PATH), role) {
        Ok(found) => found,
        Err(error) => {
            check_error(&error, &role.to_string());
            return false;
        }
    };
    let lines = bytes.split(|byte| b"\r\n".contains(byte)).filter(|line| !line.trim_ascii_start().starts_with(b"#"));
    let begins = lines.filter(|line| contains(line, b"-BEGIN CERTIFICATE") && !contains(line, b" REQUEST")).count();
    assert_eq!(found.len(), begins, "each line with `-BEGIN CERTIFICATE`, damaged or not, is a certificate");
    let mut ours = found.iter();
    for theirs in CertificateDer::pem_slice_iter(bytes).filter_map(Result::ok) {
        assert!(ours.any(|ours| ours.der == theirs), "a certificate is missing, or in another place");
    }
    true
}

/// Returns whether the file is accepted.
fn check_key(bytes: &[u8], provider: &CryptoProvider) -> bool {
    match key_in(bytes, Path::new(PATH), provider) {
        Ok(ours) => {
            let theirs = PrivateKeyDer::from_pem_slice(bytes).map(|key| provider.key_provider.load_private_key(key));
            if let Ok(theirs) = theirs {
                let theirs = theirs.expect("rustls accepts the key");
                assert_eq!(ours.public_key(), theirs.public_key(), "the same key");
            }
            true
        }
        Err(error) => {
            check_error(&error, "private key");
            let shown = error.to_string();
            let runs = bytes.split(|byte| !byte.is_ascii_alphanumeric() && !b"+/".contains(byte));
            for run in runs.filter(|run| run.len() >= SECRET) {
                let is_shown = |part: &[u8]| contains(shown.as_bytes(), part);
                let mut parts = run.windows(SECRET).filter(|part| part.iter().any(u8::is_ascii_lowercase));
                let is_shown = parts.any(is_shown);
                assert!(!is_shown, "the error shows a part of a key: {shown}");
            }
            false
        }
    }
}

fn check_error(error: &io::Error, role: &str) {
    let shown = error.to_string();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{shown}");
    assert!(shown.starts_with(&format!("cannot use the {role} file `{PATH}`: ")), "{shown}");
    assert!(!shown.contains(char::is_control) && shown.len() < 1000, "{shown:?}");
}

#[cfg(test)]
mod tests {
    use crate::random_bytes::{Inputs, run};
    use rcgen::{CertificateParams, KeyPair};

    #[test]
    fn random_bytes_in_files_of_certificates_and_keys_are_read_whole_or_refused() {
        let key = KeyPair::generate().unwrap();
        let certificate = |name: &str| {
            let params = CertificateParams::new([name.to_owned()]).unwrap();
            params.self_signed(&key).unwrap().pem().replace("\r\n", "\n")
        };
        let (one, two) = (certificate("one"), certificate("two"));
        let secret = key.serialize_pem().replace("\r\n", "\n");
        let seeds = [
            one.clone(),
            format!("{one}{two}"),
            secret.clone(),
            format!("# comment\n{secret}\ntext\n{one}"),
            format!("\u{feff}{}", two.replace('\n', "\r\n")),
            one.replace("BEGIN CERTIFICATE", "BEGIN TRUSTED CERTIFICATE"),
            secret.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n"),
        ];
        let damaged = two.replace("-----BEGIN", "----BEGIN").replace("CERTIFICATE-----\n", "CERTIFICATE----\n");
        let mut seeds: Vec<_> = seeds.into_iter().map(String::into_bytes).collect();
        seeds.push(key.serialize_der());
        seeds.push(format!("{one}{damaged}").into_bytes());
        let valid = ["certificates", "certificates", "a key", "certificates and a key", "certificates"];
        for (seed, expected) in seeds.iter().zip(valid) {
            assert_eq!(super::check(seed), expected, "{}", seed.escape_ascii());
        }
        let parts: &[&[u8]] = &[
            b"-----BEGIN CERTIFICATE-----\n",
            b"-----END CERTIFICATE-----\n",
            b"-----BEGIN PRIVATE KEY-----\n",
            b"-----END PRIVATE KEY-----\n",
            b"-----",
            b"BEGIN ",
            b"END ",
            b"\n",
            b"\r",
            b"\r\n",
            b" ",
            b"#",
            b"=",
            b"\xe2\x80\x94",
            b"\xEF\xBB\xBF",
            b"MIIB",
            b"Proc-Type: 4,ENCRYPTED\n",
            one.as_bytes(),
            secret.as_bytes(),
        ];
        let kinds = ["certificates", "a key", "certificates and a key", "refused"];
        run(300, &Inputs { seeds, parts }, &kinds, super::check);
    }
}
