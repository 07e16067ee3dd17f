//! Helpers that the test binaries share: servers and handlers, clients, drop guards, time limits. Each binary uses a
//! part of them, and includes this module by its path.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod addresses;
pub mod bomb;
#[cfg(feature = "tls")]
pub mod certificates;
pub mod chosen;
pub mod dice;
pub mod executor;
pub mod files;
pub mod gate;
#[cfg(feature = "http")]
pub mod http;
#[cfg(target_os = "linux")]
pub mod launcher;
pub mod logs;
#[cfg(feature = "tls")]
pub mod pem_files;
pub mod probe;
pub mod process;
#[cfg(feature = "proxy-protocol")]
pub mod proxied;
#[path = "../../src/random_bytes.rs"]
pub mod random_bytes;
pub mod scripted;
#[cfg(feature = "tls")]
pub mod secured;
pub mod servers;
#[cfg(all(feature = "systemd", target_os = "linux"))]
pub mod systemd;
pub mod ways;

pub use addresses::loopback;
pub use bomb::Bomb;
pub use executor::hold_executor;
pub use gate::{Role, alone, on_thread};
pub use servers::{assert_adds_up, bind, echo, echo_at_eof, echo_with_buffer, speaks, until};

use async_std::channel::{Receiver, Sender, unbounded};
use async_std::{io, prelude::*, task};
use ebbtide::{Address, Connection};
use std::future::{Future, pending};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Stream of any kind, boxed.
pub type BoxedStream = std::pin::Pin<Box<dyn Duplex>>;

pub trait Duplex: async_std::io::Read + async_std::io::Write + Send {}

impl<T: async_std::io::Read + async_std::io::Write + Send> Duplex for T {}

/// Safety net: the time limit of every wait. No test passes because this time is over.
pub const NET: Duration = Duration::from_secs(60);

/// A time that is longer than [`NET`]: a test that waits for it fails.
pub const FOR_EVER: Duration = Duration::from_secs(3600);

/// Runs a test for at most [`NET`].
pub fn test<T: Send + 'static>(body: impl Future<Output = T> + Send + 'static) -> T {
    block_on(Role::Beside, Box::pin(body))
}

/// Runs a test for at most [`NET`], while no other test runs.
pub fn test_alone<T: Send + 'static>(body: impl Future<Output = T> + Send + 'static) -> T {
    block_on(Role::Alone, Box::pin(body))
}

/// Takes a boxed future, so that less code is compiled for each test.
fn block_on<T: Send + 'static>(role: Role, body: Pin<Box<dyn Future<Output = T> + Send>>) -> T {
    gate::run(role, NET, &String::new, move || task::block_on(body))
}

/// Counts the guards that are alive: a handler holds one to show that its future has not been dropped.
#[derive(Clone, Default)]
pub struct Live(Arc<AtomicUsize>);

impl Live {
    pub fn guard(&self) -> LiveGuard {
        self.0.fetch_add(1, Ordering::SeqCst);
        LiveGuard(self.0.clone())
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

pub struct LiveGuard(Arc<AtomicUsize>);

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Handlers that do what the client's first byte orders ([`POLITE`], [`STUBBORN`] …), and the number that are alive.
#[derive(Clone)]
pub struct Handlers {
    pub live: Live,
    /// Gets a message from each handler that has read its order.
    started: Sender<()>,
    has_started: Receiver<()>,
}

impl Handlers {
    pub fn new() -> Self {
        let (started, has_started) = unbounded();
        Self { live: Live::default(), started, has_started }
    }

    /// Waits until `n` more handlers have read their orders.
    pub async fn started(&self, n: usize) {
        for _ in 0..n {
            self.has_started.recv().await.unwrap();
        }
    }

    pub fn handler(
        &self,
    ) -> impl Fn(Connection) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> + Send + Sync + 'static {
        let this = self.clone();
        move |conn| {
            let this = this.clone();
            Box::pin(async move { this.handle(conn).await })
        }
    }

    async fn handle(&self, conn: Connection) -> io::Result<()> {
        let _live = self.live.guard();
        let mut order = [0];
        (&conn).read_exact(&mut order).await?;
        self.started.send(()).await.unwrap();
        match order[0] {
            POLITE => {
                conn.until_draining(pending::<()>()).await;
                (&conn).write_all(b"bye").await
            }
            STUBBORN => {
                task::sleep(FOR_EVER).await;
                Ok(())
            }
            FAILS => Err(io::Error::new(io::ErrorKind::InvalidData, "as ordered")),
            PANICS => panic!("as ordered"),
            REPLIES => {
                (&conn).write_all(b"whole reply").await?;
                Ok(())
            }
            other => panic!("no such order: {other}"),
        }
    }
}

/// The handler waits for the drain, writes `bye`, and returns.
pub const POLITE: u8 = b'p';
/// The handler ignores the drain, and does not end by itself.
pub const STUBBORN: u8 = b's';
/// The handler returns an error.
pub const FAILS: u8 = b'f';
/// The handler panics.
pub const PANICS: u8 = b'!';
/// The handler writes `whole reply` and returns.
pub const REPLIES: u8 = b'r';

/// Connects a TCP client whose reads and writes time out after [`NET`].
pub fn connect(address: &Address) -> TcpStream {
    let client = TcpStream::connect(tcp(address)).unwrap();
    client.set_read_timeout(Some(NET)).unwrap();
    client.set_write_timeout(Some(NET)).unwrap();
    client
}

/// Connects a client and sends its order. If the server does not serve yet, the client waits in the backlog.
pub fn order(address: &Address, order: u8) -> TcpStream {
    let mut client = connect(address);
    client.write_all(&[order]).unwrap();
    client
}

/// Reads until EOF, and returns what the client has read. Panics if the connection ends in any other way.
pub fn rest(client: &mut TcpStream) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("the connection ends with EOF");
    rest
}

/// Returns whether a connection to the address is refused.
pub fn refuses(address: &Address) -> bool {
    match TcpStream::connect(tcp(address)) {
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
    }
}

pub fn tcp(address: &Address) -> SocketAddr {
    address.tcp().expect("a TCP address")
}
