//! A server, and a process that is forked from its process: what the child does with its copy of the server must not
//! affect the parent.
//!
//! Arguments: what the child does, and the path of a socket. When the child has ended, the parent goes on, and in most
//! cases serves until SIGTERM.

use async_std::prelude::*;
use async_std::{future, io, task};
use ebbtide::upgrade::Upgrade;
use ebbtide::{Connection, Listener, Server, signal};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use std::env;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::process::Command;
use std::time::Duration;

/// Runs code in a forked process, which then ends. A value that the child consumes still exists in the parent.
macro_rules! in_a_child {
    ($work:expr) => {
        if is_child() {
            $work;
            std::process::exit(0);
        }
    };
}

fn main() -> io::Result<()> {
    ebbtide_test_programs::print_log();
    let [child, path] = [1, 2].map(|n| env::args().nth(n).expect("two arguments"));
    match child.as_str() {
        "serves" => {
            let server = task::block_on(bind(&path))?;
            in_a_child!(println!("child: {}", task::block_on(server.serve(greet)).unwrap_err()));
            task::block_on(serve_until_sigterm(server))
        }
        "runs the body" => {
            let server = task::block_on(bind(&path))?;
            in_a_child!({
                let scope = server.scope(greet, async |_| println!("child: the body runs"));
                println!("child: {}", task::block_on(scope).unwrap_err());
            });
            task::block_on(serve_until_sigterm(server))
        }
        "drops the server" => {
            let server = task::block_on(bind(&path))?;
            in_a_child!(drop(server));
            task::block_on(serve_until_sigterm(server))
        }
        "drops an inherited socket" => {
            let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
            let listener = Listener::try_from(socket.try_clone()?)?;
            in_a_child!(drop(listener));
            println!("non-blocking: {}", socket2::SockRef::from(&socket).nonblocking()?);
            Ok(())
        }
        "drops a hand-over" => task::block_on(async {
            let signals = signal::termination()?;
            let upgrade = Upgrade::from_env()?;
            let server = upgrade.bind_unix(&path).await?.shutdown_on(signals);
            let mut sleep = Command::new("sleep");
            sleep.arg("60");
            let mut handing = Box::pin(upgrade.hand_over(sleep));
            assert!(future::timeout(Duration::from_millis(500), &mut handing).await.is_err());
            in_a_child!({
                drop(handing);
                println!("child: {}", task::block_on(upgrade.hand_over(Command::new("true"))).unwrap_err());
                println!("child: {}", task::block_on(upgrade.ready()).unwrap_err());
                drop(server);
            });
            let ended = future::timeout(Duration::from_millis(300), &mut handing).await;
            println!("parent: the hand-over still runs: {}", ended.is_err());
            drop(handing);
            serve_until_sigterm(server).await
        }),
        "drops the future" => task::block_on(async {
            let signals = signal::termination()?;
            let server = bind(&path).await?.shutdown_on(signals);
            let mut serving = Box::pin(server.serve(greet));
            assert!(future::timeout(Duration::from_millis(100), &mut serving).await.is_err());
            // When a client has its greeting, the server accepts, and its sockets are in the reactor.
            let greeting = task::spawn_blocking(move || greeting(&path)).await?;
            println!("greeted: {greeting}");
            in_a_child!(drop(serving));
            println!("Server listening on a socket");
            println!("{}", serving.await?);
            Ok(())
        }),
        "serves a socket of its own" => {
            println!("{}", task::block_on(task::block_on(bind(&path))?.shutdown_when(async {}).serve(greet))?);
            in_a_child!({
                let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let server = Server::new(Listener::try_from(socket).unwrap());
                println!("child: {}", task::block_on(server.serve(greet)).unwrap_err());
            });
            Ok(())
        }
        "forks first" => {
            let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
            in_a_child!({
                let server = Server::new(Listener::try_from(socket).unwrap()).shutdown_when(async {});
                println!("child: {}", task::block_on(server.serve(greet)).unwrap());
            });
            Ok(())
        }
        "takes the signals again" => {
            let signals = signal::termination()?;
            in_a_child!({
                let mut again = signal::termination().unwrap();
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
                println!("child: {}", task::block_on(again.next()).unwrap());
            });
            drop(signals);
            Ok(())
        }
        "keeps its stream of signals" => {
            let mut signals = signal::termination()?;
            in_a_child!({
                let waiting = future::timeout(Duration::from_millis(1), signals.next());
                assert!(task::block_on(waiting).is_err());
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
                println!("child: {}", task::block_on(signals.next()).unwrap());
            });
            Ok(())
        }
        "binds a name" => {
            let server = task::block_on(bind(&path))?;
            in_a_child!(println!("child: {}", task::block_on(Server::bind("localhost:0")).unwrap_err()));
            drop(server);
            Ok(())
        }
        other => panic!("the child cannot `{other}`"),
    }
}

async fn bind(path: &str) -> io::Result<Server> {
    Ok(Server::bind("127.0.0.1:0").await?.add_listener(Listener::unix(path)?))
}

/// Serves until SIGTERM.
async fn serve_until_sigterm(server: Server) -> io::Result<()> {
    let signals = signal::termination()?;
    let mut serving = pin!(server.shutdown_on(signals).serve(greet));
    assert!(future::timeout(Duration::from_millis(1), &mut serving).await.is_err());
    println!("Server listening on a socket");
    println!("{}", serving.await?);
    Ok(())
}

async fn greet(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"hello").await
}

fn greeting(path: &str) -> io::Result<String> {
    std::io::read_to_string(UnixStream::connect(path)?)
}

/// Forks, and returns whether this process is the child. The parent waits until the child has ended.
fn is_child() -> bool {
    // SAFETY: POSIX allows only a few calls in a forked child of a program with threads. This child makes more, to show
    // what happens then, and forks while the other threads are idle.
    match unsafe { fork() }.expect("the fork succeeds") {
        ForkResult::Child => true,
        ForkResult::Parent { child } => {
            println!("{:?}", waitpid(child, None).expect("the child ends"));
            false
        }
    }
}
