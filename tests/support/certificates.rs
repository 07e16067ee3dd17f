//! A certificate authority for tests, and TLS clients that trust it.

use super::files::Folder;
use ebbtide::rustls::crypto::ring;
use ebbtide::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use ebbtide::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pem: String,
}

/// Paths of the files of a certificate chain and its key.
pub struct Identity {
    pub certificates: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for these names, and writes `FILE.pem` and `FILE.key` into the folder.
    pub fn issue(&self, folder: &Folder, file: &str, names: &[&str]) -> Identity {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        params.use_authority_key_identifier_extension = true; // strict clients require it
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            certificates: folder.write(&format!("{file}.pem"), &(certificate.pem() + &self.pem)),
            key: folder.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }

    /// Returns the configuration of a client that trusts this authority, and that presents `identity` if there is one.
    pub fn client(&self, identity: Option<&Identity>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(chain(&identity.certificates), key(&identity.key)).unwrap(),
        }
    }
}

pub fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().collect::<Result<_, _>>().unwrap()
}

fn key(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).unwrap()
}

/// Blocking TLS client of a server named `localhost`. The handshake happens at its first read or write.
pub type Client = StreamOwned<ClientConnection, TcpStream>;

/// Makes a TLS client of a connected socket.
pub fn secure(socket: TcpStream, config: impl Into<Arc<ClientConfig>>) -> Client {
    let session = ClientConnection::new(config.into(), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(session, socket)
}
