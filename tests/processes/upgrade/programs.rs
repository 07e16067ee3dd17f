//! The programs that the tests start: generations of a service.

use super::liar::liar;
use super::{FILE, answer, program};
use crate::support::process::{part_to_play, print_log};
use async_std::task;
use ebbtide::upgrade::Upgrade;
use ebbtide::{ListenOptions, signal};
use futures_lite::StreamExt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::time::Duration;

/// The number of a generation, from 0.
const GENERATION: &str = "EBBTIDE_TEST_GENERATION";

/// Not a test by itself: the programs that the tests start.
#[test]
fn the_program() {
    let Some(part) = part_to_play() else { return };
    let file = PathBuf::from(std::env::var_os(FILE).unwrap_or_default());
    print_log();
    let done = match part.as_str() {
        "generation" => task::block_on(generation(&file, "generation")),
        "generation before one that waits" => {
            std::fs::write(file.with_extension("wait"), "").unwrap();
            task::block_on(generation(&file, "waits for its file"))
        }
        "waits" => task::block_on(waits(None, &file)),
        "waits for its file" => task::block_on(waits(Some(&file), &file.with_extension("wait"))),
        "has another mode" => task::block_on(has_another_mode(&file)),
        "binds again after an error" => task::block_on(binds_again(&file)),
        "adds IPv6" => task::block_on(adds_ipv6(&file)),
        "adds an address" => task::block_on(adds_an_address(&file)),
        "hands over twice" => task::block_on(hands_over_twice()),
        "drops ready" => task::block_on(drops_ready(&file)),
        "shuts down first" => task::block_on(shuts_down_first(&file)),
        "ends at some moment" => task::block_on(ends_at_some_moment(&file)),
        "binds TCP only" => task::block_on(tcp_only()),
        "serves without being ready" => task::block_on(async {
            let upgrade = Upgrade::from_env()?;
            let server = upgrade.bind("127.0.0.1:0").await?;
            server.serve(answer).await.map(drop).map_err(Into::into)
        }),
        "is it a successor" => match Upgrade::from_env() {
            Ok(upgrade) => {
                println!("successor: {}", upgrade.is_successor());
                Ok(())
            }
            Err(error) => {
                println!("successor: {:?} {error}", error.kind());
                Ok(())
            }
        },
        "dies with the sockets" => {
            let _upgrade = Upgrade::from_env().unwrap();
            exit(8)
        }
        "does not bind" => match task::block_on(async {
            let upgrade = Upgrade::from_env()?;
            let server = upgrade.bind("192.0.2.1:80").await?; // no address of this machine
            upgrade.ready().await.map(|()| server)
        }) {
            Ok(_) => Ok(()),
            Err(_) => exit(10),
        },
        lie => liar(lie, &file),
    };
    if let Err(error) = &done {
        println!("{error}");
    }
    exit(i32::from(done.is_err()));
}

/// A generation of the service, which hands over at each SIGHUP.
async fn generation(path: &Path, part_of_next: &str) -> io::Result<()> {
    let number: usize = std::env::var(GENERATION).map_or(0, |number| number.parse().unwrap());
    let signals = signal::termination()?;
    let mut hangups = signal::hangup()?;
    let upgrade = Upgrade::from_env()?;
    let local = upgrade.listen_unix(path, &ListenOptions::new()).await?;
    let server = upgrade.bind("127.0.0.1:0").await?.add_listener(local).shutdown_on(signals);
    let server = server.grace(Duration::from_secs(60)).newcomer_time(Duration::from_secs(10));
    if number == 0 {
        println!("listens on {}", server.local_addrs().next().unwrap());
    }
    let (_, report) = server
        .scope(answer, async |server| {
            upgrade.ready().await?;
            println!("generation {number} is ready, process {}", std::process::id());
            while server.until_shutdown(hangups.next()).await.is_some() {
                let mut next = program(part_of_next, path);
                next.env(GENERATION, (number + 1).to_string());
                match upgrade.hand_over(next).await {
                    Ok(_) => break,
                    Err(error) => println!("{error}"),
                }
            }
            Ok(())
        })
        .await?;
    println!("generation {number} has ended: {report}");
    Ok(())
}

async fn tcp_only() -> io::Result<()> {
    let upgrade = Upgrade::from_env()?;
    let own = std::fs::read_link("/proc/self/fd/0").ok();
    let parents = std::fs::read_link(format!("/proc/{}/fd/0", std::os::unix::process::parent_id())).ok();
    println!("its standard input is that of the previous generation: {}", own == parents);
    let server = upgrade.bind("127.0.0.1:0").await?;
    let second = Upgrade::from_env().map(|second| second.is_successor()).map_err(|error| error.to_string());
    println!("a second one: {second:?}");
    let child = program("is it a successor", Path::new("")).output()?;
    let child = String::from_utf8_lossy(&child.stdout).into_owned();
    println!("its child is a {}", child.lines().find(|line| line.starts_with("successor")).unwrap_or(&child));
    server
        .scope(answer, async |handle| {
            upgrade.ready().await?;
            handle.closed().await;
            Ok(())
        })
        .await?;
    Ok(())
}

/// A successor that is ready when a file is gone.
async fn waits(unix: Option<&Path>, file: &Path) -> io::Result<()> {
    let signals = signal::termination()?;
    let upgrade = Upgrade::from_env()?;
    let mut server = upgrade.bind("127.0.0.1:0").await?.shutdown_on(signals);
    if let Some(path) = unix {
        server = server.add_listener(upgrade.listen_unix(path, &ListenOptions::new()).await?);
    }
    let (_, report) = server
        .scope(answer, async |server| {
            println!("the successor waits, process {}", std::process::id());
            until_gone(file).await;
            let (mut ready, mut polls) = (Box::pin(upgrade.ready()), 0);
            std::future::poll_fn(|cx| {
                polls += 1;
                ready.as_mut().poll(cx)
            })
            .await?;
            println!("`ready` was polled {polls} times");
            server.until_shutdown(std::future::pending::<()>()).await;
            Ok(())
        })
        .await?;
    println!("the successor has ended: {report}");
    Ok(())
}

async fn until_gone(file: &Path) {
    while file.exists() {
        task::sleep(Duration::from_millis(2)).await;
    }
}

/// Polls `ready` once, and drops it when a file is gone.
async fn drops_ready(file: &Path) -> io::Result<()> {
    let signals = signal::termination()?;
    let upgrade = Upgrade::from_env()?;
    let server = upgrade.bind("127.0.0.1:0").await?.shutdown_on(signals);
    server
        .scope(answer, async |server| {
            println!("the successor waits");
            let mut ready = Box::pin(upgrade.ready());
            assert!(futures_lite::future::poll_once(&mut ready).await.is_none());
            until_gone(file).await;
            drop(ready);
            println!("dropped");
            upgrade.ready().await?;
            server.until_shutdown(std::future::pending::<()>()).await;
            Ok(())
        })
        .await?;
    Ok(())
}

async fn shuts_down_first(path: &Path) -> io::Result<()> {
    let upgrade = Upgrade::from_env()?;
    let local = upgrade.listen_unix(path, &ListenOptions::new()).await?;
    let server = upgrade.bind("127.0.0.1:0").await?.add_listener(local);
    server
        .scope(answer, async |server| {
            server.shutdown().await;
            upgrade.ready().await?;
            Ok(())
        })
        .await?;
    Ok(())
}

/// A successor that kills or stops itself at some moment.
async fn ends_at_some_moment(path: &Path) -> io::Result<()> {
    if let (Ok(signal), Ok(delay)) = (std::env::var("EBBTIDE_TEST_SIGNAL"), std::env::var("EBBTIDE_TEST_DELAY")) {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(delay.parse().unwrap()));
            nix::sys::signal::raise(signal.parse().unwrap()).unwrap();
        });
    }
    let upgrade = Upgrade::from_env()?;
    let local = upgrade.listen_unix(path, &ListenOptions::new()).await?;
    let server = upgrade.bind("127.0.0.1:0").await?.add_listener(local);
    server
        .scope(answer, async |server| {
            upgrade.ready().await?;
            server.until_shutdown(std::future::pending::<()>()).await;
            Ok(())
        })
        .await?;
    Ok(())
}

async fn has_another_mode(path: &Path) -> io::Result<()> {
    let upgrade = Upgrade::from_env()?;
    let local = upgrade.listen_unix(path, &ListenOptions::new().mode(0o600)).await?;
    let server = upgrade.bind("127.0.0.1:0").await?.add_listener(local);
    std::fs::write(path.with_extension("started"), "bound")?;
    serve_when_gone(&upgrade, server, &path.with_extension("started")).await
}

/// Serves once a file is gone.
async fn serve_when_gone(upgrade: &Upgrade, server: ebbtide::Server, file: &Path) -> io::Result<()> {
    let body = async |server: ebbtide::Handle| {
        until_gone(file).await;
        upgrade.ready().await?;
        server.until_shutdown(std::future::pending::<()>()).await;
        Ok(())
    };
    server.scope(answer, body).await.map(drop).map_err(Into::into)
}

async fn binds_again(path: &Path) -> io::Result<()> {
    let upgrade = Upgrade::from_env()?;
    let local = upgrade.listen_unix(path, &ListenOptions::new()).await?;
    let both = ["127.0.0.1:0", "192.0.2.1:80"].map(|address| address.parse::<std::net::SocketAddr>().unwrap());
    assert!(upgrade.bind(&both[..]).await.is_err(), "192.0.2.1 is no address of this machine");
    let server = upgrade.bind("127.0.0.1:0").await?.add_listener(local);
    serve_when_gone(&upgrade, server, &path.with_extension("none")).await
}

async fn adds_ipv6(file: &Path) -> io::Result<()> {
    let upgrade = Upgrade::from_env()?;
    let port: u16 = std::fs::read_to_string(file)?.parse().unwrap();
    let both = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
    let server = upgrade.bind(&both.map(|address| address.parse::<std::net::SocketAddr>().unwrap())[..]).await?;
    serve_when_gone(&upgrade, server, &file.with_extension("none")).await
}

async fn adds_an_address(path: &Path) -> io::Result<()> {
    let upgrade = Upgrade::from_env()?;
    let local = upgrade.listen_unix(path, &ListenOptions::new()).await?;
    let server = upgrade.bind("127.0.0.1:0").await?.add_listener(local);
    let new = upgrade.listen("127.0.0.2:0", &ListenOptions::new()).await?.remove(0);
    std::fs::write(path.with_extension("started"), new.local_addr().to_string())?;
    serve_when_gone(&upgrade, server.add_listener(new), &path.with_extension("started")).await
}

/// Hands over to a program that ends, and to one that is killed.
async fn hands_over_twice() -> io::Result<()> {
    let upgrade = Upgrade::from_env()?.timeout(Duration::from_millis(300));
    let _server = upgrade.bind("127.0.0.1:0").await?;
    println!("first: {}", upgrade.hand_over(Command::new("true")).await.unwrap_err());
    let mut sleep = Command::new("sleep");
    sleep.arg("60");
    println!("second: {}", upgrade.hand_over(sleep).await.unwrap_err());
    Ok(())
}
