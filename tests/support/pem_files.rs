//! PEM files for the tests of loading them: valid ones, and the parts that damaged ones are made of.

use super::files::Folder;
use super::secured::TlsFixture;
use ebbtide::Tls;
use pem::{EncodeConfig, LineEnding, Pem, encode_config};
use std::path::PathBuf;
use std::sync::Arc;

/// The files that a test loads.
pub struct Files {
    pub folder: Folder,
    pub certificates: PathBuf,
    pub key: PathBuf,
    /// For `client_ca`.
    pub authorities: Option<PathBuf>,
}

/// Valid PEM texts, which a test then damages.
pub struct Good {
    pub house: Arc<TlsFixture>,
    /// The server's certificate, and then its issuer's.
    pub chain: String,
    /// The server's certificate.
    pub leaf: String,
    /// The issuer's certificate.
    pub issuer: String,
    /// The server's key.
    pub key: String,
}

impl Good {
    pub fn new() -> Self {
        let house = TlsFixture::new();
        let chain = unix(&std::fs::read_to_string(&house.server.certificates).unwrap());
        let issuer = unix(house.authority.pem());
        let leaf = chain.strip_suffix(&issuer).unwrap().to_owned();
        let key = unix(&std::fs::read_to_string(&house.server.key).unwrap());
        Self { house: Arc::new(house), chain, leaf, issuer, key }
    }

    /// Writes the chain and the key into a new folder.
    pub fn files(&self) -> Files {
        let folder = Folder::new();
        let (certificates, key) = (folder.write("cert.pem", &self.chain), folder.write("key.pem", &self.key));
        Files { folder, certificates, key, authorities: None }
    }
}

/// Returns the text with LF for CR LF.
pub fn unix(text: &str) -> String {
    text.replace("\r\n", "\n")
}

/// Which of the files a test damages.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum File {
    Certificates,
    Key,
    Authorities,
}

impl Files {
    pub fn write(&mut self, file: File, content: &[u8]) -> PathBuf {
        let path = match file {
            File::Certificates => self.certificates.clone(),
            File::Key => self.key.clone(),
            File::Authorities => self.authorities.insert(self.folder.path("authorities.pem")).clone(),
        };
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn load(&self) -> std::io::Result<Tls> {
        let files = Tls::files(&self.certificates, &self.key);
        match &self.authorities {
            Some(path) => files.client_ca(path).load(),
            None => files.load(),
        }
    }
}

pub fn pem(label: &str, der: Vec<u8>) -> String {
    encode_config(&Pem::new(label, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

pub fn der(pem: &str) -> Vec<u8> {
    pem::parse(pem).unwrap().into_contents()
}

/// Returns a DER element: tag, length, content.
pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut element = vec![tag];
    match content.len() {
        length @ 0..0x80 => element.push(length as u8),
        length @ 0x80..0x100 => element.extend([0x81, length as u8]),
        length => element.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    element.extend(content);
    element
}

/// Returns the elements of a DER sequence. The sequence is longer than 127 bytes.
pub fn elements(sequence: &[u8]) -> Vec<&[u8]> {
    let length = |der: &[u8]| match der[1] {
        short @ 0..0x80 => (2, usize::from(short)),
        ..=0x81 => (3, usize::from(der[2])),
        _ => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
    };
    let mut rest = &sequence[length(sequence).0..];
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (head, content) = length(rest);
        let (element, after) = rest.split_at(head + content);
        elements.push(element);
        rest = after;
    }
    elements
}

/// Returns the certificate without its version and its extensions: an X.509 certificate of version 1.
pub fn of_version_1(certificate: &str) -> String {
    let certificate = der(certificate);
    let [tbs, algorithm, signature] = elements(&certificate)[..] else { panic!("three parts") };
    let fields = elements(tbs);
    let tbs = element(0x30, &fields[1..fields.len() - 1].concat());
    pem("CERTIFICATE", element(0x30, &[&tbs, algorithm, signature].concat()))
}

/// Returns a key in PKCS #8, of this algorithm.
pub fn key_of(oid: &[u8], parameters: &[u8]) -> String {
    let algorithm = element(0x30, &[element(6, oid), parameters.to_vec()].concat());
    pem("PRIVATE KEY", element(0x30, &[vec![2, 1, 0], algorithm, element(4, &[7; 32])].concat()))
}

/// Returns the first part of an RSA key in PKCS #1: as much as shows its size.
pub fn rsa_key(bits: usize) -> String {
    let modulus = [vec![0], vec![0xF1; bits / 8]].concat();
    pem("RSA PRIVATE KEY", element(0x30, &[vec![2, 1, 0], element(2, &modulus), vec![2, 3, 1, 0, 1]].concat()))
}

/// Returns the lines of `text` whose numbers, from 1, satisfy `which`.
pub fn lines(text: &str, which: impl Fn(usize) -> bool) -> String {
    let lines = text.lines().enumerate().filter(|(n, _)| which(n + 1));
    lines.map(|(_, line)| format!("{line}\n")).collect()
}

/// Returns `text` in UTF-16, with a byte order mark if `mark` is set.
pub fn utf_16(text: &str, bytes: fn(u16) -> [u8; 2], mark: bool) -> Vec<u8> {
    mark.then_some(0xFEFF).into_iter().chain(text.encode_utf16()).flat_map(bytes).collect()
}
