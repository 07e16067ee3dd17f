//! The listeners of a case, of all kinds and with all layers, and how clients reach them.

use super::case::{Base, Door, Proxy};
use super::environment::Held;
use crate::support::dice::lock;
use crate::support::files::Folder;
use crate::support::scripted::{Script, Step};
use crate::support::{BoxedStream, loopback, tcp};
use async_io::Async;
use async_std::io::{Read, Write};
use ebbtide::{Connector, Listener, MemoryStream};
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

/// Where the clients of one listener connect.
pub struct OpenDoor {
    pub door: Door,
    to: To,
    folder: Option<Folder>,
    /// The other holder of an inherited socket, until the server was left.
    held: Mutex<Option<Held>>,
}

enum To {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Abstract(String),
    Memory(Connector),
    Custom(Script),
}

impl OpenDoor {
    pub fn new(door: Door) -> (Listener, Self) {
        let (mut folder, mut held) = (None, None);
        let mut hold = |socket: &dyn AsFd| held = door.is_held.then(|| Held::new(socket, door.nonblocking));
        let (listener, to) = match door.base {
            Base::Tcp => {
                let listener = Listener::tcp(loopback()).unwrap();
                let address = tcp(listener.local_addr());
                (listener, To::Tcp(address))
            }
            Base::Inherited => {
                let socket = TcpListener::bind(loopback()).unwrap();
                hold(&socket);
                let address = socket.local_addr().unwrap();
                (Listener::try_from(socket).unwrap(), To::Tcp(address))
            }
            Base::Unix => {
                let folder = folder.insert(Folder::new());
                folder.write("other", "not the server's");
                let path = folder.path("s");
                (Listener::unix(&path).unwrap(), To::Unix(path))
            }
            Base::Abstract | Base::InheritedUnix => {
                static NEXT: AtomicUsize = AtomicUsize::new(0);
                let n = NEXT.fetch_add(1, Ordering::Relaxed);
                let name = format!("ebbtide-random-{}-{n}", std::process::id());
                let listener = match door.base {
                    Base::Abstract => Listener::unix_abstract(&name).unwrap(),
                    _ => {
                        let socket = UnixListener::bind_addr(&abstract_name(&name)).unwrap();
                        hold(&socket);
                        Listener::try_from(socket).unwrap()
                    }
                };
                (listener, To::Abstract(name))
            }
            Base::Memory => {
                let (listener, connector) = Listener::memory();
                (listener, To::Memory(connector))
            }
            Base::Custom => {
                let (listener, script) = Script::listener();
                (listener, To::Custom(script))
            }
        };
        (layers::put_on(listener, door), Self { door, to, folder, held: Mutex::new(held) })
    }

    /// Connects, without a header or a handshake.
    pub async fn connect(&self) -> io::Result<Wire> {
        Ok(match &self.to {
            To::Tcp(address) => Wire::Tcp(Arc::new(Async::<TcpStream>::connect(*address).await?)),
            To::Unix(path) => Wire::Unix(Async::<UnixStream>::connect(path).await?),
            To::Abstract(name) => {
                // std's blocking connect: it does not wait while the backlog has room.
                Wire::Unix(Async::new(UnixStream::connect_addr(&abstract_name(name))?)?)
            }
            To::Memory(connector) => Wire::Memory(connector.connect().await?),
            To::Custom(script) => {
                let (ours, theirs) = MemoryStream::pair();
                for error in self.door.faults.errors() {
                    let _ = script.try_tell(Step::Fail(error));
                }
                match script.try_tell(Step::Client(Box::pin(theirs))) {
                    true => Wire::Memory(ours),
                    false => return Err(ErrorKind::ConnectionRefused.into()),
                }
            }
        })
    }

    /// Connects, and sends what the layers need before the request.
    pub async fn enter(&self, wire: Wire) -> io::Result<BoxedStream> {
        layers::enter(wire, self.door).await
    }

    /// Lets a custom listener fail.
    pub fn fail(&self, step: Step) -> bool {
        matches!(&self.to, To::Custom(script) if script.try_tell(step))
    }

    /// Returns how many accepts have failed as ordered.
    pub fn failures(&self) -> usize {
        match &self.to {
            To::Custom(script) => script.failures(),
            _ => 0,
        }
    }

    /// Closes the inherited socket of the other holder, once the server was left. Returns what is wrong with it.
    pub fn release(&self) -> Option<String> {
        let held = lock(&self.held).take()?;
        held.changed().or_else(|| {
            let refused = async_io::block_on(self.connect()).err()?;
            Some(format!("an inherited socket that another holds accepts nobody: {refused}"))
        })
    }

    /// Returns what a closed server has left behind, or has taken away.
    pub fn left_behind(&self) -> Option<String> {
        match &self.to {
            To::Custom(script) => (!script.is_gone()).then(|| "the custom listener is alive".to_owned()),
            To::Unix(_) if self.folder.as_ref().is_some_and(|folder| !folder.path("other").exists()) => {
                Some("a file of others is gone".to_owned())
            }
            To::Unix(path) if path.exists() => Some(format!("{} is left", path.display())),
            _ => match async_io::block_on(self.connect()) {
                Ok(_) => Some(format!("{:?} still accepts connections", self.door)),
                Err(_) => None,
            },
        }
    }
}

fn abstract_name(name: &str) -> UnixAddress {
    UnixAddress::from_abstract_name(name).unwrap()
}

/// Client's end of a connection, below the layers. Closing it is a half-close.
pub enum Wire {
    /// Shared, so that socket options can be set below TLS.
    Tcp(Arc<Async<TcpStream>>),
    Unix(Async<UnixStream>),
    Memory(MemoryStream),
}

impl Wire {
    /// Returns the TCP socket, if it is one.
    pub fn socket(&self) -> Option<Arc<Async<TcpStream>>> {
        match self {
            Self::Tcp(socket) => Some(Arc::clone(socket)),
            _ => None,
        }
    }
}

impl Read for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(&mut &**socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(&mut &**socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // none of them has a buffer of its own
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.get_mut() {
            Self::Tcp(socket) => socket.get_ref().shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.get_ref().shutdown(Shutdown::Write),
            Self::Memory(stream) => return Pin::new(stream).poll_close(cx),
        })
    }
}

/// TLS and the PROXY protocol, by feature.
mod layers {
    use super::{BoxedStream, Door, Listener, Proxy, Wire, io};
    use async_std::io::WriteExt;

    pub(super) fn put_on(listener: Listener, door: Door) -> Listener {
        #[cfg(feature = "proxy-protocol")]
        let listener = match door.proxy {
            Proxy::No => listener,
            Proxy::Optional => listener.proxy_protocol(trusting(ebbtide::ProxyProtocol::optional())),
            Proxy::Required => listener.proxy_protocol(trusting(ebbtide::ProxyProtocol::required())),
        };
        #[cfg(feature = "tls")]
        let listener = if door.tls { listener.tls(&secure::ends().0) } else { listener };
        let _ = (door.proxy, door.tls);
        listener
    }

    #[cfg(feature = "proxy-protocol")]
    use crate::support::proxied::trusting;

    pub(super) async fn enter(mut wire: Wire, door: Door) -> io::Result<BoxedStream> {
        if cfg!(feature = "proxy-protocol") && door.proxy == Proxy::Required {
            wire.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n").await?;
        }
        #[cfg(feature = "tls")]
        if door.tls {
            let connector = futures_rustls::TlsConnector::from(secure::ends().1.clone());
            return Ok(Box::pin(connector.connect("localhost".try_into().unwrap(), wire).await?));
        }
        Ok(Box::pin(wire))
    }

    #[cfg(feature = "tls")]
    mod secure {
        use crate::support::certificates::Authority;
        use crate::support::files::Folder;
        use ebbtide::Tls;
        use ebbtide::rustls::ClientConfig;
        use std::sync::{Arc, OnceLock};

        /// The server's and the clients' settings, made once: keys take time.
        pub fn ends() -> &'static (Tls, Arc<ClientConfig>) {
            static ENDS: OnceLock<(Tls, Arc<ClientConfig>)> = OnceLock::new();
            ENDS.get_or_init(|| {
                let (folder, authority) = (Folder::new(), Authority::new("random servers"));
                let identity = authority.issue(&folder, "server", &["localhost"]);
                let tls = Tls::from_pem_files(&identity.certificates, &identity.key).unwrap();
                (tls, Arc::new(authority.client(None)))
            })
        }
    }
}
