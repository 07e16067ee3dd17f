//! A program in which another crate turns on the feature `termination` of `ctrlc`, which takes SIGTERM and SIGHUP with
//! SIGINT: each signal that was not asked for keeps its effect. Features are unified over a whole program, so this is a
//! program of its own.
#![cfg(target_os = "linux")]

use crate::support::process::{Process, other_program};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;

fn start(arguments: &[&str]) -> Process {
    let program = Process::start(other_program("ctrlc_termination").args(arguments));
    program.port();
    program
}

/// It ends by the signal, as a program does that has no handler.
fn ends_by(arguments: &[&str], signal: Signal) {
    let program = start(arguments);
    program.send(signal);
    let ended = program.wait();
    assert_eq!(ended.status.signal(), Some(signal as i32), "{ended:?}");
}

fn drains_at(arguments: &[&str], signal: Signal) {
    let program = start(arguments);
    program.send(signal);
    let ended = program.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.last().unwrap().contains(&format!("because {signal} came")), "{ended:?}");
}

#[test]
fn a_server_that_stops_on_ctrl_c_leaves_sigterm_and_sighup_as_they_are() {
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
fn a_server_that_stops_on_sigterm_leaves_sighup_as_it_is() {
    ends_by(&["termination"], Signal::SIGHUP);
    drains_at(&["termination"], Signal::SIGTERM);
    drains_at(&["termination"], Signal::SIGINT);
}

#[test]
fn a_handler_of_the_programs_own_keeps_sighup() {
    for signals in ["ctrl_c", "termination"] {
        let program = start(&[signals, "with a handler for SIGHUP"]);
        for n in 1..=3 {
            program.send(Signal::SIGHUP);
            program.wait_for(&format!("own SIGHUP {n}"));
        }
        program.send(Signal::SIGINT);
        let ended = program.wait();
        assert!(ended.stdout.last().unwrap().contains("because SIGINT came"), "{ended:?}");
    }
}
