//! Reads the files of a [`Tls`](super::Tls): certificates, client authorities, and a private key.
//!
//! Each file is read completely, or refused with an error that names the file, the reason and the remedy. No section is
//! skipped silently.

#[cfg(any(test, fuzzing))]
pub(crate) mod invariants;

use super::der;
use super::pem::{self, Section};
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer};
use futures_rustls::rustls::Error;
use futures_rustls::rustls::crypto::CryptoProvider;
use futures_rustls::rustls::server::ParsedCertificate;
use futures_rustls::rustls::sign::SigningKey;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// A certificate and the line in its file at which it begins.
pub(super) struct Certificate {
    pub(super) der: CertificateDer<'static>,
    pub(super) line: usize,
}

/// Purpose of a file. `Display` is its name in error messages.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Certificates,
    Authorities,
    Key,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificates => "certificate",
            Self::Authorities => "client authority",
            Self::Key => "private key",
        })
    }
}

/// Reads the server's certificates, its own first.
pub(super) fn certificates(path: &Path) -> io::Result<Vec<Certificate>> {
    chain_in(&read(path, Role::Certificates)?, path)
}

fn chain_in(text: &[u8], path: &Path) -> io::Result<Vec<Certificate>> {
    let chain = certificates_in(text, path, Role::Certificates)?;
    if let Some(own) = chain.first() {
        if let Err(error) = ParsedCertificate::try_from(&own.der) {
            return Err(unusable(path, Role::Certificates, no_certificate(path, own, &error)));
        }
    }
    Ok(chain)
}

/// Reads the certificates of client authorities.
pub(super) fn authorities(path: &Path) -> io::Result<Vec<Certificate>> {
    let text = read(path, Role::Authorities)?;
    certificates_in(&text, path, Role::Authorities)
}

/// Returns the error for a certificate that cannot be an authority.
pub(super) fn no_authority(path: &Path, reason: impl fmt::Display) -> io::Error {
    unusable(path, Role::Authorities, reason)
}

/// Explains why a certificate is refused.
pub(super) fn no_certificate(path: &Path, Certificate { der, line }: &Certificate, error: &Error) -> String {
    match der::certificate_version(der) {
        Some(version @ 1..=2) => format!(
            "the certificate that begins in line {line} is of version {version}, which has no extensions; version 3 is \
             needed: issue it again with its names, as `openssl req -x509` does with \
             `-addext subjectAltName=DNS:example.org`"
        ),
        _ => format!(
            "the certificate that begins in line {line} cannot be read ({}); \
             `openssl x509 -in {} -noout -text` shows what OpenSSL reads: copy it again, or have it issued again",
            reason(error),
            path.display()
        ),
    }
}

/// Returns the reason of a rustls error, without the words about a peer that rustls puts before it.
fn reason(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => format!("{error:?}"),
        Error::General(text) => text.clone(),
        error => error.to_string(),
    }
}

/// Returns all certificates of a file; at least one.
fn certificates_in(text: &[u8], path: &Path, role: Role) -> io::Result<Vec<Certificate>> {
    let shown = path.display().to_string();
    let read = || {
        let sections = sections(text, &shown, role)?;
        let mut found = Vec::new();
        for section in &sections {
            if section.label == "CERTIFICATE" {
                let der = section.decode()?;
                let line = section.line;
                der::whole(&der)
                    .map_err(|why| format!("the certificate that begins in line {line} {why}; copy the file again"))?;
                found.push(Certificate { der: der.into(), line });
            } else if let Some(why) = not_for_certificates(section, &shown, role) {
                return Err(format!("line {}: {why}", section.line));
            }
        }
        if found.is_empty() { Err(nothing_found(&sections, role)) } else { Ok(found) }
    };
    read().map_err(|why| unusable(path, role, why))
}

/// Explains why a section in a file of certificates cannot be skipped; `None` if it can.
fn not_for_certificates(section: &Section<'_>, path: &str, role: Role) -> Option<String> {
    let label = section.label.as_str();
    match label {
        "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => Some(format!(
            "`BEGIN {label}` is a form of OpenSSL's own; `openssl x509 -in {path} -out {path}.new` writes the usual one"
        )),
        "PKCS7" | "PKCS #7 SIGNED DATA" | "CMS" => Some(format!(
            "`BEGIN {label}` holds certificates in another form: \
             `openssl pkcs7 -in {path} -print_certs -out {path}.new` takes them out"
        )),
        "X509 CRL" if role == Role::Authorities => Some(
            "revocation lists are not looked at; remove it, or build the verifier for `Tls::from_config`".to_owned(),
        ),
        // Sections that stand beside certificates in files that are used for several purposes.
        "X509 CRL" | "PUBLIC KEY" | "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => None,
        _ if label.ends_with("PRIVATE KEY") || label.ends_with("PARAMETERS") => None,
        _ => Some(format!(
            "`BEGIN {label}` is not known; certificates begin with `-----BEGIN CERTIFICATE-----`: correct or remove it"
        )),
    }
}

/// Reads the private key, ready to sign. An error if the file has more than one.
pub(super) fn private_key(path: &Path, provider: &CryptoProvider) -> io::Result<Arc<dyn SigningKey>> {
    key_in(&read(path, Role::Key)?, path, provider)
}

fn key_in(text: &[u8], path: &Path, provider: &CryptoProvider) -> io::Result<Arc<dyn SigningKey>> {
    let shown = path.display().to_string();
    let read = || {
        let sections = sections(text, &shown, Role::Key)?;
        let keys: Vec<_> = sections.iter().filter(|section| section.label.ends_with("PRIVATE KEY")).collect();
        match keys[..] {
            [] => Err(nothing_found(&sections, Role::Key)),
            [key] => signing_key(key, &shown, provider),
            [..] => {
                let lines: Vec<_> = keys.iter().map(|key| key.line.to_string()).collect();
                Err(format!(
                    "it has {} private keys, in lines {}; keep the one of the certificate",
                    keys.len(),
                    lines.join(" and ")
                ))
            }
        }
    };
    read().map_err(|why| unusable(path, Role::Key, why))
}

const SUPPORTED: &str = "supported are ECDSA with P-256 or P-384, Ed25519, and RSA with 2048 to 4096 bits: \
    make a key such as `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem`, \
    and have a certificate issued for it";

/// Decodes a section with a private key.
fn signing_key(section: &Section<'_>, path: &str, provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, String> {
    let (label, line) = (section.label.as_str(), section.line);
    if section.encrypted || label == "ENCRYPTED PRIVATE KEY" {
        return Err(format!(
            "the key that begins in line {line} is encrypted; decrypt it: `openssl pkey -in {path} -out {path}.new`"
        ));
    }
    let key: fn(Vec<u8>) -> PrivateKeyDer<'static> = match label {
        "PRIVATE KEY" => |der| PrivateKeyDer::Pkcs8(der.into()),
        "RSA PRIVATE KEY" => |der| PrivateKeyDer::Pkcs1(der.into()),
        "EC PRIVATE KEY" => |der| PrivateKeyDer::Sec1(der.into()),
        "DSA PRIVATE KEY" => return Err(format!("the key that begins in line {line} is DSA; {SUPPORTED}")),
        "OPENSSH PRIVATE KEY" => {
            return Err(format!(
                "the key that begins in line {line} is in OpenSSH's own form; on a copy of it, \
                 `ssh-keygen -p -m PKCS8 -N '' -f COPY` writes the usual one"
            ));
        }
        _ => {
            return Err(format!(
                "the key that begins in line {line} is in an unknown form, `BEGIN {label}`; \
                 `openssl pkey -in {path} -out {path}.new` may write the usual one"
            ));
        }
    };
    let der = section.decode()?;
    der::whole(&der).map_err(|why| format!("the key that begins in line {line} {why}; copy the file again"))?;
    let kind = der::key_kind(label, &der);
    provider.key_provider.load_private_key(key(der)).map_err(|error| match kind.as_deref() {
        Some(kind) if !is_supported(kind) => {
            format!("the key that begins in line {line} is {kind}; {SUPPORTED}")
        }
        _ => format!(
            "the key that begins in line {line} cannot be read ({}); \
             `openssl pkey -in {path} -check -out {path}.new` checks it and writes it anew",
            reason(&error)
        ),
    })
}

/// Returns whether keys of this kind are supported, so that a refused key has another fault.
fn is_supported(kind: &str) -> bool {
    let rsa_bits = kind.strip_prefix("RSA with ").and_then(|rest| rest.strip_suffix(" bits")?.parse().ok());
    rsa_bits.map_or_else(
        || ["ECDSA with P-256", "ECDSA with P-384", "Ed25519"].contains(&kind),
        |bits: u32| (2048..=4096).contains(&bits),
    )
}

/// Returns the sections of a file. It is an error if the file is not a PEM file.
fn sections<'a>(text: &'a [u8], path: &str, role: Role) -> Result<Vec<Section<'a>>, String> {
    if text.trim_ascii().is_empty() {
        return Err("it is empty".to_owned());
    }
    match der::file(text) {
        Some(der::File::Pkcs12) => Err(format!(
            "it is PKCS #12 (`.pfx`, `.p12`) and not PEM: `openssl pkcs12 -in {path} {}`",
            match role {
                Role::Certificates => format!("-nokeys -out {path}.new"),
                Role::Authorities => format!("-nokeys -cacerts -out {path}.new"),
                Role::Key => format!("-nocerts -nodes -out {path}.new"),
            }
        )),
        Some(der::File::Certificate) => {
            Err(format!("it is DER and not PEM: `openssl x509 -inform DER -in {path} -out {path}.new`"))
        }
        Some(der::File::Key) => {
            Err(format!("it is DER and not PEM: `openssl pkey -inform DER -in {path} -out {path}.new`"))
        }
        None => pem::sections(text, path, role == Role::Key),
    }
}

/// Explains that the file has no section of the kind that is needed, and what it has instead.
fn nothing_found(sections: &[Section<'_>], role: Role) -> String {
    let has = |label: &str| sections.iter().any(|section| section.label.ends_with(label));
    let wanted = if role == Role::Key { "`BEGIN PRIVATE KEY`" } else { "`BEGIN CERTIFICATE`" };
    let why = if role == Role::Key && has("CERTIFICATE") {
        ", but a certificate: are the two files swapped?"
    } else if role == Role::Certificates && has("PRIVATE KEY") {
        ", but a private key: are the two files swapped?"
    } else if has("CERTIFICATE REQUEST") {
        ", but a request for a certificate: name the file that the authority sent for it"
    } else if has("PUBLIC KEY") {
        ", but a public key: name the file that was made together with it"
    } else {
        ": is it the right file?"
    };
    format!("there is no {wanted} in it{why}")
}

fn read(path: &Path, role: Role) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        let text = format!("cannot read the {role} file `{}`: {}", path.display(), unreadable(path, role, &error));
        crate::text::explained(error.kind(), text)
    })
}

/// Explains why a file cannot be read, and what to do.
fn unreadable(path: &Path, role: Role, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => match (fs::read_link(path), std::env::current_dir()) {
            (Ok(target), _) => {
                format!("{error}; it is a symbolic link to `{}`: make it lead to a file", target.display())
            }
            (_, Ok(folder)) if path.is_relative() => {
                format!("{error}; the path is relative to the working directory, `{}`: check both", folder.display())
            }
            _ => format!("{error}; check the path"),
        },
        ErrorKind::PermissionDenied => {
            format!("{error}; let {} read the file, and enter all folders above it", user())
        }
        ErrorKind::IsADirectory => {
            let name = if role == Role::Key { "privkey.pem" } else { "fullchain.pem" };
            format!("it is a folder; name the file in it, such as `{}`", path.join(name).display())
        }
        _ => error.to_string(),
    }
}

/// Names the user that needs the permission to read.
fn user() -> String {
    #[cfg(unix)]
    return format!("this program's user, number {},", rustix::process::geteuid().as_raw());
    #[cfg(not(unix))]
    "this program's user".to_owned()
}

/// Returns the error for a file with the wrong content.
fn unusable(path: &Path, role: Role, reason: impl fmt::Display) -> io::Error {
    let text = format!("cannot use the {role} file `{}`: {reason}", path.display());
    crate::text::explained(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A unit test with a made-up error: tests may run as root, which may read everything.
    #[test]
    fn an_error_of_permission_names_the_user_that_needs_to_read() {
        let text = unreadable(Path::new("/etc/key.pem"), Role::Key, &ErrorKind::PermissionDenied.into());
        assert!(
            text.starts_with("permission denied; let this program's user") && text.contains("read the file"),
            "{text}"
        );
        #[cfg(unix)]
        assert!(text.contains(&format!("number {}", rustix::process::geteuid().as_raw())), "{text}");
    }
}
