//! systemd's notification protocol: what a service sends, in which order, to a socket of the test's. The service is a
//! process of its own, because environment variables are the process'.
#![cfg(all(feature = "systemd", target_os = "linux"))]

use crate::support::files::Folder;
use crate::support::process::{
    ANY_PORT, Ended, PATIENCE, Process, part_to_play, print_log, this_binary, with_each_executor,
};
use crate::support::systemd::{Systemd, connect, outside_systemd};
use async_std::channel::{Receiver, Sender, unbounded};
use async_std::prelude::*;
use async_std::task;
use ebbtide::systemd::Notifier;
use ebbtide::{Accept, Address, Connection, Handle, Listener, MemoryStream, Server, signal};
use nix::sys::signal::Signal;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// The grace of the service, in seconds. No test waits for its end.
const GRACE: u64 = 60;

#[test]
fn a_signal_is_sent_as_ready_stopping_with_more_time_and_how_it_ended() {
    stops_in_order("signal", "SIGTERM was received", |service| service.send(Signal::SIGTERM));
}

#[test]
fn a_request_by_a_handle_is_sent_in_that_order() {
    stops_in_order("handle", "a shutdown was requested", |service| service.say("stop"));
}

#[test]
fn a_listener_that_fails_is_sent_in_that_order() {
    stops_in_order("listener", "a listener failed", |service| service.say("stop"));
}

#[test]
fn the_return_of_a_scopes_body_is_sent_in_that_order() {
    stops_in_order("body", "the body returned", |service| service.say("stop"));
}

/// Stops a service that serves one client, which leaves once the drain was sent.
fn stops_in_order(way: &str, because: &str, stop: impl Fn(&mut Process) + Sync) {
    with_each_executor(|start| {
        let systemd = Systemd::new();
        let mut service = start(&mut systemd.service(program(way)));
        let client = connect(&service);
        stop(&mut service);
        systemd.wait_for("STATUS=draining, 1 connection left, ");
        client.shutdown(Shutdown::Write).unwrap();
        let (all, ended) = systemd.all(service);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let all = in_order(
            &all,
            &[
                "READY=1",
                "STATUS=serving, 0 connections",
                "STOPPING=1",
                "EXTEND_TIMEOUT_USEC=",
                "STATUS=draining, 1 connection left, ",
                "STATUS=closed in ",
            ],
        );
        let last = all.last().unwrap();
        assert!(last.contains(because) && last.contains("1 accepted, 1 completed"), "{last}");
        assert_asks_for(&all, GRACE + 5);
    });
}

#[test]
fn a_lame_duck_is_sent_and_is_part_of_the_time_that_systemd_is_asked_for() {
    let systemd = Systemd::new();
    let mut service = Process::start(&mut systemd.service(program("lame duck")));
    systemd.wait_for("READY=1");
    service.say("stop");
    systemd.wait_for("STATUS=lame duck, still accepting, 0 connections, ");
    let (all, _) = systemd.all(service);
    in_order(&all, &["READY=1", "STOPPING=1", "EXTEND_", "STATUS=lame duck", "STATUS=closed in "]);
    assert_asks_for(&all, GRACE + 1 + 5);
}

#[test]
fn a_cancel_and_a_drop_are_sent_before_what_is_left_is_gone() {
    for (way, because) in [("cancel", "because it was cancelled"), ("drop", "because it was dropped")] {
        with_each_executor(|start| {
            let systemd = Systemd::new();
            let mut service = start(&mut systemd.service(program(way)));
            let _client = connect(&service);
            service.say("stop");
            let (all, ended) = systemd.all(service);
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
            let expected = ["READY=1", "STATUS=serving, ", "STOPPING=1", "EXTEND_", "STATUS=closed in "];
            let all = in_order(&all, &expected);
            assert!(all.last().unwrap().contains(because), "{way}: {all:?}");
            assert!(!all.iter().any(|line| line.starts_with("STATUS=draining")), "{all:?}");
            assert_asks_for(&all, 5);
        });
    }
}

#[test]
fn a_server_that_is_dropped_before_it_serves_is_never_ready() {
    let systemd = Systemd::new();
    let service = Process::start(&mut systemd.service(program("unserved")));
    let (all, _) = systemd.all(service);
    in_order(&all, &["STOPPING=1", "STATUS=closed in "]);
    assert!(!all.contains(&"READY=1".to_owned()), "{all:?}");
}

#[test]
fn two_servers_are_ready_when_both_serve_and_stop_when_the_first_is_asked_to() {
    with_each_executor(|start| {
        let systemd = Systemd::new();
        let mut service = start(&mut systemd.service(program("two")));
        service.wait_for("main: serving on ");
        service.say("admin serves");
        systemd.wait_for("READY=1");
        service.say("stop admin");
        systemd.wait_for("STOPPING=1");
        systemd.wait_for("STATUS=main: serving, 0 connections; admin: closed in ");
        service.say("stop main");
        let (all, ended) = systemd.all(service);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let all = in_order(
            &all,
            &[
                "READY=1",
                "STATUS=main: serving, 0 connections; admin: serving, 0 connections",
                "STOPPING=1",
                "STATUS=main: serving, 0 connections; admin: closed in ",
                "STATUS=main: closed in ",
            ],
        );
        assert!(all.last().unwrap().contains("; admin: closed in "), "{all:?}");
        assert_eq!(all.iter().filter(|line| *line == "STOPPING=1").count(), 1, "{all:?}");
    });
}

#[test]
fn a_reload_is_sent_with_the_clock_and_ends_as_ready() {
    let systemd = Systemd::new();
    let mut service = Process::start(&mut systemd.service(program("handle")));
    systemd.wait_for("READY=1");
    service.say("reload");
    systemd.wait_for("RELOADING=1");
    systemd.wait_for("READY=1");
    service.say("stop");
    let (all, _) = systemd.all(service);
    let all = in_order(&all, &["READY=1", "RELOADING=1", "MONOTONIC_USEC=", "STATUS=reloading; serving", "READY=1"]);
    let clock = all.iter().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
    assert!(clock.parse::<u64>().unwrap() > 0, "{clock}");
}

#[test]
fn an_abstract_socket_is_notified() {
    let name = format!("ebbtide-notify-{}", std::process::id());
    let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut service = Process::start(program("handle").env("NOTIFY_SOCKET", format!("@{name}")));
    let mut buf = [0; 4096];
    let n = socket.recv(&mut buf).unwrap();
    assert_eq!(&buf[..n], b"READY=1\nSTATUS=serving, 0 connections\n");
    service.say("stop");
    assert_eq!(service.wait().status.code(), Some(0));
}

#[test]
fn a_socket_that_is_gone_before_the_start_or_during_the_run_is_one_warning() {
    for is_there_first in [false, true] {
        with_each_executor(|start| {
            let mut systemd = Systemd::new();
            let path = systemd.path.clone();
            if !is_there_first {
                systemd.remove();
            }
            let mut service = start(&mut systemd.service(program("handle")));
            service.port();
            if is_there_first {
                systemd.wait_for("READY=1");
                systemd.remove();
            }
            let client = connect(&service);
            service.say("reload");
            service.wait_for("reloaded");
            client.shutdown(Shutdown::Write).unwrap();
            service.say("stop");
            let ended = service.wait();
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
            let what = if is_there_first { "RELOADING, MONOTONIC_USEC, STATUS" } else { "READY, STATUS" };
            let expected = format!(
                "cannot send {what} to systemd at `{}` (`NOTIFY_SOCKET`): No such file or directory (os error 2); \
                 nothing listens there: start this program from a unit with `Type=notify`, or unset `NOTIFY_SOCKET`. \
                 The server goes on and tries again; further failures are not logged",
                path.display()
            );
            assert_warns_once(&ended, &expected);
        });
    }
}

#[test]
fn a_full_socket_blocks_nothing_and_gets_ready_once_it_is_read() {
    for is_read in [false, true] {
        with_each_executor(|start| {
            let folder = Folder::new();
            let path = folder.path("notify.sock");
            let socket = UnixDatagram::bind(&path).unwrap();
            let filler = UnixDatagram::unbound().unwrap();
            filler.set_nonblocking(true).unwrap();
            while filler.send_to(b"x", &path).is_ok() {}
            let mut service = start(program("handle").env("NOTIFY_SOCKET", &path));
            let client = connect(&service);
            if is_read {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut buf = [0; 4096];
                while !buf.starts_with(b"READY=1\n") {
                    socket.recv(&mut buf).unwrap();
                }
            }
            client.shutdown(Shutdown::Write).unwrap();
            service.say("stop");
            let ended = service.wait();
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
            assert_warns_once(&ended, "its receiver does not read, and the socket is full");
        });
    }
}

#[test]
fn the_watchdog_is_notified_while_the_executor_runs_and_not_while_all_its_threads_are_blocked() {
    let systemd = Systemd::new();
    let mut program = systemd.service(program("handle"));
    program.env("ASYNC_STD_THREAD_COUNT", "1").env("SMOL_THREADS", "1").env("WATCHDOG_USEC", "400000");
    let mut service = Process::start(&mut program);
    let mut client = connect(&service);
    for _ in 0..5 {
        systemd.wait_for("WATCHDOG=1");
    }
    client.write_all(b"block").unwrap();
    service.wait_for("blocking");
    // What was sent before arrives, and then nothing: the pauses are half of the 400 ms.
    thread::sleep(Duration::from_millis(500));
    systemd.forget();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(systemd.forget(), [""; 0]);
    service.say("unblock");
    systemd.wait_for("WATCHDOG=1");
    client.shutdown(Shutdown::Write).unwrap();
    service.say("stop");
    let (_, ended) = systemd.all(service);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn the_watchdog_of_another_process_is_left_to_it() {
    let systemd = Systemd::new();
    let mut service =
        Process::start(systemd.service(program("handle")).env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1"));
    let client = connect(&service);
    systemd.wait_for("READY=1");
    client.shutdown(Shutdown::Write).unwrap();
    service.say("stop");
    let (all, _) = systemd.all(service);
    assert!(!all.iter().any(|line| line.starts_with("WATCHDOG")), "{all:?}");
}

#[test]
fn a_wrong_variable_is_an_error_with_its_value_and_outside_systemd_nothing_is_sent() {
    let refused = |program: &mut Command, text: &str| {
        let ended = Process::start(program).wait();
        let expected = format!("error: cannot notify systemd: {text}");
        assert!(ended.stdout.iter().any(|line| line.contains(&expected)), "no `{expected}`: {ended:?}");
    };
    refused(program("handle").env("NOTIFY_SOCKET", "vsock:2:1234"), "`NOTIFY_SOCKET` is `vsock:2:1234`, the host of");
    refused(program("handle").env("NOTIFY_SOCKET", "notify"), "`NOTIFY_SOCKET` is `notify`, which is neither");
    let mut wrong = program("handle");
    wrong.env("NOTIFY_SOCKET", "/run/x").env("WATCHDOG_USEC", "2 s");
    refused(&mut wrong, "`WATCHDOG_USEC` is `2 s`, which is not a number of microseconds");

    let mut service = Process::start(program("handle").env("WATCHDOG_USEC", "2 s"));
    service.port();
    service.say("reload");
    service.say("stop");
    let ended = service.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(!ended.stdout.iter().any(|line| line.starts_with("WARN")), "{ended:?}");
}

fn program(part: &str) -> Command {
    outside_systemd(this_binary(module_path!(), "the_program", part))
}

/// Checks that lines with these beginnings are there in this order, the last of them at the end. Others may be between.
fn in_order(all: &[String], beginnings: &[&str]) -> Vec<String> {
    let mut left: VecDeque<_> = beginnings.iter().collect();
    for line in all {
        if left.front().is_some_and(|beginning| line.starts_with(**beginning)) {
            left.pop_front();
        }
    }
    assert!(left.is_empty(), "no `{}` in its place: {all:#?}", left[0]);
    all.to_vec()
}

/// Checks for how many seconds systemd was first asked, beyond the request.
fn assert_asks_for(all: &[String], seconds: u64) {
    let micros = all.iter().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).expect("systemd is asked");
    let asked = Duration::from_micros(micros.parse().unwrap());
    let most = Duration::from_secs(seconds);
    // Less by the time until it was sent, on a busy machine.
    assert!(asked <= most && asked + Duration::from_secs(10) > most, "{asked:?}, not {most:?}");
}

fn assert_warns_once(ended: &Ended, text: &str) {
    let warnings: Vec<_> = ended.stdout.iter().filter(|line| line.starts_with("WARN")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains(text), "no `{text}`: {warnings:#?} {ended:?}");
}

/// Not a test by itself: the service that the tests run.
#[test]
fn the_program() {
    let Some(part) = part_to_play() else { return };
    println!(); // behind the harness' line
    print_log();
    if let Err(error) = task::block_on(serve(&part)) {
        println!("error: {error}");
    }
    std::process::exit(0);
}

async fn serve(part: &str) -> io::Result<()> {
    let signals = signal::termination()?;
    let notifier = Notifier::from_env()?;
    let (orders, stop) = unbounded();
    let server = Server::bind(ANY_PORT).await?.name("main").grace(Duration::from_secs(GRACE)).shutdown_on(signals);
    let server = server.newcomer_time(Duration::ZERO).notify_systemd(&notifier).notify_systemd(&notifier);
    println!("{server}");
    let reading = notifier.clone();
    thread::spawn(move || read_orders(&reading, &orders)); // until the process ends
    match part {
        "signal" => drop(server.serve(greet).await?),
        "handle" => drop(run(server, stop, |handle| drop(handle.shutdown())).await?),
        "cancel" => drop(run(server, stop, |handle| drop(handle.cancel())).await?),
        "lame duck" => {
            let server = server.lame_duck(Duration::from_secs(1));
            drop(run(server, stop, |handle| drop(handle.shutdown())).await?);
        }
        "body" => drop(server.scope(greet, async |_| _ = stop.recv().await).await?),
        "drop" => {
            let serving = async { drop(server.serve(greet).await) };
            futures_lite::future::or(serving, async { drop(stop.recv().await) }).await;
        }
        "listener" => {
            let address = "127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap();
            let failing = Listener::custom(Address::from(address), Failing(stop));
            let error = server.add_listener(failing).serve(greet).await.unwrap_err();
            println!("{error}");
        }
        "unserved" => drop(server),
        "two" => {
            let admin = Server::bind(ANY_PORT).await?.name("admin").notify_systemd(&notifier);
            let main_handle = server.handle();
            let main = task::spawn(server.serve(greet));
            stop.recv().await.unwrap(); // "admin serves"
            let admin_handle = admin.handle();
            let admin = task::spawn(admin.serve(greet));
            stop.recv().await.unwrap(); // "stop admin"
            admin_handle.shutdown().await;
            stop.recv().await.unwrap(); // "stop main"
            main_handle.shutdown().await;
            main.await?;
            admin.await?;
        }
        other => panic!("no such part: {other}"),
    }
    Ok(())
}

/// Serves until the order to stop, and then until the server is closed.
async fn run(server: Server, stop: Receiver<String>, end: fn(&Handle)) -> io::Result<ebbtide::Report> {
    let handle = server.handle();
    let stopping = task::spawn(async move {
        drop(stop.recv().await);
        end(&handle);
    });
    let report = server.serve(greet).await?;
    stopping.await;
    Ok(report)
}

/// Carries out `reload` and `unblock`, and passes on all other lines of the standard input. It has a thread of its own,
/// which runs while those of the executor are blocked.
fn read_orders(notifier: &Notifier, orders: &Sender<String>) {
    for line in io::stdin().lines().map_while(Result::ok) {
        match line.as_str() {
            "reload" => {
                drop(notifier.reloading());
                println!("reloaded");
            }
            "unblock" => BLOCKED.0.lock().unwrap().send(()).unwrap(),
            _ => orders.try_send(line).unwrap(),
        }
    }
}

/// Greets, and waits for EOF. A client that sends something blocks the thread until the order `unblock`.
async fn greet(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"hello").await?;
    let mut buf = [0; 8];
    while conn.read(&mut buf).await? > 0 {
        println!("blocking");
        BLOCKED.1.lock().unwrap().recv().unwrap();
    }
    Ok(())
}

type Blocked = (std::sync::Mutex<mpsc::Sender<()>>, std::sync::Mutex<mpsc::Receiver<()>>);

static BLOCKED: std::sync::LazyLock<Blocked> = std::sync::LazyLock::new(|| {
    let (send, receive) = mpsc::channel();
    (send.into(), receive.into())
});

/// A listener that fails for good at the order.
struct Failing(Receiver<String>);

impl Accept for Failing {
    type Io = MemoryStream;

    async fn accept(&mut self) -> io::Result<(MemoryStream, Address)> {
        drop(self.0.recv().await);
        Err(io::Error::from_raw_os_error(nix::errno::Errno::EBADF as i32))
    }
}
