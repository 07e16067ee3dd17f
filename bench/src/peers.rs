//! The servers that are compared. Each does the same work with the same buffers, and is written as its documentation
//! recommends; except `async_io`, which is a floor.

mod async_io;
mod async_std;
mod ebbtide;
mod epoll;
pub(crate) mod foreign;
mod http;
mod smol;
mod tokio;

use self::tokio::Form;
use crate::args::Args;
use crate::control::{Control, Heap};
use crate::http::{Answer, Version};
use crate::kernel;
use ::socket2::{Domain, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

/// A server, or a task group, that takes part.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Peer {
    Ebbtide,
    /// With `until_draining(read)` in place of `more` and `read`.
    EbbtideUntil,
    /// On a tokio runtime, by `Server::executor` and `TaskGroup::on`.
    EbbtideOnTokio,
    /// With the feature `smol` in place of `async-std`: in a program of its own.
    EbbtideOnSmol,
    /// With the accept loop in `block_on`; and the task groups that need no server.
    Tokio,
    /// With the accept loop in a task.
    TokioSpawned,
    /// On a runtime with one thread.
    TokioCurrentThread,
    /// tokio's other task group; not a server.
    JoinSet,
    /// With the accept loop in `block_on`; and the handles of its tasks.
    AsyncStd,
    /// With the accept loop in a task.
    AsyncStdSpawned,
    Smol,
    AsyncIo,
    Epoll,
    /// async-std's web framework; only a server of HTTP/1.
    Tide,
    Asyncio,
    Go,
}

impl Peer {
    pub(crate) const ALL: [Self; 16] = [
        Self::Ebbtide,
        Self::EbbtideUntil,
        Self::EbbtideOnTokio,
        Self::EbbtideOnSmol,
        Self::Tokio,
        Self::TokioSpawned,
        Self::TokioCurrentThread,
        Self::JoinSet,
        Self::AsyncStd,
        Self::AsyncStdSpawned,
        Self::Smol,
        Self::AsyncIo,
        Self::Epoll,
        Self::Tide,
        Self::Asyncio,
        Self::Go,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ebbtide => "ebbtide",
            Self::EbbtideUntil => "ebbtide-until",
            Self::EbbtideOnTokio => "ebbtide-on-tokio",
            Self::EbbtideOnSmol => "ebbtide-on-smol",
            Self::Tokio => "tokio",
            Self::TokioSpawned => "tokio-spawned",
            Self::TokioCurrentThread => "tokio-current-thread",
            Self::JoinSet => "tokio-joinset",
            Self::AsyncStd => "async-std",
            Self::AsyncStdSpawned => "async-std-spawned",
            Self::Smol => "smol",
            Self::AsyncIo => "async-io",
            Self::Epoll => "epoll",
            Self::Tide => "tide",
            Self::Asyncio => "asyncio",
            Self::Go => "go",
        }
    }

    /// Returns whether this machine has the peer's language.
    pub(crate) fn is_here(self) -> bool {
        match self {
            Self::Asyncio => foreign::python().is_some(),
            Self::Go => foreign::go().is_some(),
            _ => true,
        }
    }

    /// Returns whether the peer can run with so many threads.
    pub(crate) fn has_threads(self, threads: usize) -> bool {
        threads == 1 || !matches!(self, Self::Asyncio | Self::TokioCurrentThread)
    }

    /// The forms of tokio and of async-std. The marks judge by the better of those that took part.
    pub(crate) const TOKIO: &[Self] = &[Self::Tokio, Self::TokioSpawned, Self::TokioCurrentThread];
    pub(crate) const ASYNC_STD: &[Self] = &[Self::AsyncStd, Self::AsyncStdSpawned];

    /// Returns the form of tokio that this peer is; `None` if it is none.
    pub(crate) fn form(self) -> Option<Form> {
        match self {
            Self::Tokio => Some(Form::BlockOn),
            Self::TokioSpawned => Some(Form::Spawned),
            Self::TokioCurrentThread => Some(Form::CurrentThread),
            _ => None,
        }
    }

    /// Returns whether its program takes much longer to build than the short form runs.
    pub(crate) fn is_slow_to_build(self) -> bool {
        self == Self::EbbtideOnSmol
    }

    /// Returns the path of the program that runs the peer.
    pub(crate) fn program(self) -> io::Result<PathBuf> {
        match self {
            Self::EbbtideOnSmol => foreign::twin(foreign::SMOL),
            _ => std::env::current_exe(),
        }
    }

    /// Returns whether this program was built with the executor on which the peer's crate has to run.
    fn has_its_executor(self) -> bool {
        match self {
            Self::Ebbtide | Self::EbbtideUntil => cfg!(feature = "on-async-std"),
            Self::EbbtideOnSmol => cfg!(all(feature = "on-smol", not(feature = "on-async-std"))),
            _ => true,
        }
    }

    /// Returns the environment variable that sets the number of threads of its executor.
    fn variable(self) -> Option<&'static str> {
        match self {
            Self::Ebbtide | Self::EbbtideUntil | Self::AsyncStd | Self::AsyncStdSpawned | Self::Tide => {
                Some("ASYNC_STD_THREAD_COUNT")
            }
            Self::EbbtideOnSmol | Self::Smol | Self::AsyncIo => Some("SMOL_THREADS"),
            Self::Go => Some("GOMAXPROCS"),
            Self::Tokio | Self::TokioSpawned | Self::TokioCurrentThread | Self::JoinSet => None,
            Self::EbbtideOnTokio | Self::Epoll | Self::Asyncio => None,
        }
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|peer| peer.name() == name).ok_or_else(|| format!("there is no peer `{name}`"))
    }
}

/// Builds the Go program and the twins of this program, before anything is measured: the one with the allocator that
/// counts, and the one on smol.
pub(crate) fn build(peers: &[Peer], counted: bool) -> io::Result<()> {
    if peers.contains(&Peer::Go) {
        foreign::build_go()?;
    }
    if peers.contains(&Peer::EbbtideOnSmol) {
        foreign::build_twin(foreign::SMOL, &["--no-default-features", "--features", "on-smol"])?;
    }
    if counted { foreign::build_twin(foreign::COUNTED, &[]) } else { Ok(()) }
}

pub(crate) const OPTIONS: &[&str] = &["threads", "buffer", "cores", "http"];
pub(crate) const FLAGS: &[&str] = &["controlled", "streaming", "tls"];

/// Runs `serve PEER`: listens, prints its address, and serves until it is stopped.
pub(crate) fn serve(args: &Args, heap: Heap) -> Result<(), String> {
    let peer: Peer = args.word(1, "the peer")?.parse()?;
    args.no_words_after(2)?;
    let threads: usize = args.value_or("threads", 1)?;
    let buffer: usize = args.value_or("buffer", 1024)?;
    prepare(peer, threads, args)?;
    let control = || Control::start(args.flag("controlled"), heap);
    let failed = |error| format!("{} could not serve: {error}", peer.name());
    let answer = Answer { streaming: args.flag("streaming") };
    if let Some(version) = args.value::<Version>("http")? {
        return http::serve(peer, version, answer, threads, &control()).map_err(failed);
    }
    if args.flag("tls") {
        return tls(peer, threads, buffer, &control()).map_err(failed);
    }
    let served = match peer {
        Peer::Ebbtide => ebbtide::on_async_std(move |conn| ebbtide::echo_by_more(conn, buffer), &control()),
        Peer::EbbtideUntil => ebbtide::on_async_std(move |conn| ebbtide::echo_until_draining(conn, buffer), &control()),
        Peer::EbbtideOnTokio => ebbtide::on_tokio(threads, move |conn| ebbtide::echo_by_more(conn, buffer), &control()),
        Peer::EbbtideOnSmol => ebbtide::on_smol(move |conn| ebbtide::echo_by_more(conn, buffer), &control()),
        Peer::Tokio => tokio::serve(Form::BlockOn, threads, buffer, &control()),
        Peer::TokioSpawned => tokio::serve(Form::Spawned, threads, buffer, &control()),
        Peer::TokioCurrentThread => tokio::serve(Form::CurrentThread, threads, buffer, &control()),
        Peer::AsyncStd => async_std::serve(false, buffer, &control()),
        Peer::AsyncStdSpawned => async_std::serve(true, buffer, &control()),
        Peer::Smol => smol::serve(buffer, &control()),
        Peer::AsyncIo => async_io::serve(buffer, &control()),
        Peer::Epoll => epoll::serve(threads, buffer, &control()),
        Peer::JoinSet => return Err("a `JoinSet` is not a server".to_owned()),
        Peer::Tide => return Err("tide serves only HTTP".to_owned()),
        Peer::Asyncio | Peer::Go => foreign::serve(peer, buffer, args.flag("controlled")),
    };
    served.map_err(failed)
}

fn tls(peer: Peer, threads: usize, buffer: usize, control: &Control) -> io::Result<()> {
    match (peer, peer.form()) {
        (Peer::Ebbtide, _) => ebbtide::tls(buffer, control),
        (_, Some(form)) => tokio::serve_tls(form, threads, buffer, control),
        _ => Err(io::Error::other("it has no such server")),
    }
}

/// Sets the cores, the limit of open files and the number of threads, before the first thread is started. Fails if
/// this is not the peer's program.
pub(crate) fn prepare(peer: Peer, threads: usize, args: &Args) -> Result<(), String> {
    if !peer.has_its_executor() {
        return Err(format!("this program was built without the executor of {}", peer.name()));
    }
    if let Some(cores) = args.list("cores")? {
        kernel::pin(&cores).map_err(|error| format!("cannot use the cores {cores:?}: {error}"))?;
    }
    kernel::raise_open_files();
    let Some(variable) = peer.variable() else { return Ok(()) };
    if std::env::var(variable).is_ok_and(|value| value == threads.to_string()) {
        return Ok(());
    }
    // A process cannot change its own environment safely, so this program executes itself again.
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let error = Command::new(program).args(std::env::args_os().skip(1)).env(variable, threads.to_string()).exec();
    Err(format!("cannot start again: {error}"))
}

/// The backlog of every server: ebbtide's default.
const BACKLOG: i32 = 4096;

/// Returns the listener of every peer in Rust, with the options that ebbtide's has by default.
pub(crate) fn listener() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // On Linux each connection has it from its listener, without a system call of its own.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
