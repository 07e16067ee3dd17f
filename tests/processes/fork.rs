//! A process that is forked from a server's process. The child does not affect the parent's server, and what cannot run
//! in the child is an error that states the reason. A fork needs `unsafe`, so the program is in a package of its own,
//! `tests/programs`.
#![cfg(target_os = "linux")]

use crate::support::files::Folder;
use crate::support::process::{Ended, Process, other_program};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixStream;

/// Runs the program: its child does `does` and ends, then the parent must still serve a client and stop on SIGTERM.
/// Returns what it has printed.
fn serves_after_the_child(does: &str) -> Ended {
    let folder = Folder::new();
    let path = folder.path("forked.sock");
    let server = Process::start(other_program("fork").arg(does).arg(&path));
    server.wait_for("Exited("); // the child has ended
    server.wait_for("Server listening on a socket");
    let client =
        UnixStream::connect(&path).unwrap_or_else(|error| panic!("the socket file is gone: {error}: {server}"));
    client.set_read_timeout(Some(crate::support::process::PATIENCE)).unwrap();
    let greeting =
        std::io::read_to_string(client).unwrap_or_else(|error| panic!("the parent does not serve: {error}: {server}"));
    assert_eq!(greeting, "hello");
    server.send(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.last().unwrap().contains("because SIGTERM was received"), "{ended:?}");
    assert!(ended.stdout.iter().any(|line| line.starts_with("Exited(") && line.ends_with(", 0)")), "{ended:?}");
    assert!(!path.exists(), "the socket file was left behind: {ended:?}");
    ended
}

/// Returns the line that begins so.
fn line<'a>(ended: &'a Ended, beginning: &str) -> &'a str {
    let line = ended.stdout.iter().find(|line| line.starts_with(beginning));
    line.unwrap_or_else(|| panic!("no `{beginning}`: {ended:?}"))
}

#[test]
fn a_child_that_drops_its_copy_of_the_server_removes_no_socket_file() {
    serves_after_the_child("drops the server");
}

#[test]
fn a_child_that_drops_its_copy_of_the_serve_future_does_not_stop_the_parent() {
    serves_after_the_child("drops the future");
}

#[test]
fn serving_in_a_child_is_an_error_with_the_reason_and_the_remedy() {
    let ended = serves_after_the_child("serves");
    let error = line(&ended, "child: cannot serve on `127.0.0.1:");
    for part in
        ["it was bound in process ", ", forked from that: the threads of async-std do not survive a fork; fork first"]
    {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_body_of_a_scope_does_not_run_in_a_child() {
    let ended = serves_after_the_child("runs the body");
    line(&ended, "child: cannot serve on `127.0.0.1:");
    assert!(!ended.stdout.iter().any(|line| line.contains("the body runs")), "{ended:?}");
}

#[test]
fn a_child_that_drops_its_copy_of_a_hand_over_does_not_end_it_and_cannot_hand_over_itself() {
    let ended = serves_after_the_child("drops a hand-over");
    line(&ended, "child: cannot hand over here: it was bound in process ");
    line(&ended, "child: cannot take over here: it was bound in process ");
    line(&ended, "parent: the hand-over still runs: true");
}

/// Runs a program whose parent ends by itself.
fn ends(does: &str) -> Ended {
    let folder = Folder::new();
    let ended = Process::start(other_program("fork").arg(does).arg(folder.path("forked.sock"))).wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    ended
}

#[test]
fn a_child_that_drops_an_inherited_socket_does_not_change_its_blocking_mode() {
    line(&ends("drops an inherited socket"), "non-blocking: true");
}

#[test]
fn a_child_of_a_process_that_has_served_cannot_serve_a_socket_of_its_own() {
    let ended = ends("serves a socket of its own");
    let error = line(&ended, "child: cannot serve on `127.0.0.1:");
    assert!(error.contains(", in which the runtime ran: "), "{error}");
}

#[test]
fn a_process_that_forks_first_can_serve_in_the_child() {
    let ended = ends("forks first");
    assert!(line(&ended, "child: closed in ").contains("0 accepted"), "{ended:?}");
}

#[test]
fn a_child_receives_its_signals_from_a_stream_of_its_own_or_of_the_parents() {
    for does in ["takes the signals again", "keeps its stream of signals"] {
        line(&ends(does), "child: SIGTERM");
    }
}

#[test]
fn a_child_that_binds_a_name_gets_an_error_and_does_not_wait_for_the_resolvers_threads() {
    let ended = ends("binds a name");
    let error = line(&ended, "child: cannot bind here: ");
    assert!(error.contains(", in which the runtime ran: "), "{error}");
}
