//! [`Tls`]: a listener's TLS settings, its own certificates and those that it wants of clients.
//!
//! The encrypted bytes are in `transport/tls.rs`.

use crate::sync::{Mutex, lock};
use futures_rustls::TlsAcceptor;
use futures_rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use futures_rustls::rustls::crypto::{CryptoProvider, ring};
use futures_rustls::rustls::server::WebPkiClientVerifier;
use futures_rustls::rustls::server::danger::ClientCertVerifier;
use futures_rustls::rustls::{self, InconsistentKeys, RootCertStore, ServerConfig};
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// TLS for a listener: its certificate and what clients have to show (feature `tls`).
///
/// Given to [`ListenOptions::tls`](crate::ListenOptions::tls) or [`Listener::tls`](crate::Listener::tls); the handler
/// then reads and writes plain bytes. TLS 1.2 and 1.3, by rustls.
///
/// Clones are the same thing: [`reload`](Self::reload) on one of them is for all, while they serve. Connections that
/// there are keep what they have begun with.
///
/// # What connections promise
///
/// The handshake runs in the connection's own child, so no slow client holds up the others: see
/// [`Server::handshake_timeout`](crate::Server::handshake_timeout). On every orderly end, which is all but a cancel and
/// a drop, the client is sent `close_notify`, after the last bytes; without it the client knows that it was cut
/// off. (A client that is closed for its silence gets it only if the socket takes it at once.)
/// The other way round the end of a client that leaves without `close_notify` is read as an error (`UnexpectedEof`) and
/// not as the end, because any party in between could have cut the line.
///
/// What is written is on its way at once if the socket takes it. Where the client does not read, up to 64 KiB stay with
/// us until the handler writes again, reads, flushes or ends: flush before waiting for something else.
///
/// A client that only writes, and closes without reading, arrives whole: the session tickets of TLS 1.3 are sent with the
/// first bytes that the handler writes ([`TlsFiles::session_tickets`]).
///
/// # Examples
///
/// ```no_run
/// # async fn example(handler: fn(ebbtide::Connection) -> std::future::Ready<()>) -> std::io::Result<()> {
/// use ebbtide::{ListenOptions, Server, Tls};
///
/// let tls = Tls::from_pem_files("/etc/echo/cert.pem", "/etc/echo/key.pem")?;
/// let server = Server::bind_with("[::]:4433", &ListenOptions::new().tls(&tls)).await?;
/// // Whenever the certificate was renewed: tls.reload()?
/// server.serve(handler).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Tls {
    inner: Arc<TlsState>,
}

struct TlsState {
    /// What new connections begin with. The lock is held for the length of a clone or a replacement.
    config: Mutex<Arc<ServerConfig>>,
    /// Where it comes from, if from files.
    files: Option<TlsFiles>,
}

impl Tls {
    /// A certificate and its private key, from PEM files: the same as `Tls::files(..).load()`.
    ///
    /// The first file has the server's certificate, and after it those of the authorities between it and the root
    /// (`fullchain.pem`); the second has the key (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// # Errors
    ///
    /// Where a file cannot be read, does not have what it should, or the key is not the certificate's. The error names
    /// the file and the reason.
    pub fn from_pem_files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> io::Result<Self> {
        Self::files(certificates, key).load()
    }

    /// A certificate and its key from PEM files, as in [`from_pem_files`](Self::from_pem_files), with further settings;
    /// [`TlsFiles::load`] reads them.
    pub fn files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> TlsFiles {
        TlsFiles {
            certificates: certificates.as_ref().into(),
            key: key.as_ref().into(),
            alpn: Vec::new(),
            clients: Clients::Anybody,
            session_tickets: None,
        }
    }

    /// A configuration of rustls's own, for everything that there is no method for here: several certificates, chosen
    /// by the name that the client asks for; keys that live elsewhere; other versions and ciphers.
    ///
    /// The types are those of [`ebbtide::rustls`](crate::rustls), whose version is a part of this crate's.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self { inner: Arc::new(TlsState { config: Mutex::new(config), files: None }) }
    }

    /// Reads the files again, for the connections that are accepted from now on. On an error everything stays as it
    /// was.
    ///
    /// Reading takes a moment, in which the thread is blocked.
    ///
    /// # Errors
    ///
    /// As for [`from_pem_files`](Self::from_pem_files); and where this does not come from files but from a
    /// configuration: use [`replace`](Self::replace) there.
    pub fn reload(&self) -> io::Result<()> {
        let Some(files) = &self.inner.files else {
            let text = "cannot reload TLS: it was made of a configuration and not of files; use `Tls::replace`";
            return Err(io::Error::new(ErrorKind::Unsupported, text));
        };
        self.replace(files.config()?);
        Ok(())
    }

    /// Another configuration, for the connections that are accepted from now on.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        let old = std::mem::replace(&mut *lock(&self.inner.config), config);
        drop(old); // may be the last of it, and has code of others in it: so without the lock
    }

    /// What a connection begins with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&lock(&self.inner.config)))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner.files {
            Some(files) => f.debug_tuple("Tls").field(files).finish(),
            None => f.debug_struct("Tls").field("files", &None::<()>).finish_non_exhaustive(),
        }
    }
}

/// The files of a [`Tls`], and what else it is to be: made by [`Tls::files`].
#[derive(Clone, Debug)]
#[must_use = "nothing is read before `load`"]
pub struct TlsFiles {
    certificates: PathBuf,
    key: PathBuf,
    alpn: Vec<Vec<u8>>,
    clients: Clients,
    /// `None`: as many as rustls sends.
    session_tickets: Option<usize>,
}

/// Who may connect.
#[derive(Clone, Debug)]
enum Clients {
    /// Nobody is asked for a certificate.
    Anybody,
    /// Who shows a certificate must have it from these authorities.
    Asked(PathBuf),
    /// Everybody must show one.
    Certified(PathBuf),
}

impl TlsFiles {
    /// The protocols that the handler speaks, the preferred first, such as `["h2", "http/1.1"]`. A client that offers
    /// protocols, and none of these, is turned away; [`TlsInfo::alpn_protocol`](crate::TlsInfo::alpn_protocol) tells
    /// what was agreed on. Default: none, and whatever the client offers is ignored.
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// Every client must show a certificate that one of the authorities in this PEM file has issued. Default: none is
    /// asked for. What it has shown is had from [`TlsInfo::peer_certificates`](crate::TlsInfo::peer_certificates).
    pub fn client_ca(mut self, authorities: impl AsRef<Path>) -> Self {
        self.clients = Clients::Certified(authorities.as_ref().into());
        self
    }

    /// As [`client_ca`](Self::client_ca), but a client may show no certificate. One that shows an invalid one is turned
    /// away.
    pub fn optional_client_ca(mut self, authorities: impl AsRef<Path>) -> Self {
        self.clients = Clients::Asked(authorities.as_ref().into());
        self
    }

    /// How many session tickets a client of TLS 1.3 is sent. Each lets it resume its session once: the next handshake
    /// then needs no certificate. 0: none. Default: 2, as rustls does.
    ///
    /// They go out with the first bytes that the handler writes, or with the end of the connection. So a client that
    /// only writes, and closes without reading, loses nothing: with a ticket unread in its receive buffer its kernel
    /// would reset the connection, and what the handler has not read yet would be gone. Where a handler writes to such
    /// clients after all (a greeting, an acknowledgement that they do not read), no setting helps: any byte that the
    /// client leaves unread resets the connection.
    ///
    /// TLS 1.2 is not concerned: its clients resume by a session number.
    #[doc(alias = "send_tls13_tickets")]
    pub fn session_tickets(mut self, number: usize) -> Self {
        self.session_tickets = Some(number);
        self
    }

    /// Reads the files. It takes a moment, in which the thread is blocked.
    ///
    /// # Errors
    ///
    /// As for [`Tls::from_pem_files`].
    pub fn load(self) -> io::Result<Tls> {
        let config = self.config()?;
        Ok(Tls { inner: Arc::new(TlsState { config: Mutex::new(config), files: Some(self) }) })
    }

    fn config(&self) -> io::Result<Arc<ServerConfig>> {
        // By name: a program whose other parts use another provider too has no default one, and rustls would panic.
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(&self.certificates)?;
        let key = private_key(&self.key)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match &self.clients {
            Clients::Anybody => builder.with_no_client_auth(),
            Clients::Asked(path) => builder.with_client_cert_verifier(verifier(path, true, provider)?),
            Clients::Certified(path) => builder.with_client_cert_verifier(verifier(path, false, provider)?),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| self.unusable(&error))?;
        config.alpn_protocols.clone_from(&self.alpn);
        if let Some(number) = self.session_tickets {
            config.send_tls13_tickets = number;
        }
        Ok(Arc::new(config))
    }

    fn unusable(&self, error: &rustls::Error) -> io::Error {
        let (certificates, key) = (self.certificates.display(), self.key.display());
        let text = match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                format!("the private key in `{key}` is not the one of the first certificate in `{certificates}`")
            }
            _ => format!("cannot use the certificate in `{certificates}` with the private key in `{key}`: {error}"),
        };
        io::Error::new(ErrorKind::InvalidData, text)
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = read(path, "certificate")?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(chain) if chain.is_empty() => Err(malformed(path, "certificate", "there is no `BEGIN CERTIFICATE` in it")),
        Ok(chain) => Ok(chain),
        Err(error) => Err(malformed(path, "certificate", error)),
    }
}

fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    let text = read(path, "private key")?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if is_encrypted(&text) => {
            malformed(path, "private key", "it is encrypted; decrypt it first (`openssl pkey -in … -out …`)")
        }
        pem::Error::NoItemsFound => malformed(path, "private key", "there is no `BEGIN PRIVATE KEY` in it"),
        error => malformed(path, "private key", error),
    })
}

fn is_encrypted(text: &[u8]) -> bool {
    let mark = b"BEGIN ENCRYPTED PRIVATE KEY";
    text.windows(mark.len()).any(|window| window == mark)
}

fn verifier(path: &Path, optional: bool, provider: Arc<CryptoProvider>) -> io::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).map_err(|error| malformed(path, "certificate", error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| malformed(path, "certificate", error))
}

fn read(path: &Path, what: &str) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        let text = format!("cannot read the {what} file `{}`: {error}", path.display());
        io::Error::new(error.kind(), text)
    })
}

fn malformed(path: &Path, what: &str, reason: impl fmt::Display) -> io::Error {
    let text = format!("cannot use the {what} file `{}`: {reason}", path.display());
    io::Error::new(ErrorKind::InvalidData, text)
}
