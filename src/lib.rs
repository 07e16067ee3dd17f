//! Servers for async-std with structured concurrency.
//!
//! In Python one writes `async with await asyncio.start_server(...)` and hopes that leaving the block closes the
//! connections. This crate keeps that promise on every path. The accept loops and the connection handlers are children
//! of one task group, which is joined or cancelled as a unit; whichever way control leaves the server, the connections
//! are drained and closed first.
//!
//! ```no_run
//! use async_std::{io, prelude::*, task};
//! use ebbtide::{Connection, Server, signal};
//! use std::time::Duration;
//!
//! async fn echo(mut conn: Connection) -> io::Result<()> {
//!     let mut buf = vec![0; 1024];
//!     // False at EOF, and between two messages once the server drains.
//!     while conn.more().await? {
//!         let n = conn.read(&mut buf).await?;
//!         conn.write_all(&buf[..n]).await?;
//!     }
//!     Ok(())
//! }
//!
//! fn main() -> io::Result<()> {
//!     task::block_on(async {
//!         let signals = signal::termination()?; // first: a signal that comes before the bind is remembered
//!         let report = Server::bind("127.0.0.1:8888")
//!             .await?
//!             .grace(Duration::from_secs(5))
//!             .shutdown_on(signals) // the first Ctrl-C or SIGTERM drains, a second cancels
//!             .serve(echo)
//!             .await?;
//!         println!("{report}");
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # The ways out
//!
//! Every way out of [`Server::serve`] and [`Server::scope`] ends *closed*: no handler or task is running, the future of
//! each has been dropped, every listening socket is closed, and every accepted socket is shut down both ways.
//!
//! | the server is left because | what happens | how control returns |
//! |---|---|---|
//! | the body of a [`scope`](Server::scope) returned, `Ok` or `Err` | shut down, drain for at most the grace period, cancel what is left, join | its value and the [`Report`], or its error |
//! | [`Handle::shutdown`], or the first item of a [shutdown stream](Server::shutdown_on) (Ctrl-C, SIGTERM) | the same | the report |
//! | the body panicked | the same | the panic goes on, after the drain |
//! | a listener failed for good, or a handler failed under [`OnFailure::Shutdown`] | the same | the [`Error`], with the report in it |
//! | [`Handle::cancel`], or the second item of a shutdown stream | cancel and join, no grace period | the report |
//! | the future of `serve` or `scope` is dropped: a timeout, a lost race, a cancelled task, an enclosing panic | cancel and join, **synchronously, inside the drop** | when the drop returns the server is closed; [`Handle::closed`] gives the report |
//!
//! The last row is the one that others leave out: a future can be dropped at any moment, and then nothing is left that
//! could await. It holds because the group owns the futures of its children and drops them on the spot; see
//! [`TaskGroup`].
//!
//! # The ways in
//!
//! One server takes any mixture of listeners, with one handler, one limit and one report; the ways out are the same for
//! all of them. A handler sees where its client came from ([`Connection::peer_addr`], [`Connection::local_addr`]), and
//! seldom has to.
//!
//! - TCP: [`Server::bind`] takes all that its argument resolves to, or nothing; [`ListenOptions`] has what can be set.
//! - Unix sockets: `Server::bind_unix`, `Listener::unix_abstract`. The file is removed with the server, if it is still
//!   the one that was made; `Connection::peer_credentials` gives the client's user and process.
//! - Inherited sockets, which other processes may share: [`Listener::try_from`](Listener#sockets-that-are-inherited).
//!   They are left as they were found.
//! - Memory: [`Listener::memory`], for tests without sockets.
//! - Your own: [`Listener::custom`], from anything that [accepts](Accept) streams of bytes.
//!
//! More than one: [`Server::add_listener`].
//!
//! ```
//! # async_std::task::block_on(async {
//! use async_std::prelude::*;
//! use ebbtide::{Connection, Listener, Server};
//!
//! let (memory, connector) = Listener::memory();
//! let server = Server::bind("127.0.0.1:0").await?.add_listener(memory);
//! assert_eq!(server.local_addrs().count(), 2);
//!
//! let greet = async |mut conn: Connection| conn.write_all(b"hello").await;
//! let (greeting, _report) = server
//!     .scope(greet, async |_| {
//!         let mut greeting = String::new();
//!         connector.connect().await?.read_to_string(&mut greeting).await?;
//!         Ok(greeting)
//!     })
//!     .await?;
//! assert_eq!(greeting, "hello");
//! # std::io::Result::Ok(()) }).unwrap();
//! ```
//!
//! # Out of reach
//!
//! A handler that blocks its thread is waited for, since *closed* wins over every bound. A line in the log says so once
//! a second, unless all of the executor's threads are blocked.
//!
//! `exit`, `abort`, SIGKILL, `mem::forget`, `panic = "abort"`; `spawn_blocking` closures, threads and detached tasks
//! that a handler started; async-std's task-locals; a future two of whose destructors panic; and the commonest mistake:
//! returning from `main` while the future of `serve` lives in a spawned task (`examples/commonest_mistake.rs` shows
//! what is lost and the two ways to write it right).
//!
//! A client whose handshake ends in the microseconds between the last accept and the close of the socket is reset by
//! the kernel. No server that closes its socket can prevent that; clients retry.
//!
//! # Optional features
//!
//! All are off by default.
//!
//! - `tls`: `Tls`, certificates for any listener, by rustls, reloaded while serving.
//! - `proxy-protocol`: `ProxyProtocol`, which makes the client's own address known behind HAProxy and other load
//!   balancers.
//! - `systemd`: `systemd::sockets`, the sockets that systemd has opened, by name (Linux).
//!
//! # The runtime
//!
//! async-std is no longer developed (RUSTSEC-2025-0052); the parts that do its work, async-io, async-executor and
//! polling, are maintained by the smol project. The README says what that means for users of this crate.

#![forbid(unsafe_code)]

mod address;
mod bind_addrs;
mod connection;
mod error;
mod framing;
mod group;
mod handler;
mod limits;
mod listener;
mod origin;
mod panic;
#[cfg(feature = "proxy-protocol")]
mod proxy;
mod run;
mod server;
pub mod signal;
mod span;
mod sync;
#[cfg(all(feature = "systemd", target_os = "linux"))]
pub mod systemd;
mod text;
#[cfg(feature = "tls")]
mod tls;
mod transport;

pub use address::Address;
pub use bind_addrs::ToBindAddrs;
#[cfg(unix)]
pub use connection::PeerCredentials;
pub use connection::{Connection, Draining};
pub use error::{Error, ErrorKind, OnFailure};
pub use framing::{EofOnDrain, Frames, Lines};
pub use group::{JoinError, JoinHandle, Spawner, TaskGroup, TaskSet};
pub use handler::HandlerOutput;
pub use listener::{Accept, Connector, Keepalive, ListenOptions, Listener, MemoryStream};
#[cfg(all(fuzzing, feature = "proxy-protocol"))]
#[doc(hidden)]
pub use proxy::fuzz as fuzz_proxy_header;
#[cfg(feature = "proxy-protocol")]
pub use proxy::{ProxyHeader, ProxyProtocol};
pub use run::counts::Counts;
pub use run::end_reason::EndReason;
pub use run::event::{Event, EventKind};
pub use run::handle::{Closed, Handle};
pub use run::phase::Phase;
pub use run::phases::{Phases, Reached};
pub use run::registry::{ConnectionId, ConnectionInfo};
pub use run::report::{BoxError, Cause, Report};
pub use run::state::ConnectionState;
pub use server::body::BodyOutput;
pub use server::{Serve, Server};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsFiles};
#[cfg(feature = "tls")]
pub use transport::TlsInfo;

/// The TLS library, for [`Tls::from_config`] and the types of [`TlsInfo`] (feature `tls`).
#[cfg(feature = "tls")]
pub use futures_rustls::rustls;

/// The README's examples are compiled with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
