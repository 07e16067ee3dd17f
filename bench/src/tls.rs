//! TLS of both sides: TLS 1.3 by rustls with ring, one certificate, and rustls' own settings of sessions.
//!
//! Each server takes the same [`ServerConfig`]: two tickets for each client, and the sessions in a cache of rustls. The
//! client resumes no session, so each connection is a whole handshake.

use std::io;
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{ClientConfig, Resumption};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConnection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};

/// ECDSA with P-256. The key is no secret: it is part of this benchmark, and only of it.
const CERTIFICATE: &[u8] = include_bytes!("tls/localhost.cert.der");
const KEY: &[u8] = include_bytes!("tls/localhost.key.der");

fn failed(error: Error) -> io::Error {
    io::Error::other(format!("cannot configure TLS: {error}"))
}

pub(crate) fn server() -> io::Result<ServerConfig> {
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(CERTIFICATE)], PrivatePkcs8KeyDer::from(KEY).into())
        .map_err(failed)
}

pub(crate) fn client() -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Begins a connection of a client.
pub(crate) fn connection(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}

/// Accepts only this benchmark's certificate, from a server that has its key. That costs the load generator less than
/// to verify a chain.
#[derive(Debug)]
struct Pinned(Arc<CryptoProvider>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if **certificate == *CERTIFICATE {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General("another certificate".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use tokio_rustls::rustls::{ProtocolVersion, ServerConnection};

    /// Does a handshake with a server that has this configuration. Returns the client's end of it.
    fn handshake(config: ServerConfig) -> io::Result<ClientConnection> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let server = std::thread::spawn(move || -> io::Result<()> {
            let mut tls = ServerConnection::new(Arc::new(config)).map_err(failed)?;
            tls.complete_io(&mut listener.accept()?.0).map(drop)
        });
        let mut tls = connection(&client()?)?;
        let result = tls.complete_io(&mut TcpStream::connect(address)?);
        // Its error is that of the client.
        let _ = server.join().expect("no panic");
        result.map(|_| tls)
    }

    #[test]
    fn both_sides_speak_tls_1_3() {
        let tls = handshake(server().unwrap()).unwrap();
        assert_eq!(tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }

    #[test]
    fn the_client_refuses_another_certificate() {
        let mut other = CERTIFICATE.to_vec();
        *other.last_mut().unwrap() ^= 1; // in the signature, which nobody verifies
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(other)], PrivatePkcs8KeyDer::from(KEY).into())
            .unwrap();
        assert!(handshake(config).unwrap_err().to_string().contains("another certificate"));
    }
}
