//! Servers behind a proxy: the test plays the proxy, over TCP, a Unix socket, or memory.

use super::files::Folder;
use super::{NET, loopback, test};
use async_std::prelude::*;
use async_std::{io, task};
use ebbtide::{Connection, Connector, Handle, ListenOptions, Listener, MemoryStream, ProxyProtocol, Report, Server};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// A header of version 1.
pub const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
/// The same header in version 2.
pub const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb";
/// How the answer of [`who`] begins after one of these two headers.
pub const ANSWER: &str = "192.0.2.1:56324 to 198.51.100.2:443: ";
/// A header of version 2 with the command LOCAL: the proxy itself is the client.
pub const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// How a peer connects to the server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    Tcp,
    #[cfg(unix)]
    Unix,
    Memory,
}

pub const WAYS: &[Way] = &[
    Way::Tcp,
    #[cfg(unix)]
    Way::Unix,
    Way::Memory,
];

/// Trusts every peer of this machine to send a header.
pub fn trusting(proxy: ProxyProtocol) -> ProxyProtocol {
    proxy.trust("127.0.0.0/8").unwrap().trust_local()
}

/// Handler that reads until EOF, and then answers with the connection's addresses and what it has read.
pub async fn who(mut conn: Connection) -> io::Result<()> {
    let mut all = String::new();
    conn.read_to_string(&mut all).await?;
    let answer = format!("{} to {}: {all}", conn.peer_addr(), conn.local_addr());
    conn.write_all(answer.as_bytes()).await
}

/// Serves with the handler [`who`] while `clients` runs on a thread of its own. `set` changes the server's settings.
pub fn serve(
    way: Way,
    proxy: ProxyProtocol,
    set: impl FnOnce(Server) -> Server + Send + 'static,
    clients: impl FnOnce(&Door, &Handle) + Send + 'static,
) -> Report {
    test(async move {
        let (server, door) = Door::open(way, proxy).await;
        let body = async |handle: Handle| task::spawn_blocking(move || clients(&door, &handle)).await;
        set(server).scope(who, body).await.unwrap().1
    })
}

/// Where clients connect.
pub struct Door {
    to: To,
    /// The folder of the Unix socket; dropping it removes both.
    _folder: Option<Folder>,
}

enum To {
    Tcp(SocketAddr),
    #[cfg(unix)]
    Unix(PathBuf),
    Memory(Connector),
}

impl Door {
    /// Binds a server that expects PROXY headers.
    pub async fn open(way: Way, proxy: ProxyProtocol) -> (Server, Self) {
        match way {
            Way::Tcp => {
                let options = ListenOptions::new().proxy_protocol(proxy);
                let server = Server::bind_with(loopback(), &options).await.unwrap();
                let to = To::Tcp(super::tcp(server.local_addr()));
                (server, Self { to, _folder: None })
            }
            #[cfg(unix)]
            Way::Unix => {
                let folder = Folder::new();
                let path = folder.path("socket");
                let options = ListenOptions::new().proxy_protocol(proxy);
                let listener = Listener::unix_with(&path, &options).unwrap();
                (Server::new(listener), Self { to: To::Unix(path), _folder: Some(folder) })
            }
            Way::Memory => {
                let (listener, connector) = Listener::memory();
                let server = Server::new(listener.proxy_protocol(proxy));
                (server, Self { to: To::Memory(connector), _folder: None })
            }
        }
    }

    /// Connects a client.
    pub fn client(&self) -> Client {
        match &self.to {
            To::Tcp(address) => {
                let socket = TcpStream::connect(address).unwrap();
                socket.set_read_timeout(Some(NET)).unwrap();
                socket.set_nodelay(true).unwrap();
                Client::Tcp(socket)
            }
            #[cfg(unix)]
            To::Unix(path) => {
                let socket = UnixStream::connect(path).unwrap();
                socket.set_read_timeout(Some(NET)).unwrap();
                Client::Unix(socket)
            }
            To::Memory(connector) => Client::Memory(task::block_on(connector.connect()).unwrap()),
        }
    }
}

pub enum Client {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Memory(MemoryStream),
}

impl Client {
    /// Sends bytes. Ignores an error: the server may have closed the connection.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = match self {
            Self::Tcp(socket) => socket.write_all(bytes),
            #[cfg(unix)]
            Self::Unix(socket) => socket.write_all(bytes),
            Self::Memory(stream) => task::block_on(stream.write_all(bytes)),
        };
    }

    /// Shuts down its writing half.
    pub fn finish(&mut self) {
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            #[cfg(unix)]
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
            Self::Memory(stream) => task::block_on(stream.close()),
        };
    }

    /// Reads until EOF. A reset counts as EOF: the kernel sends one if the server closes before it has read all.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let result = match self {
            Self::Tcp(socket) => socket.read_to_end(&mut rest),
            #[cfg(unix)]
            Self::Unix(socket) => socket.read_to_end(&mut rest),
            Self::Memory(stream) => {
                task::block_on(async_std::future::timeout(NET, stream.read_to_end(&mut rest))).unwrap()
            }
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            result => drop(result.expect("the server closes")),
        }
        String::from_utf8(rest).unwrap()
    }

    /// Sends all bytes in one piece, shuts down its writing half, and returns the answer.
    pub fn ask(&mut self, bytes: &[u8]) -> String {
        self.send(bytes);
        self.finish();
        self.rest()
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Tcp(socket) => socket.local_addr().unwrap(),
            _ => panic!("only a TCP client has a socket address"),
        }
    }
}
