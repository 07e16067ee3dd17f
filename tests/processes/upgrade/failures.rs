//! Successors that fail or lie, and hand-overs that are dropped: the old generation serves on, or the next one does.

use super::GOODBYE;
use super::{First, SOON, line, program, tcp, until_there};
use crate::support::process::PATIENCE;
use async_std::task;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

#[test]
fn a_successor_that_fails_or_lies_leaves_the_old_generation_serving() {
    task::block_on(async {
        let first = First::start().await;
        let file = first.path.clone();
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let mut closes = Command::new("sh");
        closes.args(["-c", "exec sleep 60 <&-"]);
        let mut fails = Command::new("sh");
        fails.args(["-c", "exit 3"]);
        let table = [
            (Command::new("true"), PATIENCE, "it ended before it was ready (exit status: 0)"),
            (fails, PATIENCE, "it ended before it was ready (exit status: 3)"),
            (closes, PATIENCE, "it closed its connection before it was ready; it was killed"),
            (sleep, SOON, "it was not ready within 400ms (`Upgrade::ready`); it was killed"),
            (program("dies after hello", &file), PATIENCE, "it ended before it was ready (exit status: 7)"),
            (program("dies with the sockets", &file), PATIENCE, "it ended before it was ready (exit status: 8)"),
            (program("is never ready", &file), SOON, "it was not ready within 400ms (`Upgrade::ready`); it was killed"),
            (program("garbage", &file), PATIENCE, "`GET /` is no message of the hand-over"),
            (program("flood", &file), PATIENCE, "is no message of the hand-over"),
            (program("version 9", &file), PATIENCE, "the other generation has version 9"),
            (program("long message", &file), PATIENCE, "expected the message Hello, got Hello with 8000 bytes"),
            (program("ready first", &file), PATIENCE, "expected the message Hello, got Ready"),
            (program("hello twice", &file), PATIENCE, "expected the message Ready, got Hello"),
            (program("ready twice", &file), PATIENCE, "the message Ready with 0 bytes was not expected; it was killed"),
            (program("dies when it is ready", &file), PATIENCE, "before it had taken over (exit status: 11)"),
            (
                program("dies before it takes over", &file),
                PATIENCE,
                "it ended when it was ready, before it had taken over (exit status: 12)",
            ),
            (program("does not take over", &file), PATIENCE, "the message Stop with 0 bytes was not expected"),
            (program("makes blocking", &file), PATIENCE, "it ended before it was ready (exit status: 9)"),
            (program("does not bind", &file), PATIENCE, "it ended before it was ready (exit status: 10)"),
        ];
        for (command, limit, text) in table {
            let shown = format!("{command:?}");
            let error = first.hand_over_fails(command, limit).await;
            assert!(error.to_string().contains(text), "{shown}: no `{text}` in `{error}`");
            first.serves();
        }
        // It serves, and is not ready: no client gets to it.
        let upgrade = first.upgrade.clone().timeout(SOON);
        let serves = program("serves without being ready", &file);
        let failing = task::spawn(async move { upgrade.hand_over(serves).await.unwrap_err() });
        let over = Instant::now() + SOON;
        while Instant::now() < over {
            first.serves();
        }
        let error = failing.await.to_string();
        assert!(error.contains("it was not ready within 400ms (`Upgrade::ready`); it was killed"), "{error}");
        first.serves();
        let error = first.upgrade.hand_over(Command::new("/no/such/program")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().starts_with("cannot start the next generation, `/no/such/program`: No"), "{error}");
        first.serves();
        first.end().await;
    });
}

#[test]
fn a_second_hand_over_while_one_runs_is_an_error_and_a_dropped_one_kills_its_process() {
    task::block_on(async {
        let first = First::start().await;
        let started = first.path.with_extension("started");
        let other = first.upgrade.clone();
        let slow = other.hand_over(program("is never ready", &started));
        let second = async {
            until_there(&started).await;
            let error = first.upgrade.hand_over(Command::new("true")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ResourceBusy, "{error}");
            first.serves();
        };
        futures_lite::future::or(second, async { drop(slow.await) }).await;
        // The drop has killed and waited for it.
        let id: i32 = std::fs::read_to_string(&started).unwrap().parse().unwrap();
        assert!(nix::sys::signal::kill(Pid::from_raw(id), None).is_err(), "process {id} still runs");
        first.serves();
        first.hand_over_fails(Command::new("true"), PATIENCE).await;
        first.end().await;
    });
}

#[test]
fn a_generation_that_is_closed_while_a_hand_over_runs_ends_it_at_once_and_removes_its_file() {
    task::block_on(async {
        let first = First::start().await;
        let file = first.path.with_extension("file");
        let other = first.upgrade.clone();
        let successor = program("is ready when its file is gone", &file);
        let handing = task::spawn(async move { other.hand_over(successor).await });
        until_there(&file).await;
        first.handle.shutdown().await;
        assert!(!first.path.exists(), "the file is still that of the old generation");
        let error = handing.await.unwrap_err(); // although the successor is not ready, and its limit is not over
        assert!(
            error.to_string().contains("a listener of this generation was closed meanwhile; it was killed"),
            "{error}"
        );
        let error = first.upgrade.hand_over(Command::new("true")).await.unwrap_err();
        assert!(error.to_string().contains("no socket is open"), "{error}");
        first.end().await;
    });
}

#[test]
fn once_the_successor_has_taken_over_the_old_generation_accepts_no_client_and_hands_nothing_over() {
    task::block_on(async {
        let first = First::start().await;
        let mut client = BufReader::new(tcp(first.address));
        client.get_mut().write_all(b"one\n").unwrap();
        line(&mut client);
        let successor = first.upgrade.hand_over(program("takes over", &first.path)).await.unwrap();
        // The old one accepts no client any more; it drains the one it has.
        let waiting = TcpStream::connect(first.address).unwrap();
        let error = first.upgrade.hand_over(Command::new("true")).await.unwrap_err();
        let text = format!("process {} has taken over already", successor.id());
        assert!(error.to_string().contains(&text), "{error}");
        client.get_mut().write_all(b"two\n").unwrap();
        assert_eq!(line(&mut client), format!("{} two", std::process::id()));
        first.handle.shutdown().await;
        assert_eq!(line(&mut client), GOODBYE);
        assert_eq!(first.serving.await.accepted(), 1);
        assert!(first.path.exists(), "the file is the successor's");
        waiting.set_nonblocking(true).unwrap();
        let error = (&waiting).read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "the client must wait in the backlog, which the successor has");
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(successor.id()).unwrap()), Signal::SIGKILL).unwrap();
    });
}
