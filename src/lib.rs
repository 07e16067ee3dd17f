//! Servers for async-std and smol with structured concurrency: leaving a server closes every connection.
//!
//! The accept loops and the connection handlers of a [`Server`] are children of one task group. However control leaves
//! the server (return, error, panic, shutdown request, signal, or a dropped future), its connections are drained or
//! cancelled, and joined, before the code behind it runs. It is Python's `async with await asyncio.start_server(...)`
//! with the promise kept.
//!
//! ```no_run
//! use async_std::{io, prelude::*};
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
//! #[async_std::main]
//! async fn main() -> io::Result<()> {
//!     let signals = signal::termination()?; // before the bind, so that no signal is lost
//!     let report = Server::bind("127.0.0.1:8888")
//!         .await?
//!         .grace(Duration::from_secs(5))
//!         .shutdown_on(signals) // the first Ctrl-C or SIGTERM drains, a second cancels
//!         .serve(echo)
//!         .await?;
//!     println!("{report}");
//!     Ok(())
//! }
//! ```
//!
//! Where to start:
//!
//! - The [`guide`]: chapters with whole programs, from a first server to its deployment.
//! - [`Server`]: bind, settings, [`serve`](Server::serve) and [`scope`](Server::scope).
//! - [`Connection`]: what a handler gets. Messages ([`more`](Connection::more), [`lines`](Connection::lines),
//!   [`frames`](Connection::frames)), drains, tasks.
//! - [`Handle`]: stop a server, wait for it, look at it, from anywhere.
//! - `http` (feature `http`): HTTP/1.1 and HTTP/2, for services of hyper and tower, such as axum's `Router`.
//! - [`ServiceGroup`]: several servers and tasks that start in order, and stop in the reverse order.
//! - [`TaskGroup`] and [`TaskSet`]: the same ownership of tasks without a server.
//! - [Coming from asyncio, tokio, trio or Go](#coming-from-asyncio): the names you know.
//!
//! # The ways out
//!
//! Every way out of [`Server::serve`] and [`Server::scope`] ends *closed*: no handler or task is running, the future of
//! each has been dropped, every listening socket is closed, and every accepted socket is shut down both ways.
//!
//! | control leaves the server because | what happens | how control returns |
//! |---|---|---|
//! | the body of a [`scope`](Server::scope) returned, `Ok` or `Err` | shut down, drain for at most the grace period, cancel what is left, join | its value and the [`Report`], or its error |
//! | of [`Handle::shutdown`], or the first item of a [shutdown stream](Server::shutdown_on) (Ctrl-C, SIGTERM) | the same | the report |
//! | the body panicked | the same | the panic continues, after the drain |
//! | a listener failed for good, or a handler failed under [`OnFailure::Shutdown`] | the same | the [`Error`], with the report in it |
//! | of [`Handle::cancel`], or the second item of a shutdown stream | cancel and join, no grace period | the report |
//! | the future of `serve` or `scope` is dropped: a timeout, a lost race, a cancelled task, an enclosing panic | cancel and join, **synchronously, inside the drop** | when the drop returns the server is closed; [`Handle::closed`] returns the report |
//!
//! The last row is the hard one: a future can be dropped at any moment, and then no code is left that could await. It
//! holds because the group owns the futures of its children and drops them on the spot; see [`TaskGroup`].
//!
//! # The ways in
//!
//! One server takes any mixture of listeners, with one handler, one limit and one report. The ways out are the same for
//! all of them.
//!
//! | clients connect through | made by | note |
//! |---|---|---|
//! | TCP | [`Server::bind`], [`Server::bind_with`] | binds every address that a name resolves to, or none; with port 0, one port for IPv4 and IPv6 |
//! | a TCP port that several processes share | [`ListenOptions::reuse_port`] | each process has its own queue, and serves it before it leaves |
//! | a Unix socket | `Server::bind_unix`, `Listener::unix_abstract` | the socket file is removed with the server if it is still the same file; a stale file is replaced, a live one is an error |
//! | a socket that other processes hold too | [`Listener::try_from`](Listener#sockets-that-are-inherited), `systemd::sockets` | it is left as it was found: a restart loses no client |
//! | memory | [`Listener::memory`] | for tests without sockets |
//! | anything that [accepts](Accept) streams of bytes | [`Listener::custom`] | a panic, hang or error there ends its own connection, or drains the server |
//!
//! TLS and the PROXY protocol go over each of them. [`Server::add_listener`] adds a second one:
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
//! # Coming from asyncio
//!
//! | asyncio | here |
//! |---|---|
//! | `await asyncio.start_server(handler, host, port)` | [`Server::bind`]`((host, port)).await?`, then [`serve(handler)`](Server::serve) |
//! | `async with server:` | [`Server::scope`]; the body is a closure, and its end is the server's end |
//! | `await server.serve_forever()` | [`Server::serve`]`.await` |
//! | `server.close()`, `await server.wait_closed()` | [`Handle::shutdown`]`().await`; here it waits for the handlers too |
//! | `server.close_clients()`, `abort_clients()` | [`Handle::shutdown`], [`Handle::cancel`] |
//! | `server.sockets`, `getsockname()` | [`Server::local_addrs`] |
//! | `reader, writer` | one [`Connection`], which reads and writes; clone it for a second task |
//! | `await reader.readline()` | [`Connection::lines`] |
//! | `await reader.readexactly(n)` | `read_exact` of `futures`' and async-std's `ReadExt` |
//! | `writer.write(data)`, `await writer.drain()` | `write_all(data).await` of `WriteExt`. *Drain* means the shutdown of a server here |
//! | `writer.write_eof()` | [`Connection::close_write`] |
//! | `writer.get_extra_info("peername")` | [`Connection::peer_addr`] |
//! | `asyncio.create_task`, `asyncio.TaskGroup` | [`Connection::spawn`], [`Handle::spawn`]; [`TaskGroup`], [`TaskSet`] |
//! | `asyncio.CancelledError` | a cancelled future is dropped; clean up in `Drop` |
//! | `loop.add_signal_handler(signal.SIGTERM, …)` | [`signal::termination`] and [`Server::shutdown_on`] |
//!
//! # Coming from tokio
//!
//! | tokio, tokio-util, hyper-util, axum | here |
//! |---|---|
//! | `loop { listener.accept().await; tokio::spawn(…) }` | [`Server::serve`] |
//! | `CancellationToken::cancel`, `TaskTracker::close` and `wait` | [`Handle::shutdown`]`().await` |
//! | `select! { _ = token.cancelled() => …, r = future => … }` in a handler | [`Connection::until_draining`]`(future)`, or [`Connection::more`] between messages |
//! | `JoinSet` | [`TaskSet`]; dropping it also *joins* the tasks |
//! | `JoinHandle::abort`, `JoinError` | [`JoinHandle::cancel`], [`JoinError`] |
//! | `Framed<_, LinesCodec>`, `LengthDelimitedCodec` | [`Connection::lines`], [`Connection::frames`] |
//! | `TcpStream::into_split` | [`Connection`] is `Clone`; [`Connection::close_write`] shuts down the writing half |
//! | tokio-graceful-shutdown's `Toplevel` and subsystems | [`ServiceGroup`], [`Stopping`] |
//! | console-subscriber; an exporter for Prometheus | [`Handle::task_tree`]; the module `admin` (feature `admin`) |
//! | `axum::serve(listener, app)` | `server.serve_http(app)` (feature `http`) |
//! | `.with_graceful_shutdown(future)` | [`Server::shutdown_when`]`(future)`, with a deadline; no request is lost |
//! | `ConnectInfo<SocketAddr>` | `Extension<Connection>`, and its [`peer_addr`](Connection::peer_addr); `ConnectInfo` is not set |
//! | hyper-util's `GracefulShutdown`, `auto::Builder` | the module `http`; for another HTTP library, [`Connection::more`] before each request |
//! | `Semaphore` in the accept loop | [`Server::max_connections`], `max_connections_per_ip` |
//! | `tokio::signal::ctrl_c` | [`signal::ctrl_c`], [`signal::termination`] |
//! | `tokio::io::duplex` | [`MemoryStream::pair`], [`Listener::memory`] |
//! | `tokio::time::timeout(d, serve)` | any timeout around `serve`: all is closed when it returns |
//! | `timeout(d, tracker.wait())` | [`Server::grace`] |
//! | `tracker.spawn`, apart from connections | [`Handle::spawn`], [`Handle::spawn_background`] |
//! | `token.child_token()` of one connection | [`Handle::drain_connection`], [`Handle::cancel_connection`] |
//! | `select!` of several futures | `race` of the futures-concurrency crate; its drain branch: `conn.until_draining((a, b).race())` |
//! | `#[tokio::main]`, `sleep`, `mpsc` | `#[async_std::main]`, `async_std::task::sleep`, `async_std::channel` |
//! | to stay on tokio | [`Server::executor`] |
//!
//! # Coming from trio
//!
//! | trio | here |
//! |---|---|
//! | `async with trio.open_nursery() as nursery` | [`TaskGroup`]; a server is one |
//! | `nursery.start_soon(f)` | [`TaskGroup::spawn`], [`Connection::spawn`] |
//! | `await trio.serve_tcp(handler, port)`, `serve_listeners` | [`Server::serve`]; a failing handler ends its own connection, and the server under [`OnFailure::Shutdown`] |
//! | several `nursery.start_soon(serve_tcp, …)` | [`ServiceGroup`] |
//! | `nursery.cancel_scope.cancel()` | [`Handle::cancel`], [`TaskGroup::cancel`] |
//! | `with trio.move_on_after(d)` | a timeout around `serve`, or [`Handle::shutdown_within`] |
//! | `trio.open_signal_receiver(SIGINT, SIGTERM)` | [`signal::termination`] |
//! | `trio.testing.memory_stream_pair()` | [`MemoryStream::pair`], [`Listener::memory`] |
//! | `trio.Cancelled` | a cancelled future is dropped; clean up in `Drop` |
//!
//! # Coming from Go
//!
//! | Go | here |
//! |---|---|
//! | `for { conn, err := ln.Accept(); go handle(conn) }` | [`Server::serve`]`(handle)` |
//! | `http.Serve(ln, handler)`, `http.Server` | `server.serve_http(service)`, `http::Http` (feature `http`) |
//! | `http.Server.Shutdown(ctx)` | [`Handle::shutdown_within`]; it also waits for upgraded connections |
//! | `http.Server.Close()` | [`Handle::cancel`] |
//! | `http.Server.RegisterOnShutdown(f)` | [`Handle::until_shutdown`], [`Handle::reached`] |
//! | `http.Server.ConnState` | [`Server::on_event`], [`Handle::connections`] |
//! | `ctx.Done()` in a handler | [`Connection::until_draining`], [`Connection::draining`] |
//! | `sync.WaitGroup`, `errgroup.Group` with `SetLimit` | [`TaskGroup`]; [`TaskSet`] with [`TaskSet::limit`] |
//! | oklog's `run.Group`: several servers, one exit | [`ServiceGroup`] |
//! | `expvar`, `net/http/pprof`'s list of goroutines | the module `admin` (feature `admin`); [`Handle::task_tree`] |
//! | `conn.SetReadDeadline`, `SetWriteDeadline` | [`Server::first_byte_timeout`], [`Server::idle_timeout`], [`Server::write_timeout`] |
//! | `ReadHeaderTimeout`, `IdleTimeout`, `MaxHeaderBytes` | `header_timeout`, `keep_alive_timeout` and `max_head` of `http::Http` |
//! | `http.MaxBytesReader` | `http::Http::max_body` |
//! | `http.Hijacker` | hyper's `upgrade::on`, and `http::UpgradedIo` |
//! | `netutil.LimitListener` | [`Server::max_connections`] |
//! | `signal.NotifyContext` | [`signal::termination`] and [`Server::shutdown_on`] |
//! | `net.Pipe()` | [`MemoryStream::pair`] |
//! | `bufio.Scanner` over a connection | [`Connection::lines`] |
//!
//! # Out of reach
//!
//! A handler that blocks its thread is waited for, because *closed* counts more than every bound. A log line reports it
//! once a second, unless all threads of the executor are blocked.
//!
//! No crate can
//!
//! - undo `exit`, `abort`, SIGKILL, `mem::forget` or `panic = "abort"`;
//! - stop `spawn_blocking` closures, threads and detached tasks that a handler started;
//! - clear async-std's task-locals;
//! - contain a future with two destructors that panic.
//!
//! One common mistake stays possible: `main` returns while the future of `serve` lives in a spawned task. The
//! [guide](guide#5-two-common-mistakes) shows how to do it right.
//!
//! The kernel resets a client if its handshake ends in the microseconds between the last accept and the close of the
//! socket. No server that closes its socket can prevent that; clients retry.
//!
//! # Features
//!
//! - `async-std` (on by default): handlers run on async-std's executor.
//! - `smol`: handlers run on smol's, if `async-std` is off. Then nothing of async-std is in the dependency tree.
//! - `http`: the module `http` and `Server::serve_http`, HTTP/1.1 and HTTP/2 by hyper.
//! - `admin`: the module `admin`, a listener for operators: probes, metrics, the open connections, a live page.
//! - `tls`: `Tls`, certificates for any listener, by rustls, reloaded while serving.
//! - `proxy-protocol`: `ProxyProtocol`, the client's own address behind HAProxy and other load balancers.
//! - `systemd`: `systemd::sockets`, the sockets that systemd has opened, by name; `systemd::Notifier`, which tells
//!   systemd when a service is ready, what it is doing, and that it is alive (Linux).
//! - `upgrade`: `upgrade::Upgrade`, the next generation of a program takes over the listening sockets once it is ready,
//!   and only then does the old one drain (Unix).
//!
//! # The runtime
//!
//! Sockets and timers are async-io's, which works beside every executor. [`Server::executor`] and [`TaskGroup::on`]
//! give a server or a group an executor of yours, such as tokio's. Everything that is spawned there uses it, and so do
//! the servers and groups that are made there. smol's own executor has one thread unless `SMOL_THREADS` is set;
//! async-std's has one for each core unless `ASYNC_STD_THREAD_COUNT` is set.
//!
//! async-std is unmaintained since March 2025 (RUSTSEC-2025-0052). The parts that do its work, async-io, async-executor
//! and polling, are maintained by the smol project. The README explains what that means for users of this crate.

#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))] // on docs.rs: a badge on each item that needs a feature or a system

mod address;
#[cfg(feature = "admin")]
pub mod admin;
mod bind_addrs;
mod connection;
mod error;
mod framing;
mod group;
mod handler;
#[cfg(feature = "http")]
pub mod http;
mod limits;
mod listener;
mod origin;
mod panic;
#[cfg(feature = "proxy-protocol")]
mod proxy;
#[cfg(test)]
mod random_bytes;
mod run;
mod runtime;
mod server;
mod services;
pub mod signal;
mod span;
mod sync;
#[cfg(all(feature = "systemd", target_os = "linux"))]
pub mod systemd;
mod text;
#[cfg(feature = "tls")]
mod tls;
mod transport;
#[cfg(all(unix, feature = "upgrade"))]
pub mod upgrade;

pub use address::Address;
pub use bind_addrs::ToBindAddrs;
#[cfg(unix)]
pub use connection::PeerCredentials;
pub use connection::{Connection, Draining};
pub use error::{Error, ErrorKind, OnFailure};
pub use framing::{EofOnDrain, Frames, Lines};
pub use group::{Job, JoinError, JoinHandle, Spawner, TaskGroup, TaskSet};
pub use handler::HandlerOutput;
pub use listener::{Accept, Connector, Keepalive, ListenOptions, Listener, MemoryStream};
#[cfg(feature = "proxy-protocol")]
pub use proxy::{ProxyHeader, ProxyProtocol};
pub use run::counts::Counts;
pub use run::drain_progress::DrainProgress;
pub use run::end_reason::EndReason;
pub use run::event::{Event, EventKind};
pub use run::handle::{Closed, Handle};
pub use run::phase::Phase;
pub use run::phases::{Phases, Reached};
pub use run::registry::{ConnectionId, ConnectionInfo};
pub use run::report::{BoxError, Cause, Report};
pub use run::state::ConnectionState;
pub use run::task_tree::TaskTree;
pub use server::body::BodyOutput;
pub use server::{Serve, Server};
pub use services::{ServiceError, ServiceGroup, ServiceGroupHandle, ServiceReports, Stopping, TaskEnd};
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsFiles};
#[cfg(feature = "tls")]
pub use transport::TlsInfo;

/// Checks of readers that are private, for `fuzz/`.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz {
    macro_rules! checks {
        ($($(#[$attribute:meta])* $name:ident: $check:path;)*) => {
            $($(#[$attribute])* #[allow(missing_docs)] pub fn $name(bytes: &[u8]) { let _ = $check(bytes); })*
        };
    }

    checks! {
        address: crate::bind_addrs::host_port::invariants::check;
        #[cfg(feature = "admin")]
        admin_host: crate::admin::host::invariants::check;
        #[cfg(all(feature = "systemd", target_os = "linux"))]
        listen_fds: crate::systemd::variables::invariants::check;
        #[cfg(all(feature = "systemd", target_os = "linux"))]
        notify_socket: crate::systemd::notify::environment::invariants::check;
        #[cfg(feature = "tls")]
        pem: crate::tls::files::invariants::check;
        #[cfg(feature = "proxy-protocol")]
        proxy_header: crate::proxy::parse::invariants::check;
        #[cfg(all(unix, feature = "upgrade"))]
        upgrade: crate::upgrade::message::invariants::check;
    }
}

/// The TLS library, for [`Tls::from_config`] and the types of [`TlsInfo`] (feature `tls`).
#[cfg(feature = "tls")]
pub use futures_rustls::rustls;

#[cfg(any(doc, doctest))]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

/// The README's examples are compiled with the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
