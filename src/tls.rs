//! [`Tls`]: a listener's TLS settings, its own certificates and those that it wants of clients.
//!
//! The encrypted bytes are in `transport/tls.rs`.

mod der;
mod files;
mod pem;
mod validity;

use self::files::Certificate;
use crate::sync::{Mutex, lock};
use crate::text::explained;
use futures_rustls::TlsAcceptor;
use futures_rustls::rustls::crypto::{CryptoProvider, ring};
use futures_rustls::rustls::server::WebPkiClientVerifier;
use futures_rustls::rustls::server::danger::ClientCertVerifier;
use futures_rustls::rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use futures_rustls::rustls::{self, InconsistentKeys, RootCertStore, ServerConfig};
use std::fmt;
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
/// A client that only writes, and closes without reading, arrives whole: the session tickets of TLS 1.3 are sent with
/// the first bytes that the handler writes ([`TlsFiles::session_tickets`]).
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
    /// (`fullchain.pem`); the second has the key, unencrypted (PKCS #8, PKCS #1 or SEC 1): ECDSA with P-256 or P-384,
    /// Ed25519, or RSA with 2048 to 4096 bits. Both may be one file. What stands between the sections of PEM is passed
    /// over, as are line ends of other systems and a byte order mark.
    ///
    /// A certificate that has expired, is not valid yet, or expires soon (in less than 7 days, and less than a quarter
    /// of its life) is used with a warning in the log.
    ///
    /// # Errors
    ///
    /// - A file cannot be read, or not as a whole: it is cut off, glued together without a line break, indented,
    ///   encrypted, UTF-16, or in another format.
    /// - There is no certificate in the one, or not exactly one key in the other.
    /// - The key is of an unsupported kind, or does not belong to the first certificate.
    ///
    /// The error names the file, the line, the reason, and what to do, such as a command of openssl. It contains
    /// nothing of the key.
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
    /// was, and the error says so.
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
            return Err(explained(ErrorKind::Unsupported, text));
        };
        let config = files.config().map_err(|error| {
            let text = format!("cannot reload TLS, and what was loaded before stays in use: {error}");
            explained(error.kind(), text)
        })?;
        self.replace(config);
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
    ///
    /// The dates of the clients' certificates are checked, those of the authorities' own are not. A file with a
    /// revocation list is refused, since none is looked at.
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
    /// On other systems than Linux, a client without `TCP_NODELAY` may wait for the kernel's delayed acknowledgement
    /// (40 to 200 ms) between its handshake and its first message, because no ticket carries it. On Linux it is sent at
    /// once.
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
        let chain = files::certificates(&self.certificates)?;
        let key = files::private_key(&self.key, &provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| explained(ErrorKind::Other, error))?;
        let builder = match &self.clients {
            Clients::Anybody => builder.with_no_client_auth(),
            Clients::Asked(path) => builder.with_client_cert_verifier(verifier(path, true, provider)?),
            Clients::Certified(path) => builder.with_client_cert_verifier(verifier(path, false, provider)?),
        };
        let certified = self.certified(&chain, key)?;
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols.clone_from(&self.alpn);
        if let Some(number) = self.session_tickets {
            config.send_tls13_tickets = number;
        }
        validity::warn(&self.certificates, &chain);
        Ok(Arc::new(config))
    }

    /// The certificates and their key; an error if the key is not that of the first.
    fn certified(&self, chain: &[Certificate], key: Arc<dyn SigningKey>) -> io::Result<CertifiedKey> {
        let matches =
            |certificate: &Certificate| CertifiedKey::new(vec![certificate.der.clone()], Arc::clone(&key)).keys_match();
        let (certificates, file) = (self.certificates.display(), self.key.display());
        let text = match chain.first().map(matches) {
            // Not every key tells.
            Some(Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown))) => {
                let chain = chain.iter().map(|certificate| certificate.der.clone()).collect();
                return Ok(CertifiedKey::new(chain, key));
            }
            Some(Err(rustls::Error::InconsistentKeys(_))) => {
                match chain.iter().enumerate().find(|(_, certificate)| matches(certificate).is_ok()) {
                    Some((n, Certificate { line, .. })) => format!(
                        "the certificates in `{certificates}` are in the wrong order: the one of the private key in \
                         `{file}` is number {}, in line {line}; put it first, and after each the one of its issuer",
                        n + 1
                    ),
                    None => format!(
                        "the private key in `{file}` does not belong to the first certificate in `{certificates}`, or \
                         only one of the files has been renewed yet; \
                         `openssl pkey -in {file} -pubout` and `openssl x509 -in {certificates} -noout -pubkey` must \
                         print the same"
                    ),
                }
            }
            Some(Err(error)) => {
                format!("cannot use the certificate in `{certificates}` with the key in `{file}`: {error}")
            }
            None => format!("there is no certificate in `{certificates}`"),
        };
        Err(explained(ErrorKind::InvalidData, text))
    }
}

fn verifier(path: &Path, optional: bool, provider: Arc<CryptoProvider>) -> io::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in files::authorities(path)? {
        roots
            .add(authority.der.clone())
            .map_err(|error| files::no_authority(path, files::no_certificate(path, &authority, &error)))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| files::no_authority(path, error))
}
