//! A process that is forked from a server's: the parent's things stay the parent's, and what cannot run in the child
//! says so. The program that forks takes `unsafe`, so it is not in this package.
#![cfg(target_os = "linux")]

use crate::support::files::Folder;
use crate::support::process::{Ended, Process, other_program};
use nix::sys::signal::Signal;
use std::os::unix::net::UnixStream;

/// What the program prints while its child, which does this, and then the server are there; the server serves.
fn serves_after_the_child(does: &str) -> Ended {
    let folder = Folder::new();
    let path = folder.path("forked.sock");
    let server = Process::start(other_program("fork").arg(does).arg(&path));
    server.wait_for("Exited("); // the child
    server.wait_for("Server listening on a socket");
    let client = UnixStream::connect(&path).unwrap_or_else(|error| panic!("the file is gone: {error}: {server}"));
    client.set_read_timeout(Some(crate::support::process::PATIENCE)).unwrap();
    let greeting = std::io::read_to_string(client).unwrap_or_else(|error| panic!("it is deaf: {error}: {server}"));
    assert_eq!(greeting, "hello");
    server.send(Signal::SIGTERM);
    let ended = server.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.last().unwrap().contains("because SIGTERM came"), "{ended:?}");
    assert!(ended.stdout.iter().any(|line| line.starts_with("Exited(") && line.ends_with(", 0)")), "{ended:?}");
    assert!(!path.exists(), "{ended:?}");
    ended
}

fn line<'a>(ended: &'a Ended, beginning: &str) -> &'a str {
    let line = ended.stdout.iter().find(|line| line.starts_with(beginning));
    line.unwrap_or_else(|| panic!("no `{beginning}`: {ended:?}"))
}

#[test]
fn a_child_that_drops_its_copy_of_the_server_removes_no_socket_file() {
    serves_after_the_child("drops the server");
}

#[test]
fn a_child_that_drops_its_copy_of_the_future_leaves_the_parent_serving() {
    serves_after_the_child("drops the future");
}

#[test]
fn serving_in_a_child_is_an_error_that_says_why_and_what_to_do() {
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

fn ends(does: &str) -> Ended {
    let folder = Folder::new();
    let ended = Process::start(other_program("fork").arg(does).arg(folder.path("forked.sock"))).wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    ended
}

#[test]
fn a_child_that_drops_an_inherited_socket_leaves_its_mode_alone() {
    line(&ends("drops an inherited socket"), "non-blocking: true");
}

#[test]
fn a_child_of_a_process_that_has_served_cannot_serve_a_socket_of_its_own_either() {
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
fn a_child_hears_its_signals_by_a_stream_of_its_own_or_of_the_parents() {
    for does in ["takes the signals again", "keeps its stream of signals"] {
        line(&ends(does), "child: SIGTERM");
    }
}

#[test]
fn a_child_that_binds_a_name_gets_an_error_and_does_not_wait_for_the_threads_that_look_it_up() {
    let ended = ends("binds a name");
    let error = line(&ended, "child: cannot bind here: ");
    assert!(error.contains(", in which the runtime ran: "), "{error}");
}
