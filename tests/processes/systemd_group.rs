//! What a `ServiceGroup` sends to systemd: when all has started, at its stop, and for how long it asks, tasks included.
#![cfg(all(feature = "systemd", target_os = "linux"))]

use crate::support::process::{ANY_PORT, Process, part_to_play, print_log, this_binary, with_each_executor};
use crate::support::systemd::{Systemd, connect, outside_systemd};
use async_std::channel::{Receiver, unbounded};
use async_std::prelude::*;
use async_std::task;
use ebbtide::systemd::Notifier;
use ebbtide::{Connection, Server, ServiceGroup, Stopping, signal};
use nix::sys::signal::Signal;
use std::future::pending;
use std::io;
use std::net::Shutdown;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// The grace of the group, in seconds. No test waits for its end.
const GRACE: u64 = 60;

/// The grace of the group that has a task which hangs.
const SHORT: u64 = 2;

/// What systemd is asked for beyond the deadline.
const MARGIN: u64 = 5;

const SERVING: &str =
    "STATUS=health: serving, 0 connections; cleaner: running; main: serving, 0 connections; importer: running";

#[test]
fn a_signal_stops_a_group_with_time_for_its_tasks_and_names_what_is_left() {
    stops("group", |service| service.send(Signal::SIGTERM));
}

#[test]
fn a_handle_stops_a_group_in_the_same_way() {
    stops("group", |service| service.say("stop"));
}

#[test]
fn the_failure_of_a_task_stops_a_group_in_the_same_way() {
    stops("group", |service| service.say("fail"));
}

#[test]
fn a_request_to_one_of_its_servers_stops_a_group_in_the_same_way() {
    stops("group", |service| service.say("stop main"));
}

#[test]
fn a_server_that_has_the_notifier_as_well_changes_nothing() {
    stops("a server has it too", |service| service.say("stop"));
    stops("a server has it too", |service| service.say("stop main"));
}

fn stops(part: &str, stop: impl Fn(&mut Process) + Sync) {
    with_each_executor(|start| {
        let systemd = Systemd::new();
        let mut service = start(&mut systemd.service(program(part)));
        systemd.wait_for("READY=1");
        systemd.wait_for(SERVING);
        let client = connect(&service);
        stop(&mut service);
        systemd.wait_for("STOPPING=1");
        let of = format!(" s of {GRACE} s; health: serving, 0 connections; cleaner: ");
        wait_for_status(&systemd, |left| {
            left.contains(&format!("{of}running; main: draining, 1 connection left, ")) && !left.contains("importer")
        });
        client.shutdown(Shutdown::Write).unwrap();
        wait_for_status(&systemd, |left| left.ends_with(&format!("{of}stopping")));
        service.say("release");
        let (all, ended) = systemd.all(service);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        for once in ["READY=1", "STOPPING=1"] {
            assert_eq!(all.iter().filter(|line| *line == once).count(), 1, "{all:#?}");
        }
        let last = all.last().unwrap();
        assert!(last.starts_with("STATUS=all services ended in "), "{last}");
        assert!(last.contains("; health: closed in ") && last.contains("; cleaner: completed; main: "), "{last}");
        asks_for(&all, GRACE + MARGIN);
    });
}

#[test]
fn a_task_that_hangs_has_time_up_to_the_groups_deadline_and_no_longer() {
    with_each_executor(|start| {
        let systemd = Systemd::new();
        let mut service = start(&mut systemd.service(program("hangs")));
        systemd.wait_for("READY=1");
        service.say("stop");
        wait_for_status(&systemd, |left| left.contains(" s of 2 s; ") && left.ends_with("; cleaner: stopping"));
        let (all, _) = systemd.all(service);
        let last = all.last().unwrap();
        assert!(last.starts_with("STATUS=all services ended in ") && last.contains("cleaner: cancelled"), "{last}");
        asks_for(&all, SHORT + MARGIN);
    });
}

#[test]
fn a_task_that_blocks_its_thread_beyond_the_deadline_gets_no_more_time() {
    let systemd = Systemd::new();
    let mut program = systemd.service(program("blocks"));
    // A thread for the task, and one for the log.
    let mut service = Process::start(program.env("ASYNC_STD_THREAD_COUNT", "3").env("SMOL_THREADS", "3"));
    systemd.wait_for("READY=1");
    service.say("stop");
    wait_for_status(&systemd, |left| left.ends_with("; cleaner: cancelling"));
    service.wait_for_nth(2, "still waiting for the task `cleaner`");
    service.say("unblock");
    let (all, _) = systemd.all(service);
    asks_for(&all, SHORT + MARGIN);
}

#[test]
fn a_group_that_is_cancelled_or_dropped_is_sent_as_stopping_before_its_services_are_gone() {
    for (order, last) in [("cancel", "STATUS=all services ended in "), ("drop", "STATUS=the services were dropped")] {
        with_each_executor(|start| {
            let systemd = Systemd::new();
            let mut service = start(&mut systemd.service(program("group")));
            systemd.wait_for("READY=1");
            let _client = connect(&service);
            service.say(order);
            systemd.wait_for("STOPPING=1");
            systemd.wait_for("STATUS=cancelling; health: ");
            let (all, ended) = systemd.all(service);
            assert_eq!(ended.status.code(), Some(0), "{ended:?}");
            assert!(all.last().unwrap().starts_with(last), "{order}: {all:#?}");
            asks_for(&all, MARGIN);
        });
    }
}

#[test]
fn a_group_that_is_dropped_before_it_runs_is_never_ready() {
    let systemd = Systemd::new();
    let service = Process::start(&mut systemd.service(program("never runs")));
    let (all, _) = systemd.all(service);
    assert_eq!(all[0], "STOPPING=1", "{all:#?}");
    assert!(!all.contains(&"READY=1".to_owned()), "{all:#?}");
}

#[test]
fn a_group_is_ready_only_when_a_server_outside_of_it_serves_too() {
    let systemd = Systemd::new();
    let mut service = Process::start(&mut systemd.service(program("one outside")));
    service.wait_for("the task runs");
    service.say("outside serves");
    systemd.wait_for("READY=1");
    let line = systemd.wait_for("STATUS=");
    assert_eq!(line, "STATUS=outside: serving, 0 connections; waits: running");
    service.say("stop");
    let (all, _) = systemd.all(service);
    assert_eq!(all[0], "READY=1", "{all:#?}");
}

#[test]
fn a_group_of_tasks_alone_serves_the_watchdog() {
    with_each_executor(|start| {
        let systemd = Systemd::new();
        let mut service = start(systemd.service(program("only tasks")).env("WATCHDOG_USEC", "400000"));
        systemd.wait_for("READY=1");
        for _ in 0..4 {
            systemd.wait_for("WATCHDOG=1");
        }
        service.say("stop");
        let (all, ended) = systemd.all(service);
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(all.last().unwrap().ends_with("; waits: completed"), "{all:#?}");
    });
}

#[test]
fn a_notify_socket_that_is_gone_stops_nothing_in_a_group_and_is_one_warning() {
    with_each_executor(|start| {
        let mut systemd = Systemd::new();
        systemd.remove();
        let mut service = start(&mut systemd.service(program("group")));
        let client = connect(&service);
        client.shutdown(Shutdown::Write).unwrap();
        service.say("release");
        service.say("stop");
        let ended = service.wait();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let warnings: Vec<_> = ended.stdout.iter().filter(|line| line.starts_with("WARN")).collect();
        assert!(warnings.len() == 1 && warnings[0].contains("cannot send READY, STATUS to systemd"), "{ended:?}");
    });
}

/// Waits for a status that is as wanted.
fn wait_for_status(systemd: &Systemd, is_wanted: impl Fn(&str) -> bool) {
    while !is_wanted(&systemd.wait_for("STATUS=")) {}
}

/// Checks that the longest time for which systemd was asked is this one, and that it was not asked again and again.
fn asks_for(all: &[String], seconds: u64) {
    let asked = all.iter().filter_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
    let asked: Vec<_> = asked.map(|micros| Duration::from_micros(micros.parse().unwrap())).collect();
    let (longest, most) = (*asked.iter().max().expect("systemd is asked"), Duration::from_secs(seconds));
    // Less by the time until it was sent, on a busy machine.
    assert!(longest <= most && longest + Duration::from_secs(10) > most, "{asked:?}, not {most:?}");
    assert!(asked.len() <= 3, "{asked:?}");
}

fn program(part: &str) -> Command {
    outside_systemd(this_binary(module_path!(), "the_program", part))
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
    let notifier = Notifier::from_env()?;
    match part {
        "only tasks" => {
            let group = ServiceGroup::new().notify_systemd(&notifier).task("waits", async |stopping: Stopping| {
                stopping.await;
            });
            let (stop, next) = (group.handle(), orders());
            let stopping = task::spawn(async move {
                next.recv().await.unwrap();
                stop.shutdown();
            });
            group.run().await?;
            stopping.await;
        }
        "one outside" => {
            let outside = Server::bind(ANY_PORT).await?.name("outside").notify_systemd(&notifier);
            let group = ServiceGroup::new().task("waits", async |stopping: Stopping| {
                println!("the task runs");
                stopping.await;
            });
            let group = group.notify_systemd(&notifier);
            let (next, stop) = (orders(), group.handle());
            let running = task::spawn(group.run());
            next.recv().await.unwrap(); // "outside serves"
            let handle = outside.handle();
            let serving = task::spawn(outside.serve(greet));
            next.recv().await.unwrap(); // "stop"
            stop.shutdown();
            running.await?;
            handle.shutdown().await;
            serving.await?;
        }
        "never runs" => {
            let server = Server::bind(ANY_PORT).await?.serve(greet);
            drop(ServiceGroup::new().notify_systemd(&notifier).server(server));
        }
        part => group(part, &notifier).await?,
    }
    Ok(())
}

/// A group of four services. The task `cleaner` needs the order `release` to end, or hangs, or blocks its thread.
async fn group(part: &str, notifier: &Notifier) -> io::Result<()> {
    let signals = signal::termination()?;
    let health = Server::bind(ANY_PORT).await?.name("health");
    let mut main = Server::bind(ANY_PORT).await?.name("main").newcomer_time(Duration::ZERO);
    if part == "a server has it too" {
        main = main.notify_systemd(notifier);
    }
    println!("{main}");
    let (main_handle, main) = (main.handle(), main.serve(greet));
    let (release, released) = unbounded();
    let (fail, fails) = unbounded::<()>();
    let (unblock, unblocked) = mpsc::channel::<()>();
    let (what, unblocked) = (part.to_owned(), Arc::new(Mutex::new(unblocked)));
    let cleaner = async move |stopping: Stopping| {
        stopping.await;
        match &*what {
            "hangs" => pending().await,
            "blocks" => drop(unblocked.lock().unwrap().recv()),
            _ => drop(released.recv().await),
        }
    };
    let importer = async move |stopping: Stopping| match stopping.until(fails.recv()).await {
        Some(_) => Err("as ordered"),
        None => Ok(()),
    };
    let grace = if ["hangs", "blocks"].contains(&part) { SHORT } else { GRACE };
    let group = ServiceGroup::new().grace(Duration::from_secs(grace)).shutdown_on(signals).server(health.serve(greet));
    let group = group.task("cleaner", cleaner).notify_systemd(notifier).notify_systemd(notifier);
    let group = group.server(main).task("importer", importer);
    let (stop, next) = (group.handle(), orders());
    let (drop_group, dropped) = unbounded::<()>();
    let ordered = task::spawn(async move {
        while let Ok(order) = next.recv().await {
            match order.as_str() {
                "stop" => stop.shutdown(),
                "cancel" => stop.cancel(),
                "stop main" => drop(main_handle.shutdown()),
                "fail" => fail.send(()).await.unwrap(),
                "release" => release.send(()).await.unwrap(),
                "unblock" => unblock.send(()).unwrap(),
                "drop" => drop_group.send(()).await.unwrap(),
                other => panic!("no such order: {other}"),
            }
        }
    });
    let run = async { group.run().await.map(drop) };
    let until_dropped = async {
        let _ordered = dropped.recv().await;
        Ok(())
    };
    let ended = futures_lite::future::or(run, until_dropped).await;
    drop(ordered);
    Ok(ended?)
}

/// Returns the lines of the standard input.
fn orders() -> Receiver<String> {
    let (send, orders) = unbounded();
    std::thread::spawn(move || {
        io::stdin().lines().map_while(Result::ok).for_each(|line| _ = send.try_send(line)); // until the process ends
    });
    orders
}

/// Greets, and waits for EOF.
async fn greet(mut conn: Connection) -> io::Result<()> {
    conn.write_all(b"hello").await?;
    while conn.read(&mut [0; 8]).await? > 0 {}
    Ok(())
}
