//! [`Tls`] and [`TlsFiles`]: the TLS settings of a listener, that is its certificate and what it asks of clients.
//!
//! This file turns PEM files into a `rustls::ServerConfig`, and replaces that on a reload. `files` reads the files, on
//! top of `pem` (sections) and `der` (lengths and kinds of keys). `validity` warns of dates. The handshake and the
//! encrypted stream are in `transport/tls.rs`.

mod der;
pub(crate) mod files;
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

/// TLS settings of a listener: its certificate, and which certificates clients must have (feature `tls`).
///
/// Pass it to [`ListenOptions::tls`](crate::ListenOptions::tls) or [`Listener::tls`](crate::Listener::tls). The handler
/// then reads and writes plain bytes. TLS 1.2 and 1.3, by rustls.
///
/// All clones share their settings: [`reload`](Self::reload) on one of them takes effect for all, while servers run.
/// Open connections keep the settings that they began with.
///
/// # What a connection does
///
/// - **Handshake.** It runs in the connection's own task, so a slow client delays no other:
///   [`Server::handshake_timeout`](crate::Server::handshake_timeout) limits it.
/// - **End by the server.** The client gets `close_notify` after the last bytes, at every end except a cancel and a
///   drop. A client that does not get it knows that bytes may be missing. (A client that is closed by a timeout gets it
///   only if the socket takes it at once.)
/// - **End by the client.** A client that closes without `close_notify` gives a read error (`UnexpectedEof`) and not
///   EOF, because anyone on the network path could have cut the connection.
/// - **Writes.** Written bytes are sent at once if the socket takes them. If the client does not read, up to 64 KiB are
///   buffered until the handler writes again, reads, flushes or returns: flush before waiting for something else.
/// - **Clients that only write.** All bytes of a client that writes, and closes without reading, reach the handler: the
///   session tickets of TLS 1.3 are sent with the first bytes that the handler writes
///   ([`TlsFiles::session_tickets`]).
///
/// # Examples
///
/// ```
/// # async_std::task::block_on(async {
/// # let folder = std::env::temp_dir().join(format!("ebbtide-Tls-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
/// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
/// # std::fs::write(&cert, own.cert.pem())?;
/// # std::fs::write(&key, own.signing_key.serialize_pem())?;
/// use ebbtide::{ListenOptions, Server, Tls};
///
/// let tls = Tls::from_pem_files(&cert, &key)?; // such as "/etc/letsencrypt/live/example.org/fullchain.pem"
/// let server = Server::bind_with("127.0.0.1:0", &ListenOptions::new().tls(&tls)).await?;
/// // After each renewal of the certificate, also while the server runs:
/// tls.reload()?;
/// # assert!(server.local_addr().tcp()?.port() > 0);
/// # std::fs::remove_dir_all(folder)?;
/// # std::io::Result::Ok(()) }).unwrap();
/// ```
///
/// `examples/tls.rs` is a whole server.
#[derive(Clone)]
#[doc(alias = "TlsAcceptor")]
#[doc(alias = "ServerConfig")]
#[doc(alias = "ListenAndServeTLS")]
#[doc(alias = "SSLContext")]
#[doc(alias = "SSL")]
#[doc(alias = "HTTPS")]
#[doc(alias = "rustls")]
pub struct Tls {
    inner: Arc<TlsState>,
}

struct TlsState {
    /// The configuration of new connections. The lock is held only for a clone or a replacement.
    config: Mutex<Arc<ServerConfig>>,
    /// The files to reload; `None` after [`Tls::from_config`].
    files: Option<TlsFiles>,
}

impl Tls {
    /// Loads a certificate and its private key from PEM files: the same as `Tls::files(..).load()`.
    ///
    /// - The first file has the server's certificate, followed by those of the intermediate authorities
    ///   (`fullchain.pem`).
    /// - The second file has the private key, not encrypted (PKCS #8, PKCS #1 or SEC 1): ECDSA with P-256 or P-384,
    ///   Ed25519, or RSA with 2048 to 4096 bits.
    ///
    /// One file may hold both. Text between the PEM sections is skipped. LF, CR LF and CR end a line; a byte order mark
    /// is skipped.
    ///
    /// A certificate that has expired, is not valid yet, or expires soon is used, with a warning in the log. Soon means
    /// in less than 7 days, and in less than a quarter of its lifetime.
    ///
    /// The call blocks the thread while it reads the files.
    ///
    /// # Errors
    ///
    /// - A file cannot be read, or is damaged: truncated, joined to another without a line break, indented, encrypted,
    ///   UTF-16, or in another format.
    /// - The first file has no certificate, or the second has no key or more than one.
    /// - The key is of an unsupported kind, or does not belong to the first certificate.
    ///
    /// The error names the file, the line, the reason, and what to do, such as a command of openssl. It contains
    /// nothing of the key.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("ebbtide-from_pem_files-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    /// # std::fs::write(&cert, own.cert.pem())?;
    /// # std::fs::write(&key, own.signing_key.serialize_pem())?;
    /// use ebbtide::{Listener, Tls};
    ///
    /// let (listener, _connector) = Listener::memory();
    /// let listener = listener.tls(&Tls::from_pem_files(&cert, &key)?);
    ///
    /// let error = Tls::from_pem_files(&key, &cert).unwrap_err();
    /// assert!(error.to_string().ends_with("but a private key: are the two files swapped?"));
    /// # std::fs::remove_dir_all(folder)?;
    /// # std::io::Result::Ok(())
    /// ```
    #[doc(alias = "load_cert_chain")]
    #[doc(alias = "LoadX509KeyPair")]
    #[doc(alias = "with_single_cert")]
    pub fn from_pem_files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> io::Result<Self> {
        Self::files(certificates, key).load()
    }

    /// Returns a builder with a certificate and its key in PEM files, for further settings.
    ///
    /// The files are those of [`from_pem_files`](Self::from_pem_files). [`TlsFiles::load`] reads them.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("ebbtide-files-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    /// # std::fs::write(&cert, own.cert.pem())?;
    /// # std::fs::write(&key, own.signing_key.serialize_pem())?;
    /// use ebbtide::Tls;
    ///
    /// let tls = Tls::files(&cert, &key).alpn(["h2", "http/1.1"]).load()?;
    /// assert!(tls.reload().is_ok());
    /// # std::fs::remove_dir_all(folder)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn files(certificates: impl AsRef<Path>, key: impl AsRef<Path>) -> TlsFiles {
        TlsFiles {
            certificates: certificates.as_ref().into(),
            key: key.as_ref().into(),
            alpn: Vec::new(),
            clients: Clients::NotAsked,
            session_tickets: None,
        }
    }

    /// Uses a configuration of rustls.
    ///
    /// For everything that has no method here: several certificates, selected by the name that the client asks for;
    /// keys in hardware or on another machine; other versions and cipher suites.
    ///
    /// The types are those of [`ebbtide::rustls`](crate::rustls). A new major version of rustls is a breaking change of
    /// this crate.
    ///
    /// # Examples
    ///
    /// ```
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
    /// # let certificate = own.cert.der().clone();
    /// # let key = ebbtide::rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
    /// use std::sync::Arc;
    ///
    /// use ebbtide::rustls::ServerConfig;
    /// use ebbtide::{Listener, Tls};
    ///
    /// let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
    /// let tls = Tls::from_config(Arc::new(config));
    /// let (listener, _connector) = Listener::memory();
    /// let listener = listener.tls(&tls);
    /// # assert!(tls.reload().is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "TlsAcceptor")]
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self { inner: Arc::new(TlsState { config: Mutex::new(config), files: None }) }
    }

    /// Reads the files again, for later connections.
    ///
    /// The settings of open connections do not change. After an error the old settings stay in use.
    ///
    /// The call blocks the thread while it reads the files.
    ///
    /// # Errors
    ///
    /// - The errors of [`from_pem_files`](Self::from_pem_files).
    /// - [`Unsupported`](ErrorKind::Unsupported) if this was made by [`from_config`](Self::from_config): use
    ///   [`replace`](Self::replace) then.
    ///
    /// # Examples
    ///
    /// `examples/tls.rs` calls this at SIGHUP.
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("ebbtide-reload-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    /// # std::fs::write(&cert, own.cert.pem())?;
    /// # std::fs::write(&key, own.signing_key.serialize_pem())?;
    /// let tls = ebbtide::Tls::from_pem_files(&cert, &key)?;
    /// tls.reload()?;
    ///
    /// std::fs::write(&cert, "")?; // a renewal that failed
    /// let error = tls.reload().unwrap_err();
    /// assert!(error.to_string().starts_with("cannot reload TLS, and what was loaded before stays in use: "));
    /// # std::fs::remove_dir_all(folder)?;
    /// # std::io::Result::Ok(())
    /// ```
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

    /// Replaces the configuration, for later connections.
    ///
    /// # Examples
    ///
    /// ```
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()])?;
    /// # let certificate = own.cert.der().clone();
    /// # let key = ebbtide::rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der())?;
    /// use std::sync::Arc;
    ///
    /// use ebbtide::{Tls, rustls::ServerConfig};
    ///
    /// let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
    /// let (old, new) = (Arc::new(config.clone()), Arc::new(config));
    /// let tls = Tls::from_config(Arc::clone(&old));
    /// tls.replace(Arc::clone(&new));
    /// assert_eq!((Arc::strong_count(&old), Arc::strong_count(&new)), (1, 2));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn replace(&self, config: Arc<ServerConfig>) {
        let old = std::mem::replace(&mut *lock(&self.inner.config), config);
        drop(old); // without the lock: this may be its last reference, and its destructor runs foreign code
    }

    /// Returns the acceptor for one handshake.
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

/// Builder for a [`Tls`] from PEM files, returned by [`Tls::files`] (feature `tls`).
///
/// # Examples
///
/// ```
/// # let folder = std::env::temp_dir().join(format!("ebbtide-TlsFiles-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
/// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
/// # std::fs::write(&cert, own.cert.pem())?;
/// # std::fs::write(&key, own.signing_key.serialize_pem())?;
/// use ebbtide::Tls;
///
/// let tls = Tls::files(&cert, &key).alpn(["h2", "http/1.1"]).session_tickets(0).load()?;
/// # drop(tls);
/// assert!(Tls::files(&cert, folder.join("other.pem")).load().is_err());
/// # std::fs::remove_dir_all(folder)?;
/// # std::io::Result::Ok(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "call `load`: nothing is read before"]
pub struct TlsFiles {
    /// The file with the server's certificate, followed by those of its intermediate authorities.
    certificates: PathBuf,
    /// The file with the private key.
    key: PathBuf,
    /// The protocols for ALPN, the preferred first. Empty: no ALPN.
    alpn: Vec<Vec<u8>>,
    /// Whether clients are asked for a certificate.
    clients: Clients,
    /// How many tickets a client of TLS 1.3 gets. `None`: the default of rustls.
    session_tickets: Option<usize>,
}

/// Whether clients are asked for a certificate. The path is the file of the authorities.
#[derive(Clone, Debug)]
enum Clients {
    /// Clients are not asked for a certificate.
    NotAsked,
    /// A client may have no certificate. One that it presents must be valid.
    Optional(PathBuf),
    /// A client must present a valid certificate.
    Required(PathBuf),
}

impl TlsFiles {
    /// Sets the application protocols of the handler (ALPN), the preferred first, such as `["h2", "http/1.1"]`.
    ///
    /// [`TlsInfo::alpn_protocol`](crate::TlsInfo::alpn_protocol) returns the negotiated protocol. The handshake of a
    /// client that offers protocols, but none of these, fails. Default: none, and the client's offer is ignored.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("ebbtide-alpn-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    /// # std::fs::write(&cert, own.cert.pem())?;
    /// # std::fs::write(&key, own.signing_key.serialize_pem())?;
    /// let tls = ebbtide::Tls::files(&cert, &key).alpn(["h2", "http/1.1"]).load();
    /// assert!(tls.is_ok());
    /// # std::fs::remove_dir_all(folder)?;
    /// # std::io::Result::Ok(())
    /// ```
    #[doc(alias = "alpn_protocols")]
    #[doc(alias = "NextProtos")]
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec()).collect();
        self
    }

    /// Requires a client certificate that one of the authorities in this PEM file has issued (mutual TLS).
    ///
    /// [`TlsInfo::peer_certificates`](crate::TlsInfo::peer_certificates) returns the client's certificate. Default:
    /// clients are not asked for one.
    ///
    /// The dates of the clients' certificates are checked, those of the authorities are not. A file with a revocation
    /// list is refused, since revocation is not checked.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("ebbtide-client_ca-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    /// # std::fs::write(&cert, own.cert.pem())?;
    /// # std::fs::write(&key, own.signing_key.serialize_pem())?;
    /// # let clients = &cert;
    /// let tls = ebbtide::Tls::files(&cert, &key).client_ca(clients).load();
    /// assert!(tls.is_ok());
    /// # std::fs::remove_dir_all(folder)?;
    /// # std::io::Result::Ok(())
    /// ```
    #[doc(alias = "mtls")]
    #[doc(alias = "mutual TLS")]
    #[doc(alias = "WebPkiClientVerifier")]
    #[doc(alias = "RequireAndVerifyClientCert")]
    pub fn client_ca(mut self, authorities: impl AsRef<Path>) -> Self {
        self.clients = Clients::Required(authorities.as_ref().into());
        self
    }

    /// Asks clients for a certificate as [`client_ca`](Self::client_ca) does, but accepts clients without one.
    ///
    /// The handshake of a client with an invalid certificate fails.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("ebbtide-optional_client_ca-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    /// # std::fs::write(&cert, own.cert.pem())?;
    /// # std::fs::write(&key, own.signing_key.serialize_pem())?;
    /// # let clients = &cert;
    /// let tls = ebbtide::Tls::files(&cert, &key).optional_client_ca(clients).load();
    /// assert!(tls.is_ok());
    /// # std::fs::remove_dir_all(folder)?;
    /// # std::io::Result::Ok(())
    /// ```
    #[doc(alias = "allow_unauthenticated")]
    #[doc(alias = "VerifyClientCertIfGiven")]
    pub fn optional_client_ca(mut self, authorities: impl AsRef<Path>) -> Self {
        self.clients = Clients::Optional(authorities.as_ref().into());
        self
    }

    /// Sets how many session tickets a client of TLS 1.3 gets. Default: 2, as in rustls. 0: none.
    ///
    /// With a ticket a client resumes its session once: the next handshake then needs no certificate. TLS 1.2 is not
    /// affected: its clients resume by a session id.
    ///
    /// Tickets are sent with the first bytes that the handler writes, or at the end of the connection. So a client that
    /// only writes, and closes without reading, loses nothing: if a ticket were unread in its receive buffer, its
    /// kernel would reset the connection, and bytes that the handler has not read yet would be lost. If the handler
    /// itself writes to such clients (a greeting, an acknowledgement that they do not read), no setting helps: any byte
    /// that the client leaves unread resets the connection.
    ///
    /// On systems other than Linux, a client without `TCP_NODELAY` may wait for the kernel's delayed acknowledgement
    /// (40 to 200 ms) between its handshake and its first message, because no ticket carries the acknowledgement. On
    /// Linux it is sent at once.
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("ebbtide-session_tickets-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    /// # std::fs::write(&cert, own.cert.pem())?;
    /// # std::fs::write(&key, own.signing_key.serialize_pem())?;
    /// let tls = ebbtide::Tls::files(&cert, &key).session_tickets(0).load();
    /// assert!(tls.is_ok());
    /// # std::fs::remove_dir_all(folder)?;
    /// # std::io::Result::Ok(())
    /// ```
    #[doc(alias = "SessionTicketsDisabled")]
    #[doc(alias = "send_tls13_tickets")]
    pub fn session_tickets(mut self, number: usize) -> Self {
        self.session_tickets = Some(number);
        self
    }

    /// Reads the files, and returns the TLS settings.
    ///
    /// The call blocks the thread while it reads the files.
    ///
    /// # Errors
    ///
    /// The same as those of [`Tls::from_pem_files`].
    ///
    /// # Examples
    ///
    /// ```
    /// # let folder = std::env::temp_dir().join(format!("ebbtide-load-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    /// # let own = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
    /// # std::fs::write(&cert, own.cert.pem())?;
    /// # std::fs::write(&key, own.signing_key.serialize_pem())?;
    /// use ebbtide::Tls;
    ///
    /// assert!(Tls::files(&cert, &key).load().is_ok());
    /// let error = Tls::files(folder.join("old.pem"), &key).load().unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// # std::fs::remove_dir_all(folder)?;
    /// # std::io::Result::Ok(())
    /// ```
    pub fn load(self) -> io::Result<Tls> {
        let config = self.config()?;
        Ok(Tls { inner: Arc::new(TlsState { config: Mutex::new(config), files: Some(self) }) })
    }

    fn config(&self) -> io::Result<Arc<ServerConfig>> {
        // Named here: if other parts of the program use another provider too, rustls has no default, and would panic.
        let provider = Arc::new(ring::default_provider());
        let chain = files::certificates(&self.certificates)?;
        let key = files::private_key(&self.key, &provider)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| explained(ErrorKind::Other, error))?;
        let builder = match &self.clients {
            Clients::NotAsked => builder.with_no_client_auth(),
            Clients::Optional(path) => builder.with_client_cert_verifier(verifier(path, true, provider)?),
            Clients::Required(path) => builder.with_client_cert_verifier(verifier(path, false, provider)?),
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

    /// Pairs the certificates with their key; an error if the key does not belong to the first certificate.
    fn certified(&self, chain: &[Certificate], key: Arc<dyn SigningKey>) -> io::Result<CertifiedKey> {
        let matches =
            |certificate: &Certificate| CertifiedKey::new(vec![certificate.der.clone()], Arc::clone(&key)).keys_match();
        let (certificates, file) = (self.certificates.display(), self.key.display());
        let text = match chain.first().map(matches) {
            // `Unknown`: some keys do not show their public half.
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

/// Returns the verifier for certificates of clients, issued by the authorities in the file `path`.
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
