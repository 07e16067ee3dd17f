//! A listener of each kind, and how its clients connect, so that one test can run over all kinds.
//!
//! Another kind needs one more variant of `Kind`, and its arms in `open`, `connect` and `left_behind`.
use super::files::Folder;
use super::{BoxedStream, NET, loopback, tcp};
use async_io::Async;
use async_std::future;
use async_std::io::{Read, ReadExt, Write, WriteExt};
use ebbtide::{Connector, Listener};
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Kind of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    #[cfg(unix)]
    Unix,
    Memory,
    #[cfg(feature = "tls")]
    Tls,
}

impl Kind {
    pub fn is_encrypted(self) -> bool {
        #[cfg(feature = "tls")]
        return self == Self::Tls;
        #[cfg(not(feature = "tls"))]
        false
    }

    pub const ALL: &[Self] = &[
        Self::Tcp,
        #[cfg(unix)]
        Self::Unix,
        Self::Memory,
        #[cfg(feature = "tls")]
        Self::Tls,
    ];

    /// Returns a listener, and the place where its clients connect.
    pub fn open(self) -> (Listener, Place) {
        let folder = Folder::new();
        let (listener, to) = match self {
            Self::Tcp => {
                let listener = Listener::tcp(loopback()).unwrap();
                let address = tcp(listener.local_addr());
                (listener, To::Tcp(address))
            }
            #[cfg(unix)]
            Self::Unix => {
                let path = folder.path("way.sock");
                (Listener::unix(&path).unwrap(), To::Unix(path))
            }
            Self::Memory => {
                let (listener, connector) = Listener::memory();
                (listener, To::Memory(connector))
            }
            #[cfg(feature = "tls")]
            Self::Tls => {
                let (tls, config) = over_tls::ends();
                let listener = Listener::tcp(loopback()).unwrap().tls(&tls);
                let address = tcp(listener.local_addr());
                (listener, To::Tls(address, config))
            }
        };
        (listener, Place { kind: self, to, folder })
    }
}

/// Where a server listens.
pub struct Place {
    pub kind: Kind,
    to: To,
    /// Where the file of a Unix socket is.
    folder: Folder,
}

enum To {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Memory(Connector),
    #[cfg(feature = "tls")]
    Tls(SocketAddr, over_tls::Trusting),
}

/// Client's end of a connection. Closing it is a half-close.
pub type Client = BoxedStream;

impl Place {
    /// Returns the place of a TCP server that the test has bound itself.
    pub fn over_tcp(address: SocketAddr) -> Self {
        Self { kind: Kind::Tcp, to: To::Tcp(address), folder: Folder::new() }
    }

    /// Connects a client, as far as that is possible before the server accepts it.
    pub async fn connect(&self) -> io::Result<Client> {
        Ok(self.connect_from().await?.1)
    }

    /// Does the same, and also returns the client's socket address, if it has one.
    async fn connect_from(&self) -> io::Result<(Option<SocketAddr>, Client)> {
        Ok(match &self.to {
            To::Tcp(address) => {
                let socket = Async::<TcpStream>::connect(*address).await?;
                let from = socket.get_ref().local_addr()?;
                (Some(from), Box::pin(Socket(socket, |socket| socket.shutdown(Shutdown::Write))))
            }
            #[cfg(unix)]
            To::Unix(path) => {
                let socket = Async::<UnixStream>::connect(path).await?;
                (None, Box::pin(Socket(socket, |socket| socket.shutdown(Shutdown::Write))))
            }
            #[cfg(not(unix))]
            To::Unix(_) => unreachable!("this system has no Unix sockets"),
            To::Memory(connector) => (None, Box::pin(connector.connect().await?)),
            #[cfg(feature = "tls")]
            To::Tls(address, trusting) => {
                let (from, client) = over_tls::connect(*address, trusting).await?;
                (Some(from), Box::pin(client))
            }
        })
    }

    /// Connects a client that sends these bytes.
    pub async fn say(&self, words: &[u8]) -> Client {
        self.say_from(words).await.1
    }

    /// Does the same, and also returns the client's socket address, if it has one.
    pub async fn say_from(&self, words: &[u8]) -> (Option<SocketAddr>, Client) {
        let (from, mut client) = self.connect_from().await.unwrap_or_else(|error| panic!("{:?}: {error}", self.kind));
        client.write_all(words).await.unwrap_or_else(|error| panic!("{:?}: {error}", self.kind));
        (from, client)
    }

    /// Returns what a closed server has left behind: an open socket or a file. `None` is right.
    pub async fn left_behind(&self) -> Option<String> {
        match self.connect().await {
            Ok(_) => Some("its address still accepts connections".to_owned()),
            Err(_) if !self.folder.names().is_empty() => Some(format!("files are left: {:?}", self.folder.names())),
            Err(_) => None,
        }
    }
}

/// Reads until EOF, and returns what the client has read. Panics if the connection ends in any other way.
pub async fn rest(client: &mut (impl Read + Unpin)) -> String {
    let mut rest = String::new();
    let read = future::timeout(NET, client.read_to_string(&mut rest)).await;
    read.expect("the connection ends in time").expect("the connection ends with EOF");
    rest
}

/// Half-closes the client's connection.
pub async fn close(client: &mut Client) {
    std::future::poll_fn(|cx| client.as_mut().poll_close(cx)).await.unwrap();
}

/// Socket, and the function that half-closes it: `poll_close` of async-std's own sockets only flushes.
struct Socket<S>(Async<S>, fn(&S) -> io::Result<()>);

impl<S> Read for Socket<S>
where
    for<'a> &'a Async<S>: Read,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.0).poll_read(cx, buf)
    }
}

impl<S> Write for Socket<S>
where
    for<'a> &'a Async<S>: Write,
{
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &self.0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &self.0).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready((self.1)(self.0.get_ref()))
    }
}

/// TLS clients. Their handshake and their writes must make progress while the test does not poll them. So a task drives
/// the TLS stream, and the test has the other end of a pipe to that task.
#[cfg(feature = "tls")]
mod over_tls {
    use super::super::certificates::Authority;
    use super::super::files::Folder;
    use async_std::io::{self, Read, Write, WriteExt};
    use async_std::{net::TcpStream, task};
    use ebbtide::rustls::ClientConfig;
    use ebbtide::{MemoryStream, Tls};
    use futures_concurrency::prelude::*;
    use futures_rustls::TlsConnector;
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Poll};

    pub(super) type Trusting = Arc<ClientConfig>;

    pub(super) fn ends() -> (Tls, Trusting) {
        let (folder, authority) = (Folder::new(), Authority::new("the ways in"));
        let identity = authority.issue(&folder, "server", &["localhost"]);
        let tls = Tls::from_pem_files(&identity.certificates, &identity.key).unwrap();
        (tls, Arc::new(authority.client(None)))
    }

    pub(super) async fn connect(address: SocketAddr, trusting: &Trusting) -> io::Result<(SocketAddr, MemoryStream)> {
        let socket = TcpStream::connect(address).await?;
        let from = socket.local_addr()?;
        let (ours, theirs) = MemoryStream::pair();
        let handshake = TlsConnector::from(Arc::clone(trusting)).connect("localhost".try_into().unwrap(), socket);
        task::spawn(async move {
            if let Ok(stream) = handshake.await {
                let (inner, outer) = (Half::new(theirs), Half::new(stream));
                // Copies each direction until EOF. A connection that is cut off ends in EOF here; `tls_ends` tests
                // that case.
                (carry(inner.clone(), outer.clone()), carry(outer, inner)).join().await;
            }
        });
        Ok((from, ours))
    }

    async fn carry(mut from: impl Read + Unpin, mut to: impl Write + Unpin) {
        let _ = io::copy(&mut from, &mut to).await;
        let _ = to.flush().await;
        let _ = std::future::poll_fn(|cx| Pin::new(&mut to).poll_close(cx)).await;
    }

    /// One task polls both directions, so the lock is always free.
    struct Half<S>(Arc<Mutex<S>>);

    impl<S> Half<S> {
        fn new(stream: S) -> Self {
            Self(Arc::new(Mutex::new(stream)))
        }
    }

    impl<S> Clone for Half<S> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<S: Read + Unpin> Read for Half<S> {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut *self.0.lock().unwrap()).poll_read(cx, buf)
        }
    }

    impl<S: Write + Unpin> Write for Half<S> {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut *self.0.lock().unwrap()).poll_write(cx, buf)
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut *self.0.lock().unwrap()).poll_flush(cx)
        }

        fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut *self.0.lock().unwrap()).poll_close(cx)
        }
    }
}
