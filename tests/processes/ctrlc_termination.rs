//! A program in which another crate turns on the feature `termination` of `ctrlc`, which takes SIGTERM and SIGHUP
//! together with SIGINT. Each signal that the program has not taken keeps its effect. Cargo unifies features over a
//! whole program, so this is a program of its own.
#![cfg(target_os = "linux")]

use crate::support::process::{Process, other_program};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;

fn start(arguments: &[&str]) -> Process {
    let program = Process::start(other_program("ctrlc_termination").args(arguments));
    program.port();
    program
}

/// Checks that the signal ends the program, as it ends a program without a handler.
fn ends_by(arguments: &[&str], signal: Signal) {
    let program = start(arguments);
    program.send(signal);
    let ended = program.wait();
    assert_eq!(ended.status.signal(), Some(signal as i32), "{ended:?}");
}

/// Checks that the server shuts down on the signal.
fn drains_at(arguments: &[&str], signal: Signal) {
    let program = start(arguments);
    program.send(signal);
    let ended = program.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.last().unwrap().contains(&format!("because {signal} was received")), "{ended:?}");
}

#[test]
fn a_server_that_stops_on_ctrl_c_does_not_change_sigterm_and_sighup() {
    let program = start(&["ctrl_c"]);
    for signal in [Signal::SIGTERM, Signal::SIGHUP] {
        let line = program.wait_for(&format!("INFO {signal}"));
        assert!(line.contains("keeps its effect") && line.contains("`termination`"), "{line}");
    }
    drop(program);
    ends_by(&["ctrl_c"], Signal::SIGTERM);
    ends_by(&["ctrl_c"], Signal::SIGHUP);
    drains_at(&["ctrl_c"], Signal::SIGINT);
}

#[test]
fn a_server_that_stops_on_sigterm_does_not_change_sighup() {
    ends_by(&["termination"], Signal::SIGHUP);
    drains_at(&["termination"], Signal::SIGTERM);
    drains_at(&["termination"], Signal::SIGINT);
}

#[test]
fn the_programs_own_handler_for_sighup_is_still_called_beside_ctrlc() {
    for signals in ["ctrl_c", "termination"] {
        let program = start(&[signals, "with a handler for SIGHUP"]);
        for n in 1..=3 {
            program.send(Signal::SIGHUP);
            program.wait_for(&format!("own SIGHUP {n}"));
        }
        program.send(Signal::SIGINT);
        let ended = program.wait();
        assert!(ended.stdout.last().unwrap().contains("because SIGINT was received"), "{ended:?}");
    }
}
